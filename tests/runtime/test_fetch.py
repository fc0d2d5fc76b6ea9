"""Transfers from a server on this machine, and archives that mean harm."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from runtime.fetch import (
    FetchError,
    check_address,
    check_md5,
    checkpoint_format,
    digest,
    extract,
    fetch,
    size_of,
    unzip,
)
from tests.served import Server, served, tar_of, zip_of

CONTENT = np.random.default_rng(3).bytes(3_000_000)


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as running:
        yield running


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _ignore(done: int, total: int | None) -> None:
    del done, total


def test_whole_file_and_progress(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    seen: list[tuple[int, int | None]] = []
    fetch(f"{server.address}/a.bin", tmp_path / "new" / "a.bin", on_progress=lambda *pair: seen.append(pair))
    assert (tmp_path / "new" / "a.bin").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.bin"]


def test_cut_transfer_resumes_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"], server.cut_at = CONTENT, 1_234_567
    with pytest.raises(FetchError, match=r"ended at 1234567 of 3000000 bytes; run the same command again"):
        fetch(f"{server.address}/a.bin", tmp_path / "a.bin", on_progress=_ignore)
    assert (tmp_path / "a.bin.part").stat().st_size == 1_234_567
    server.cut_at = None
    fetch(f"{server.address}/a.bin", tmp_path / "a.bin", on_progress=_ignore)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1234567-"]


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"], server.ranges = CONTENT, False
    (tmp_path / "a.bin.part").write_bytes(b"something else" * 300_000)
    fetch(f"{server.address}/a.bin", tmp_path / "a.bin", on_progress=_ignore)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_part_that_is_whole_already_is_taken(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    fetch(f"{server.address}/a.bin", tmp_path / "a.bin", on_progress=_ignore)
    assert digest(tmp_path / "a.bin", "md5") == digest_of(CONTENT, tmp_path)


def digest_of(content: bytes, folder: Path) -> str:
    (folder / "again").write_bytes(content)
    return digest(folder / "again", "md5")


def test_part_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"x")
    with pytest.raises(FetchError, match=r"416.*was deleted; run the same command again"):
        fetch(f"{server.address}/a.bin", tmp_path / "a.bin", on_progress=_ignore)
    assert not (tmp_path / "a.bin.part").exists()


@pytest.mark.parametrize(("status", "remedy"), [(503, "again later"), (403, "--mirror"), (404, "--mirror")])
def test_server_errors_are_named(server: Server, tmp_path: Path, status: int, remedy: str) -> None:
    server.files["a.bin"], server.status = CONTENT, status
    with pytest.raises(FetchError, match=f"a.bin: the server answers {status} .*{remedy}"):
        fetch(f"{server.address}/a.bin", tmp_path / "a.bin", on_progress=_ignore)
    assert list(tmp_path.iterdir()) == []


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"Connection refused; run the same command again"):
        fetch("http://127.0.0.1:9/a.bin", tmp_path / "a.bin", on_progress=_ignore)


@pytest.mark.parametrize("url", ["http://example.com/a", "file:///etc/passwd", "ftp://host/a", "https:///a", "a.bin"])
def test_only_https(url: str) -> None:
    with pytest.raises(FetchError, match="only https addresses are fetched"):
        check_address(url)


def test_redirect_away_from_https_is_refused(server: Server, tmp_path: Path) -> None:
    server.redirect = "http://example.com/a.bin"
    with pytest.raises(FetchError, match=r"http://example.com/a.bin: only https"):
        fetch(f"{server.address}/a.bin", tmp_path / "a.bin", on_progress=_ignore)


def test_full_disk_is_said_before_loading(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["a.bin"] = CONTENT
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4_000_000))
    with pytest.raises(FetchError, match=r"0\.01 GB are needed and 0\.00 GB are free; make room"):
        fetch(f"{server.address}/a.bin", tmp_path / "a.bin", on_progress=_ignore, room=2.0)
    assert list(tmp_path.iterdir()) == []


def test_wrong_checksum_names_both_and_deletes(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"abc")
    with pytest.raises(FetchError, match=r"MD5 900150983cd24fb0d6963f7d28e17f72 instead of 0{32}"):
        check_md5(tmp_path / "a.tar", "0" * 32)
    assert not (tmp_path / "a.tar").exists()


def test_extract_leaves_out_what_macos_adds(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(tar_of({"./._T": b"x", "T/a/b.txt": b"hello", "T/a/._b.txt": b"x", "T/c": b"1"}))
    assert extract(tmp_path / "t.tar", tmp_path, "T") == tmp_path / "T"
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["T/a/b.txt", "T/c", "t.tar"]
    assert (tmp_path / "T/a/b.txt").read_bytes() == b"hello"


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../evil", b"x"), "lies outside T/"),
        (("T/../../evil", b"x"), "lies outside T/"),
        (("/tmp/evil", b"x"), "lies outside T/"),
        (("U/evil", b"x"), "lies outside T/"),
        (("T/evil", _special("T/evil", tarfile.SYMTYPE, "/etc")), "a link or a device"),
        (("T/evil", _special("T/evil", tarfile.LNKTYPE, "T/good")), "a link or a device"),
        (("T/evil", _special("T/evil", tarfile.CHRTYPE)), "a link or a device"),
        (("T/evil", _special("T/evil", tarfile.FIFOTYPE)), "a link or a device"),
    ],
)
def test_evil_members_leave_nothing_behind(
    tmp_path: Path, member: tuple[str, bytes | tarfile.TarInfo], message: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "t.tar").write_bytes(tar_of({"T/good": b"1", member[0]: member[1]}))
    with pytest.raises(FetchError, match=message):
        extract(tmp_path / "in" / "t.tar", tmp_path / "in", "T")
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "t.tar"]


@pytest.mark.parametrize(
    ("content", "message"), [(b"no tar" * 500, "cannot be unpacked"), (tar_of({"T": b"a file"}), "holds no folder T")]
)
def test_damaged_archive(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(FetchError, match=message):
        extract(tmp_path / "t.tar", tmp_path, "T")


def test_full_disk_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.tar").write_bytes(tar_of({"T/a": b"1" * 5000}))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4999))
    with pytest.raises(FetchError, match="make room"):
        extract(tmp_path / "t.tar", tmp_path, "T")
    assert not (tmp_path / "T").exists()


def test_checkpoint_formats(tmp_path: Path) -> None:
    tensors = {"w": torch.arange(960.0)}
    torch.save(tensors, tmp_path / "new.pt")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["w"] = np.arange(3)
    formats = [checkpoint_format(tmp_path / name) for name in ("new.pt", "old.pth", "k.h5")]
    assert formats == ["torch", "torch (before 1.6)", "HDF5"]
    damaged = bytearray((tmp_path / "new.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (tmp_path / "damaged.pt").write_bytes(damaged)
    (tmp_path / "page.pt").write_text("<html>sign in</html>")
    for name in ("damaged.pt", "page.pt"):
        with pytest.raises(FetchError, match=f"{name} holds no weights"):
            checkpoint_format(tmp_path / name)


def link_to(target: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo("data/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target.encode()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"good": b"1", "../evil": b"2"}, "lies outside"),
        ({"/evil": b"2"}, "lies outside"),
        ({"a\\..\\evil": b"2"}, "lies outside"),
        ({"good": b"1", "data/link": link_to("/etc/passwd")}, "is a link or a device"),
    ],
)
def test_evil_zips_leave_nothing_behind(tmp_path: Path, members: dict[str, Any], message: str) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of(members))
    with pytest.raises(FetchError, match=message):
        unzip(archive, tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip"]


def test_a_damaged_zip_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    whole = bytearray(zip_of({"a/b.npy": bytes(range(256)) * 99}))
    whole[60] ^= 255
    for content in (bytes(whole), whole[:-30], b"no zip"):
        archive.write_bytes(content)
        with pytest.raises(FetchError, match=r"a.zip cannot be unpacked .*; delete it and fetch it again"):
            unzip(archive, tmp_path)
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip"]


def test_a_length_that_is_none_is_not_believed(server: Server, tmp_path: Path) -> None:
    server.files["a"], server.length = b"abc", "abc"
    fetch(f"{server.address}/a", tmp_path / "a", on_progress=lambda *_: None)
    assert (tmp_path / "a").read_bytes() == b"abc"
    assert size_of(f"{server.address}/a") is None
    server.length = None
    assert size_of(f"{server.address}/a") == 3 and size_of(f"{server.address}/gone") is None
