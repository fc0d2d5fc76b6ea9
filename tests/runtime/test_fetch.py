"""Transfers from a server on this machine, and archives that mean harm."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

import download
from runtime.fetch import FetchError, check_address, check_md5, checkpoint_format, digest, extract, fetch

CONTENT = np.random.default_rng(3).bytes(3_000_000)


@dataclass
class Server:
    """What the server holds and does, and the Range headers that it got."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_at: int | None = None  # closes the connection after so many bytes of a body
    ranges: bool = True
    status: int | None = None
    redirect: str | None = None
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, start = state.files.get(self.path.lstrip("/")), 0
            given = self.headers.get("Range")
            state.asked.append(given)
            if state.redirect:
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.end_headers()
                return
            if state.status or body is None:
                self.send_error(state.status or 404)
                return
            if given and state.ranges:
                start = int(given.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a client that refuses hangs up
                self.wfile.write(body[start : state.cut_at])

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.address = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


def _tar(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


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
    (tmp_path / "t.tar").write_bytes(_tar({"./._T": b"x", "T/a/b.txt": b"hello", "T/a/._b.txt": b"x", "T/c": b"1"}))
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
    (tmp_path / "in" / "t.tar").write_bytes(_tar({"T/good": b"1", member[0]: member[1]}))
    with pytest.raises(FetchError, match=message):
        extract(tmp_path / "in" / "t.tar", tmp_path / "in", "T")
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "t.tar"]


@pytest.mark.parametrize(
    ("content", "message"), [(b"no tar" * 500, "cannot be unpacked"), (_tar({"T": b"a file"}), "holds no folder T")]
)
def test_damaged_archive(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(FetchError, match=message):
        extract(tmp_path / "t.tar", tmp_path, "T")


def test_full_disk_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.tar").write_bytes(_tar({"T/a": b"1" * 5000}))
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


def test_task_from_server_to_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = _tar({"Task04_Hippocampus/dataset.json": b"{}"})
    server.files["Task04_Hippocampus.tar"] = tar
    command = ["--task", "4", "--results", str(tmp_path), "--mirror", server.address + "/"]
    assert download.main(command) == 1  # not the published archive
    assert "instead of 9d24dba78a72977dbd1d2e110310f31b" in capsys.readouterr().err
    monkeypatch.setitem(download.TASKS, "04", ("Task04_Hippocampus", digest_of(tar, tmp_path)))
    assert download.main(command) == 0
    assert (tmp_path / "Task04_Hippocampus" / "dataset.json").read_bytes() == b"{}"
    assert not (tmp_path / "Task04_Hippocampus.tar").exists()
    requests = len(server.asked)
    assert download.main(command) == 0
    assert "is already there" in capsys.readouterr().out
    assert len(server.asked) == requests


def test_weights_from_server(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "w.pth")
    server.files["resnet_50_23dataset.pth"] = (tmp_path / "w.pth").read_bytes()
    name = "medicalnet_resnet50_23dataset"
    assert download.main(["--weights", name, "--results", str(tmp_path), "--mirror", server.address]) == 0
    printed = capsys.readouterr().out
    assert f"SHA-256 {digest(tmp_path / 'w.pth', 'sha256')}" in printed
    assert "licence: MIT" in printed
    assert (tmp_path / "pretrained_weights" / "resnet_50_23dataset.pth").is_file()


def test_weights_behind_a_browser_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--weights", "models_genesis", "--results", str(tmp_path)]
    target = tmp_path / "pretrained_weights" / "Genesis_Chest_CT.pt"
    assert download.main(command) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: models_genesis lies behind a link for browsers: open https://github.com/")
    assert f"put it at {target}" in message
    assert "non-commercial research only" in message
    target.parent.mkdir()
    torch.save({"w": torch.zeros(3)}, target)
    assert download.main(command) == 0
    assert f"{target} is already there" in capsys.readouterr().out


@pytest.mark.parametrize(("flag", "value"), [("--task", "11"), ("--weights", "resnet")])
def test_unknown_names(tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str) -> None:
    assert download.main([flag, value, "--results", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {flag} {value}")


def test_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "fetch", interrupted)
    assert download.main(["--task", "04", "--results", str(tmp_path)]) == 130
    assert "interrupted; run the same command again to continue" in capsys.readouterr().err


def test_list_names_every_task_and_weight(capsys: pytest.CaptureFixture[str]) -> None:
    assert download.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"--task {number:02d}" in printed for number in range(1, 11))
    assert all(f"--weights {name} " in printed for name in download.known_weights())
    assert len(download.known_weights()) == 15
