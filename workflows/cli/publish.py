"""``inference-graphs publish``: copy what readers want of a run into an object store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from workflows.cli.options import AsJson, Folder, console, print_json
from workflows.errors import RunError, SettingsError, StorageFault
from workflows.report.numbers import size
from workflows.storage.object_store import PART_BYTES, StoredFile, absolute, files_below, is_uri, upload
from workflows.storage.run_folder import RunFolder

_FOR_READERS = ("*.parquet", "*.json", "*.csv", "figures/**/*", "site/**/*")
"""Of a run folder: tables, what the run was told and planned, figures, and the site where there is one."""
_AT_ONCE = 8

_Copy = tuple[Path, str]


def publish(
    folder: Folder,
    target: Annotated[str, typer.Argument(metavar="URI", help="Where to, such as s3://bucket/runs/digits.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be copied.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy tables, figures and the site of a run into an object store; columns, word maps and dictionaries stay.

    What is there already and equal is skipped, so the same command goes on where it was stopped, and brings a changed
    run up to date. Nothing is removed there. Credentials and endpoint are those of the environment (AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL). Readers need no project then: DuckDB and pyarrow read the
    tables where they lie.

    Examples:

        inference-graphs publish runs/digits s3://bucket/runs/digits --dry-run

        inference-graphs publish runs/digits s3://bucket/runs/digits
    """
    run, out = RunFolder.open(folder), console(stderr=as_json)
    if not is_uri(target) or target.startswith("http"):
        raise SettingsError(f"publish: must be told a URI that can be written, s3://BUCKET/..., got {target!r}")
    target = absolute(target)
    try:
        held = {file.uri: file for file in files_below(target)}
    except OSError as error:
        raise _failed(target, "listed", error, "correct it, or the access") from None
    every = [(path, f"{target}/{path.relative_to(run.root).as_posix()}") for path in _for_readers(run.root)]
    left = [(path, uri) for path, uri in every if uri not in held or not _is_equal(path, held[uri])]
    copied = sum(path.stat().st_size for path, _ in left)
    if run.is_locked():
        out.print("a driver works on this run: publish again when it is done", highlight=False)
    if dry_run:
        for _, uri in left:
            out.print(escape(uri), highlight=False, soft_wrap=True)
    else:
        _copy(left, copied, out)
    told = f"{len(left)} files, {size(copied)} {'to copy' if dry_run else 'copied'}"
    out.print(f"{told}; {len(every) - len(left)} were there and equal", highlight=False, soft_wrap=True)
    if as_json:
        files = [uri for _, uri in left]
        print_json({"run": str(run.root), "target": target, "copied": not dry_run, "files": files, "bytes": copied})


def _for_readers(root: Path) -> list[Path]:
    found = {path for pattern in _FOR_READERS for path in root.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def _copy(left: Sequence[_Copy], total: int, out: Console) -> None:
    """Raises RunError, StorageFault: a file cannot be copied; those before it are."""
    columns = TextColumn("[bold]publish"), BarColumn(bar_width=30), DownloadColumn(), TimeRemainingColumn()
    with (
        Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        task = bar.add_task("", total=total)
        waiting = {pool.submit(upload, path, uri): (path, uri) for path, uri in left}
        for future in as_completed(waiting):
            path, uri = waiting[future]
            try:
                future.result()
            except OSError as error:
                pool.shutdown(wait=True, cancel_futures=True)
                remedy = "correct the access, and the same command goes on with what is left"
                raise _failed(uri, "written", error, remedy) from None
            bar.advance(task, path.stat().st_size)


def _failed(uri: str, done: str, error: OSError, remedy: str) -> RunError:
    kind = RunError if isinstance(error, FileNotFoundError) else StorageFault
    return kind(f"publish: {uri!r} cannot be {done} ({error.strerror or error}); {remedy}")


def _is_equal(source: Path, stored: StoredFile) -> bool:
    """Whether a file in a store has the content of a local one, told without reading it there.

    By the etag where it is S3's, an MD5 of the content or of the MD5s of its parts; else by the size and by the time:
    the stored one is not older.
    """
    found = source.stat()
    if found.st_size != stored.size:
        return False
    told = re.fullmatch(r'"?([0-9a-f]{32})(-[0-9]+)?"?', stored.etag or "")
    if told is None:
        return stored.modified.timestamp() >= found.st_mtime
    with source.open("rb") as content:
        parts = [hashlib.md5(part, usedforsecurity=False) for part in iter(lambda: content.read(PART_BYTES), b"")]
    if told[2] is None and len(parts) <= 1:
        whole = parts[0] if parts else hashlib.md5(b"", usedforsecurity=False)
    elif told[2] == f"-{len(parts)}":
        whole = hashlib.md5(b"".join(part.digest() for part in parts), usedforsecurity=False)
    else:  # somebody else's parts
        return stored.modified.timestamp() >= found.st_mtime
    return whole.hexdigest() == told[1]
