"""What a plan says it needs, against what the small run really wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.end_to_end.small_digits import activations, stored_maps
from workflows.plan import Plan
from workflows.stages.needs import disk_needs, memory_needs
from workflows.storage.run_folder import RunFolder, size_of


def test_disk_needs_are_the_bytes_of_the_arrays(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    needs = disk_needs(folder.settings(), Plan.read(folder))
    assert needs["activations"] == sum(array.nbytes for array in activations(digits_run).values())
    assert needs["words"] == sum(array.nbytes for array in stored_maps(digits_run).values())


def test_what_was_written_stayed_within_the_plan(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    needs = disk_needs(folder.settings(), Plan.read(folder))
    for artefact, planned in needs.items():
        # Each shard file of up to 25 images has an index and checksums of a few hundred bytes.
        assert size_of(digits_run / artefact) < planned + 2_000 * len(list((digits_run / artefact).rglob("c/*")))


def test_memory_needs_do_not_grow_with_the_images(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    settings, plan = folder.settings(), Plan.read(folder)
    many, more = (
        replace(plan, images=factor * plan.images, train_images=factor * plan.train_images) for factor in (1000, 4000)
    )
    assert memory_needs(settings, many, actors=4) == memory_needs(settings, more, actors=4)
    assert sum(memory_needs(settings, many, actors=8).values()) > sum(memory_needs(settings, many, actors=2).values())
