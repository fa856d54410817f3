"""What a plan says it needs, against what the small run really wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from gmm_ops.graphs.windows import Window
from tests.end_to_end.small_digits import activations, stored_maps
from workflows.cli.options import find_preset
from workflows.fits.needs import disk_needs, least_assigned, least_labels, memory_needs, words_bytes
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scopes import known_scopes
from workflows.settings import Settings, load_settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder, size_of
from workflows.storage.states import load_state


def test_disk_needs_are_the_bytes_of_the_arrays(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    needs = disk_needs(folder.settings(), Plan.read(folder))
    assert needs["activations"] == sum(array.nbytes for array in activations(digits_run).values())
    assert needs["words"] == sum(array.nbytes for array in stored_maps(digits_run).values())


def test_what_was_written_stayed_within_the_plan(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    needs = disk_needs(folder.settings(), Plan.read(folder))
    for artefact in ("activations", "words"):
        planned = needs[artefact]
        # Each shard file of up to 25 images has an index and checksums of a few hundred bytes.
        assert size_of(digits_run / artefact) < planned + 2_000 * len(list((digits_run / artefact).rglob("c/*")))


def test_the_dictionaries_are_in_the_plan(digits_run: Path) -> None:
    """Beside means and variances a file has three numbers a word and one a unit."""
    folder = RunFolder.open(digits_run)
    settings, plan = folder.settings(), Plan.read(folder)
    arrays = [load_state(folder.mixture("joint", layer.name)) for layer in plan.layers]
    written = sum(found[name].nbytes for found in arrays for name in ("mean", "variance"))
    assert disk_needs(settings, plan)["mixtures"] == written
    assert disk_needs(settings, plan, labels=[10, 3, 1])["mixtures"] == 3 * written


def test_the_papers_preset_needs_two_dictionaries_a_class() -> None:
    settings = asked("imagenet_resnet50", ["class"], ["all"])
    widths = zip((256, 512, 1024, 2048), settings.fit.words, strict=True)
    layers = tuple(LayerPlan(f"{k}", "", d, 1, 1, k, 1, None, Window.whole()) for d, k in widths)
    plan = Plan(layers, tuple(f"class {label}" for label in range(1000)), 1000, 900, 224, 224, "w.pt")
    of_scopes = least_labels(settings, plan, [])
    assert of_scopes == [1] * 1000
    needed = disk_needs(settings, plan, labels=of_scopes)["mixtures"]
    assert round(needed / 1e9) == 117


def test_a_named_class_counts_its_images_before_its_neighbours(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    plan = Plan.read(folder)
    labels = ImageColumns.read(folder, 0, plan.images).label
    counts = np.bincount(labels)

    def least(scopes: list[str], classes: list[str]) -> int:
        settings = asked("digits", scopes, classes)
        return least_assigned(settings, plan, known_scopes(settings, plan), labels)

    assert least(["class"], ["3"]) == counts[3] < len(labels) / 5
    assert least(["class"], ["3", "8", "8"]) == counts[3] + counts[8]
    assert least(["joint", "class"], ["3"]) == len(labels) + counts[3]
    assert least(["class"], ["all"]) == least(["class"], ["3", "all"]) == len(labels)
    assert least(["joint"], ["3"]) == len(labels)


def asked(preset: str, scopes: list[str], classes: list[str]) -> Settings:
    return load_settings(find_preset(preset), [f"fit.scopes={scopes}", f"mine.classes={classes}"])


def readers(needs: dict[str, int]) -> int:
    """Bytes of the readers of whole maps, where nothing is wider."""
    return next(size for title, size in needs.items() if "readers of whole maps" in title)


def test_readers_hold_maps_of_one_scope_or_of_all_when_run_again(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    settings, plan = folder.settings(), Plan.read(folder)
    # So many positions that word maps outweigh everything else, and one stored column a map in the other stages.
    wide = tuple(replace(layer, units=1, height=512, width=512, stored=1) for layer in plan.layers)
    sampled = replace(plan, layers=wide)
    few, many = (readers(memory_needs(settings, sampled, 1, 1, images)) for images in (25, 2_500))
    assert many - few == words_bytes(sampled, 2_500 - 25)
    assert readers(memory_needs(settings, sampled, 1, 1)) == few, "a scope of all classes has all images of a shard"
    whole = replace(plan, layers=tuple(replace(layer, stored=layer.positions) for layer in wide))
    assert memory_needs(settings, whole, 1, 1, 25) == memory_needs(settings, whole, 1, 1, 2_500)


def test_memory_needs_do_not_grow_with_the_images(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    settings, plan = folder.settings(), Plan.read(folder)
    many, more = (
        replace(plan, images=factor * plan.images, train_images=factor * plan.train_images) for factor in (1000, 4000)
    )
    assert memory_needs(settings, many, actors=4) == memory_needs(settings, more, actors=4)
    assert sum(memory_needs(settings, many, actors=8).values()) > sum(memory_needs(settings, many, actors=2).values())
