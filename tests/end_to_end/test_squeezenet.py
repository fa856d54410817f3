"""SqueezeNet on real photos: the shipped preset through every stage, with fewer zebras and tigers and smaller fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.small_digits import command
from workflows.plan.run_plan import Plan
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

PHOTOS = 40
"""Of each animal; a quarter of them validate."""
FIELDS = ("fit.words=[8,8,12,12]", "fit.epochs=1", "discriminative.epochs=2", "mine.images=['misclassified:2']")


def linked_photos(shared_data: Path, root: Path) -> list[Path]:
    """The thousand single photos as they are, and some photos of each animal, as links."""
    animals = root / "animals"
    for folder in sorted(path for path in (shared_data / "imagenet_animals").iterdir() if path.is_dir()):
        (animals / folder.name).mkdir(parents=True)
        for photo in sorted(folder.glob("*.jpg"))[:PHOTOS]:
            (animals / folder.name / photo.name).symlink_to(photo)
    return [animals, shared_data / "imagenet_one_per_class"]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_preset_explains_zebra_and_tiger(shared_data: Path, tmp_path: Path) -> None:
    folders = [str(folder) for folder in linked_photos(shared_data, tmp_path)]
    weights = shared_data / "weights" / "squeezenet1_0_imagenet.pt"
    fields = [f"data.folders={folders}", f"network.weights={weights}", *FIELDS]
    chosen = [part for field in fields for part in ("--set", field)]
    assert command(["run", "imagenet_squeezenet", "--out", str(tmp_path / "run"), *chosen]) == 0
    folder = RunFolder.open(tmp_path / "run")
    images = read_table(folder.images_table).to_pylist()
    single = [row for row in images if "imagenet_one_per_class" in row["path"]]
    right = sum(row["predicted"] == row["label"] for row in single)
    assert len(single) == 1000
    assert right >= 570, "the weights are right on 57 % of these photos at least"
    layers = Plan.read(folder).layers
    assert [(layer.units, layer.height) for layer in layers] == [(32, 55), (48, 27), (64, 27), (64, 13)]
    nodes = read_table(folder.table("nodes"))
    assert set(nodes["scope"].to_pylist()) == {"list-animals"}
    assert len({graph for graph in nodes["graph"].to_pylist() if graph.startswith("class:")}) == 2
    assert len(list((folder.root / "figures" / "list-animals").glob("class-*.png"))) == 2
