from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from workflows.errors import DataError
from workflows.storage.object_store import (
    absolute,
    download,
    fetched,
    files_below,
    is_uri,
    look_at,
    matching,
    opened,
    read_file,
    upload,
)


@pytest.fixture(scope="module")
def place(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A few small files in a store; the content of each is its name."""
    source = tmp_path_factory.mktemp("files") / "file"
    for name in ("a/1.tar", "a/2.tar", "a/b/3.tar", "a/b/c/4.tar", "a/5.txt", "ab/6.tar", "a/x#y z?.tar"):
        source.write_text(name)
        upload(source, f"{bucket}/store/{name}")
    return f"{bucket}/store"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a/*.tar", ["1.tar", "2.tar", "x#y z?.tar"]),
        ("a/?.tar", ["1.tar", "2.tar"]),
        ("a/**/*.tar", ["1.tar", "2.tar", "3.tar", "4.tar", "x#y z?.tar"]),
        ("a/[!1].tar", ["2.tar"]),
        ("a/{1..2}.tar", ["1.tar", "2.tar"]),
        ("{a,ab}/[16].tar", ["1.tar", "6.tar"]),
        ("*/b/3.tar", ["3.tar"]),
        ("a/1.tar", ["1.tar"]),
        ("a/9.tar", []),
        ("a/{1..9}.txt", ["5.txt"]),
    ],
)
def test_patterns_name_in_a_store_what_they_name_on_disk(
    place: str, tmp_path: Path, pattern: str, names: list[str]
) -> None:
    assert sorted(uri.rpartition("/")[2] for uri in matching(f"{place}/{pattern}")) == names
    for file in files_below(place):
        local = tmp_path / file.uri.removeprefix(f"{place}/")
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(b"")
    assert sorted(Path(path).name for path in matching(f"{tmp_path}/{pattern}")) == names


def test_a_file_is_read_whole_by_ranges_and_by_seeking(bucket: str, tmp_path: Path) -> None:
    content = np.random.default_rng(1).bytes(50_000)
    local, copy, uri = tmp_path / "file", tmp_path / "copy", f"{bucket}/ranges/file"
    local.write_bytes(content)
    upload(local, uri)
    for path in (str(local), uri):
        assert read_file(path) == content
        with opened(path, window=1000) as stream:
            stream.seek(40_000)
            assert stream.read(3000) == content[40_000:43_000]
            stream.seek(10)
            assert stream.read(5) == content[10:15]
            stream.seek(-5, 2)
            assert stream.read() == content[-5:]
    seen, sha256 = download(uri, copy)
    assert fetched(uri, 49_990, 10) == (content[-10:], look_at(uri))
    assert [fetched(uri, *part)[0] for part in ((49_995, 10), (50_000, 10), (10, 0))] == [content[-5:], b"", b""]
    assert copy.read_bytes() == content
    assert sha256 == hashlib.sha256(content).hexdigest()
    assert (seen.size, seen.etag) == (50_000, look_at(uri).etag)
    local.write_bytes(content[::-1])
    upload(local, uri)
    assert look_at(uri).etag != seen.etag


def test_a_file_that_is_replaced_while_it_is_read_is_no_file(bucket: str, tmp_path: Path) -> None:
    local, uri = tmp_path / "file", f"{bucket}/replaced/file"
    local.write_bytes(b"a" * 5000)
    upload(local, uri)
    with opened(uri, window=1000) as stream:
        assert stream.read(1000) == b"a" * 1000
        local.write_bytes(b"b" * 5000)
        upload(local, uri)
        with pytest.raises(OSError, match="another file has taken its place"):
            stream.read(1000)


def test_paths_and_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("s3://pictures/a/") == "s3://pictures/a"
    assert absolute("a/../b") == str(tmp_path / "b")
    assert not any(map(is_uri, ("a:b/c", "bytes:/a/\\xe9", "bytes://a")))
    assert not is_uri("/s3://x")
    with pytest.raises(DataError, match=r"must be a URI like s3://BUCKET/.*, of s3, gs, http.* got ftp:// and 'host'"):
        absolute("ftp://host/a")
    with pytest.raises(DataError, match=r"must be a URI like s3://BUCKET/.* got s3:// and ''"):
        absolute("s3:///a")
    with pytest.raises(DataError, match="files behind http cannot be listed; name each one"):
        matching("https://localhost/a-*.tar")
