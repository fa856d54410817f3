"""Image folders: one folder per class, several roots joined."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from workflows.data.decoding import PictureError, check_readable
from workflows.data.image_files import EXTENSIONS, is_rubbish, stored_files, why_no_image
from workflows.errors import DataError
from workflows.networks.naming import shortened
from workflows.settings import FolderLabel
from workflows.storage.names import readable_name, stored_path
from workflows.storage.object_store import absolute, is_uri, read_file

_BESIDE = "beside the class folders, in none of them"
_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev"))


@dataclass(frozen=True)
class ClassFolder:
    """One class of one root: its folder and the image files in it, at any depth, in natural order.

    Attributes:
        name: of the class, in readable characters.
        folder: absolute path.
        files: relative to ``folder``.
        left_out: files that are no images, by the reason.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def is_deep(self) -> bool:
        """Whether its images lie in several folders of it, and none directly."""
        return len({os.path.dirname(file) for file in self.files} | {""}) > 2 and all("/" in f for f in self.files)


@dataclass(frozen=True)
class FolderListing:
    """The images of every class, by absolute path, and what the user should know of what was left out."""

    classes: dict[str, list[str]]
    notes: tuple[str, ...]


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts ``image2`` before ``image10``."""
    parts = re.split("([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def scan_folders(roots: Sequence[str], field: str = "data.folders", n_threads: int = 4) -> FolderListing:
    """Class name to the paths of its images (``stored_path``), names sorted; roots in the order given.

    Names are listed, pictures are not read, except for one readable picture in every class. Folders in class folders
    are read too, as torchvision's ImageFolder does. Hidden names and what systems leave behind are skipped; other
    files without an image extension, links that lead nowhere and images of no class are left out with a note.

    Raises:
        DataError: a root is missing or holds no class folder, holds splits instead of classes, or a class folder holds
            no readable image.
    """
    absolute_roots = _absolute(roots, field)
    found = [entry for root in absolute_roots for entry in _class_folders(root, field)]
    with ThreadPoolExecutor(n_threads) as pool:
        # Consumed in order, so that the first bad folder is reported whatever the threads do.
        for _ in pool.map(_demand_readable, found):
            pass
    classes: dict[str, list[str]] = {name: [] for name in sorted({entry.name for entry in found})}
    for entry in found:
        classes[entry.name] += [stored_path(os.path.join(entry.folder, file)) for file in entry.files]
    left_out = [pair for root in absolute_roots for pair in _beside(root)]
    left_out += [pair for entry in found for pair in entry.left_out]
    return FolderListing(classes, _notes(field, left_out))


def joined_classes(listing: FolderListing, labels: Sequence[FolderLabel], field: str = "data.folders") -> FolderListing:
    """The same images by label, in the order of the labels; those of folders that no label names are left out.

    Args:
        listing: of class folders.
        labels: at most one takes the rest.
        field: the setting that names the folders.

    Raises:
        DataError: a label names a folder that there is not, or that another label has, or gets no folder.
    """
    owners: dict[str, str] = {}
    for label in labels:
        for name in label.folders:
            if name not in listing.classes:
                near = difflib.get_close_matches(name, listing.classes, n=3)
                offer = f"did you mean {', '.join(near)}?" if near else f"there are {shortened(listing.classes)}"
                raise DataError(
                    f"data.labels: label {label.name!r} must name class folders of {field}, got {name!r}; {offer}"
                )
            if owners.setdefault(name, label.name) != label.name:
                raise DataError(
                    f"data.labels: folder {name!r} must belong to one label, got {owners[name]!r} and {label.name!r}; "
                    "leave it out of one"
                )
    rest = next((label.name for label in labels if label.rest), None)
    others = [name for name in listing.classes if name not in owners]
    if rest is not None and not others:
        raise DataError(
            f"data.labels: label {rest!r} must have class folders of {field} left for it, got none, for every one has "
            "a label; leave it out"
        )
    classes: dict[str, list[str]] = {label.name: [] for label in labels}
    for name, files in listing.classes.items():
        owner = owners.get(name, rest)
        if owner is not None:
            classes[owner] += files
    if others and rest is None:
        images = sum(len(listing.classes[name]) for name in others)
        told = f"{field}: {images} images of {len(others)} class folders that no label names were left out"
        return FolderListing(classes, (*listing.notes, f"{told}; the first is {others[0]!r}"))
    return FolderListing(classes, listing.notes)


def scan_pictures(
    roots: Sequence[str], field: str = "data.folders", endings: Sequence[str] = ()
) -> tuple[list[str], tuple[str, ...]]:
    """Paths of all images below some folders (``stored_path``), in natural order, and what was left out.

    Args:
        roots: the folders.
        field: the setting that names them.
        endings: of the files to read, such as ``.jpg`` where masks lie beside the photos; none: of all images.

    Raises:
        DataError: a root is missing, is named twice, or holds no readable image.
    """
    absolute_roots = _absolute(roots, field)
    found = []
    for root in absolute_roots:
        _demand_folder(root, field, "folders of images")
        found.append(_class_folder(os.path.basename(root), root, {_identity(root)}, endings))
    for entry in found:
        if not entry.files:
            known = ", ".join(endings or sorted(EXTENSIONS))
            raise DataError(
                f"{field}: {entry.folder!r} must hold images (known are {known}), got none; name another folder"
            )
        _demand_readable(entry, "folder")
    paths = [stored_path(os.path.join(entry.folder, file)) for entry in found for file in entry.files]
    return paths, _notes(field, [pair for entry in found for pair in entry.left_out])


def _absolute(roots: Sequence[str], field: str) -> list[str]:
    if not roots:
        raise DataError(f"{field} is empty; give folders that hold one folder of images per class")
    absolute_roots = [absolute(root) for root in roots]
    if len(set(absolute_roots)) < len(roots):
        raise DataError(f"{field} names a folder twice ({', '.join(map(repr, roots))}); every image may occur once")
    return absolute_roots


def _demand_folder(root: str, field: str, wanted: str = "folders that hold one folder per class") -> None:
    if not is_uri(root) and not os.path.isdir(root):
        raise DataError(f"{field}: {root!r} is not a folder; give {wanted}")


def _notes(field: str, left_out: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    if not left_out:
        return ()
    reasons = Counter(reason for _, reason in left_out).most_common()
    shown = ", ".join(f"{count} {reason}" for reason, count in reasons[:6]) + (", ..." if len(reasons) > 6 else "")
    files = "1 file was" if len(left_out) == 1 else f"{len(left_out)} files were"
    return (f"{field}: {files} left out: {shown}; the first is {left_out[0][0]!r}",)


def _class_folders(root: str, field: str) -> list[ClassFolder]:
    _demand_folder(root, field)
    folders = _stored_classes(root) if is_uri(root) else _local_classes(root)
    if not folders:
        raise DataError(f"{field}: {root!r} holds no class folder; put the images of each class in a folder of it")
    _refuse_splits(root, folders, field)
    for folder in folders:
        if not folder.files:
            raise DataError(
                f"class folder {folder.folder!r} holds no image (known are {', '.join(sorted(EXTENSIONS))}); "
                "remove the folder or add images"
            )
    return folders


def _local_classes(root: str) -> list[ClassFolder]:
    with os.scandir(root) as entries:
        names = sorted(
            entry.name for entry in entries if not (is_rubbish(entry.name) or _is_circle(entry)) and entry.is_dir()
        )
    # Links back to the root or across to another class must not make its images those of this class.
    seen = {_identity(folder) for folder in (root, *(os.path.join(root, name) for name in names))}
    return [_class_folder(name, os.path.join(root, name), seen) for name in names]


def _stored_classes(root: str) -> list[ClassFolder]:
    """The same in an object store, of one listing; what lies beside the classes is told with the first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path, reason in stored_files(root):
        name, _, file = path.partition("/")
        found.setdefault(name if file else "", []).append((file or name, reason))
    beside = [(f"{root}/{file}", _BESIDE) for file, reason in found.pop("", ()) if not reason]
    folders: list[ClassFolder] = []
    for name in sorted(found):
        files = sorted((file for file, reason in found[name] if not reason), key=natural_key)
        left_out = sorted((f"{root}/{name}/{file}", reason) for file, reason in found[name] if reason)
        folders.append(ClassFolder(name, f"{root}/{name}", tuple(files), (*([] if folders else beside), *left_out)))
    return folders


def _refuse_splits(root: str, folders: Sequence[ClassFolder], field: str) -> None:
    """Folders in class folders are read, so one folder too high would make classes of splits."""
    splits = [folder.name for folder in folders if folder.name.casefold() in _SPLITS]
    deep = [folder.name for folder in folders if folder.is_deep]
    if len(splits) == len(folders) or len(set(splits) & set(deep)) > 1:
        raise DataError(
            f"{field}: {root!r} holds the folders {', '.join(splits)}, which are splits and no classes: set "
            f"data.folders = [{os.path.join(root, splits[0])!r}], and data.validation to that of the validation images"
        )
    if len(folders) == 1 and deep:
        raise DataError(
            f"{field}: {root!r} holds the single folder {deep[0]!r}, and that several folders of images; if these are "
            f"the classes, set {field} = [{os.path.join(root, deep[0])!r}]"
        )


def _class_folder(name: str, folder: str, seen: set[tuple[int, int]], endings: Sequence[str] = ()) -> ClassFolder:
    files, left_out = [], []
    for path, reason in _walk(folder, "", set(seen)):
        if not reason and endings and os.path.splitext(path)[1].lower() not in endings:
            left_out.append((os.path.join(folder, path), "of another ending than data.endings"))
        elif reason:
            left_out.append((os.path.join(folder, path), reason))
        else:
            files.append(path)
    return ClassFolder(readable_name(name), folder, tuple(sorted(files, key=natural_key)), tuple(sorted(left_out)))


def _walk(folder: str, below: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Every file by its path in the class folder, with the reason why it is left out, or none."""
    if is_uri(folder):
        yield from stored_files(folder)
        return
    with os.scandir(os.path.join(folder, below)) as entries:
        listed = sorted((entry for entry in entries if not is_rubbish(entry.name)), key=lambda entry: entry.name)
    for entry in listed:
        path = os.path.join(below, entry.name)
        if _is_circle(entry):
            yield path, "link that leads in a circle"
        elif entry.is_file():
            yield path, why_no_image(entry.name)
        elif not entry.is_dir():
            yield path, "link that leads nowhere" if entry.is_symlink() else "no regular file"
        elif (identity := _identity(entry.path)) not in seen:
            # A folder is listed once, so a link to a folder above it ends here.
            seen.add(identity)
            yield from _walk(folder, path, seen)


def _is_circle(entry: os.DirEntry[str]) -> bool:
    """Whether a link leads to itself, of which the system says neither that it is a file nor that it is not."""
    try:
        entry.is_file()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return True
    return False


def _identity(folder: str) -> tuple[int, int]:
    if is_uri(folder):  # where nothing is a link
        return 0, 0
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _beside(root: str) -> Iterator[tuple[str, str]]:
    """Pictures that lie beside the class folders on a file system."""
    if is_uri(root):
        return
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if why_no_image(entry.name) or is_rubbish(entry.name) or _is_circle(entry) or not entry.is_file():
                continue
            yield entry.path, _BESIDE


def _demand_readable(entry: ClassFolder, what: str = "class folder") -> None:
    reasons = []
    for file in entry.files:
        try:
            check_readable(read_file(os.path.join(entry.folder, file)))
            return
        except (PictureError, OSError) as error:
            if is_uri(entry.folder) and not isinstance(error, PictureError | FileNotFoundError):
                raise  # the store is away, and would be for the next file
            reasons.append(f"{file}: {error}")
    raise DataError(
        f"{what} {entry.folder!r} holds no readable image: none of its {len(entry.files)} files can be decoded "
        f"({reasons[0]}); remove the folder or add images"
    )
