"""Labels that are missing and scopes that cannot be are refused through the real command, in the index stage."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq

from tests.end_to_end.folder_runs import CLASSES, FolderRun, Refused, assert_nothing_was_made
from tests.end_to_end.small_digits import command
from tests.workflows.data.made_files import IMAGE_TYPE


def labelled_shards(run: FolderRun, labels: pa.Array | None) -> list[str]:
    """Fields of a run on Parquet shards of the run's own pictures, the training shard with these labels or none."""
    files = sorted(run.images.glob("*/*"))
    pictures = pa.array([{"bytes": file.read_bytes(), "path": file.name} for file in files], IMAGE_TYPE)
    right = pa.array([CLASSES.index(file.parent.name) for file in files])
    for name, column in (("train", labels), ("validation", right)):
        columns = {"image": pictures, **({} if column is None else {"label": column})}
        pq.write_table(pa.table(columns), run.root / f"{name}.parquet")
    return [
        "data.source=parquet",
        "data.folders=[]",
        *(f"data.{name}=['{run.root}/{name}.parquet']" for name in ("train", "validation")),
    ]


def test_parquet_without_labels(run: FolderRun, refused: Refused) -> None:
    rows = 6 * len(CLASSES)
    assert command(run.arguments(labelled_shards(run, pa.array([0, 1, 2] * 6)))) == 0
    shutil.rmtree(run.out)
    file = str(run.root / "train.parquet")
    refused(run.arguments(labelled_shards(run, None)), file, "needs a column label of integers", "it has image: struct")
    nothing = pa.array([0] * 4 + [None] * (rows - 4))
    refused(run.arguments(labelled_shards(run, nothing)), f"row 4 of {file!r} has no label; every image needs one")
    names = pa.array(["cat"] * rows)  # names are labels, but not beside the numbers of the validation file
    refused(run.arguments(labelled_shards(run, names)), file, "labels must be of one kind, got texts and numbers")
    lists = pa.array([[0]] * rows)
    refused(run.arguments(labelled_shards(run, lists)), file, "must hold integers", "or names, it holds list")
    unlabelled = pa.array([0] * (rows - 1) + [-1])
    refused(run.arguments(labelled_shards(run, unlabelled)), f"row {rows - 1} of {file!r} has label -1", "0 or above")
    assert_nothing_was_made(run)


def test_an_image_folder_without_labels(run: FolderRun, refused: Refused) -> None:
    for picture in list(run.images.glob("*/*")):
        picture.rename(run.images / f"{picture.parent.name}-{picture.name}")
    for folder in list(run.images.iterdir()):
        if folder.is_dir():
            folder.rmdir()
    words = ("data.folders", str(run.images), "holds no class folder", "put the images of each class in a folder of it")
    refused(run.arguments(), *words)
    assert_nothing_was_made(run)


def listed(*classes: str, rest: bool = False) -> list[str]:
    names = ",".join(f"'{name}'" for name in classes)
    return ["fit.scopes=['list']", f"fit.lists=[{{name='two',classes=[{names}],rest={str(rest).lower()}}}]"]


def test_lists_that_cannot_be(run: FolderRun, refused: Refused) -> None:
    of_list = "fit.lists, list 'two'"
    refused(run.arguments(listed("cat", "dgo")), f"{of_list}: there is no class 'dgo'; did you mean dog?")
    refused(run.arguments(listed("cat", "7")), f"{of_list}: there is no class '7'; ids run from 0 to 2")
    refused(run.arguments(listed("cat", "dog", "cat")), f"{of_list} names class 'cat' twice, as 'cat' and 'cat'")
    refused(run.arguments(listed("dog", "1")), f"{of_list} names class 'dog' twice, as 'dog' and '1': leave one out")
    refused(run.arguments(listed(*CLASSES, rest=True)), f"{of_list} names all 3 classes, so `rest` has none")
    words = ("layer 'add3' has 120 words but only", "training columns", "in scope list-two: lower fit.words")
    refused(run.arguments([*listed("cat", "dog"), "fit.words=[5,120]"]), *words)
    refused(run.arguments([*listed("cat", "dog"), "mine.classes=['fox']"]), "no scope of the run explains 'fox'")
    assert_nothing_was_made(run)


DECIDE = "fit.loss=discriminative"
OFFERED = ("[[fit.lists]] with rest = true", "fit.loss = 'generative'")


def test_a_decision_on_too_few_images(run: FolderRun, refused: Refused) -> None:
    """4 training images a class."""
    words = ("needs 20 training images of every label (fit.min_images)", *OFFERED)
    refused(run.arguments([DECIDE]), "scope joint has 4 of 'cat' (3 of its 3 labels have too few)", *words)
    few = [DECIDE, *listed("cat", "dog", rest=True), "mine.classes=['cat']"]
    refused(run.arguments(few), "scope list-two has 4 of 'cat'", *words)
    refused(run.arguments([DECIDE, *listed("dog"), "fit.min_images=2", "mine.classes=['dog']"]), "only 'dog'", *OFFERED)
    assert_nothing_was_made(run)


def test_a_scope_larger_than_the_labels(run: FolderRun, refused: Refused) -> None:
    """The network tells three classes apart, one of them is in no folder."""
    shutil.rmtree(run.images / "fox")
    (run.root / "names.json").write_text('["cat", "dog", "fox"]')
    fields = [f"data.class_names={run.root / 'names.json'}", "fit.min_images=4"]
    refused(run.arguments([*fields, DECIDE]), "scope joint has 0 of 'fox'; index more images", *OFFERED)
    missing = "scope list-two: no training image has the label 'fox': index images of it, or leave it out of fit.lists"
    refused(run.arguments([*fields, *listed("cat", "fox")]), missing)
    missing = "scope list-two: no training image has the label 'rest'"
    refused(run.arguments([*fields, *listed("cat", "dog", rest=True)]), missing)
    assert command(run.arguments(fields)) == 0, "the likelihood needs no image of a class that nobody asks for"


def test_classes_that_can_have_no_scope_of_their_own(run: FolderRun, refused: Refused) -> None:
    """Known from the labels alone, so it is said before anything is extracted."""
    own = [DECIDE, "fit.scopes=['class']", "mine.classes=['dog']"]
    refused(run.arguments(own), "scope class-1 has 4 of 'dog'; index more images", *OFFERED)
    for picture in sorted((run.images / "dog").iterdir())[1:]:
        picture.unlink()
    own[0] = "fit.loss=generative"
    refused(run.arguments(own), "mine.classes: class 'dog' has no validation image", "no scope class-1", OFFERED[0])
    assert_nothing_was_made(run)
