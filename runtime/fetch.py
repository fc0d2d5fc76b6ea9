"""Fetch a file over HTTPS so that an interrupted transfer goes on, and unpack archives of strangers safely."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

CHUNK = 1 << 20
TIMEOUT_S = 60
TORCH_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

Progress = Callable[[int, int | None], None]


class FetchError(OSError):
    """A transfer, checksum or archive that failed; the message says what to do."""


def fetch(url: str, target: Path, *, on_progress: Progress, room: float = 1.0) -> None:
    """Load ``url`` into ``target`` by way of ``<target>.part``, continuing a part that is there.

    Args:
        url: https, or http on this machine.
        target: takes its name only when every byte has come.
        on_progress: called with the bytes held and, where the server says it, their total.
        room: how many times the file's size must fit on the disk in the end, counting the file.

    Raises:
        FetchError: for addresses that are not https, errors of the server, a cut connection and a full
            disk. What came so far is kept.
    """
    check_address(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    held = part.stat().st_size if part.is_file() else 0
    try:
        with _open(url, held) as response:
            held, total = _offset_and_total(response, held, url)
            require_space(target.parent, int((total or 0) * room) - held)
            with part.open("r+b" if part.exists() else "wb") as stream:
                stream.seek(held)
                stream.truncate()
                for done in _copy(response, stream, held):
                    on_progress(done, total)
    except HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{held}":
            total = held  # every byte had come before
        else:
            if error.code == 416:
                part.unlink()
            raise FetchError(f"{url}: the server answers {error.code} {error.reason}; {_remedy(error.code)}") from error
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise FetchError(f"{url}: {reason}; run the same command again to continue") from error
    done = part.stat().st_size
    if total is not None and done != total:
        raise FetchError(
            f"{url}: the connection ended at {done} of {total} bytes; run the same command again to continue"
        )
    part.replace(target)


def size_of(url: str) -> int | None:
    """Bytes of a file on a server, as it tells them; None where it does not, or cannot be asked."""
    check_address(url)
    try:
        with _open(url, 0) as response:
            return _length(response)
    except (URLError, HTTPException, TimeoutError, ConnectionError):
        return None


def fetch_with_bar(url: str, target: Path, room: float = 1.0) -> None:
    """As :func:`fetch`, with a bar of its progress on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bar(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        line = bar.add_task(target.name, total=None)
        fetch(url, target, on_progress=lambda done, total: bar.update(line, completed=done, total=total), room=room)


def check_address(url: str) -> None:
    """Raises FetchError unless ``url`` is https, or http to this very machine."""
    address = urlsplit(url)
    host = address.hostname or ""
    if address.scheme == "https" and host:
        return
    if address.scheme == "http" and (host == "localhost" or _is_loopback(host)):
        return
    raise FetchError(f"{url}: only https addresses are fetched")


def require_space(folder: Path, needed: int) -> None:
    """Raises FetchError where the disk of ``folder`` has fewer than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchError(f"{folder}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; make room")


def check_md5(path: Path, expected: str) -> None:
    """Raises FetchError, and deletes the file, where its MD5 sum is another."""
    found = digest(path, "md5")
    if found != expected:
        path.unlink()
        raise FetchError(
            f"{path}: MD5 {found} instead of {expected}, so it was deleted; run the same command again to fetch it anew"
        )


def digest(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def checkpoint_format(path: Path) -> str:
    """What kind of weights a file holds, without unpickling it: "torch", "torch (before 1.6)" or "HDF5".

    Raises:
        FetchError: for anything else, such as a web page saved under the file's name, and for a
            torch archive with damaged members.
    """
    with path.open("rb") as stream:
        head = stream.read(len(TORCH_LEGACY_MAGIC))
    if head == TORCH_LEGACY_MAGIC:
        return "torch (before 1.6)"
    if head.startswith(HDF5_MAGIC):
        return "HDF5"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            if damaged is None and any(name.endswith("data.pkl") for name in archive.namelist()):
                return "torch"
    raise FetchError(f"{path} holds no weights of PyTorch or Keras; delete it and fetch it again")


def extract(archive: Path, folder: Path, top: str) -> Path:
    """Unpack a tar whose members lie in the folder ``top`` and return ``folder/top``, whole or not at all.

    Files that macOS adds (``._name``) are left out.

    Raises:
        FetchError: for members outside ``top``, links and devices, for a damaged archive, and where
            the disk is too small. Nothing is left behind.
    """
    target, work = folder / top, folder / f".{top}.unpacking"
    shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed
    try:
        with tarfile.open(archive) as tar:
            members = [member for member in tar if not PurePosixPath(member.name).name.startswith("._")]
            for member in members:
                _check_member(member, top, archive)
            require_space(folder, sum(member.size for member in members))
            work.mkdir(parents=True)
            for member in members:
                _write_member(tar, member, work)
        if not (work / top).is_dir():
            raise FetchError(f"{archive} holds no folder {top}; delete it and fetch it again")
        (work / top).replace(target)
    except (tarfile.TarError, EOFError) as error:
        raise FetchError(f"{archive} cannot be unpacked ({error}); delete it and fetch it again") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def unzip(archive: Path, folder: Path) -> None:
    """Unpack a zip into ``folder``, whole or not at all; what lies there under the same names is replaced.

    Raises:
        FetchError: for members outside the folder and links, for a damaged archive, and where the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / f".{archive.name}.unpacking"
    shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed
    try:
        with zipfile.ZipFile(archive) as members:
            for member in members.infolist():
                _check_zipped(member, archive)
            require_space(folder, sum(member.file_size for member in members.infolist()))
            members.extractall(work)  # which compares the checksums
        for found in sorted(work.rglob("*")):
            if found.is_file():
                target = folder / found.relative_to(work)
                target.parent.mkdir(parents=True, exist_ok=True)
                found.replace(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FetchError(f"{archive} cannot be unpacked ({error}); delete it and fetch it again") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_zipped(member: zipfile.ZipInfo, archive: Path) -> None:
    name = PurePosixPath(member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
        raise FetchError(f"{archive}: member {member.filename!r} lies outside; the archive is not to be trusted")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise FetchError(f"{archive}: member {member.filename!r} is a link or a device; it is not to be trusted")


def _check_member(member: tarfile.TarInfo, top: str, archive: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or (name.parts and name.parts[0] != top):
        raise FetchError(f"{archive}: member {member.name!r} lies outside {top}/; the archive is not to be trusted")
    if not (member.isfile() or member.isdir()):
        raise FetchError(f"{archive}: member {member.name!r} is a link or a device; the archive is not to be trusted")


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, work: Path) -> None:
    """The data filter, in Pythons that have it, drops owners and odd modes; the names are checked already."""
    if hasattr(tarfile, "data_filter"):
        tar.extract(member, work, set_attrs=False, filter="data")
    else:
        tar.extract(member, work, set_attrs=False)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _CheckedRedirects(HTTPRedirectHandler):
    """Follows redirects to addresses that would be fetched in the first place."""

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, held: int) -> Any:
    headers = {"User-Agent": "genesis-pipeline", "Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
    return build_opener(_CheckedRedirects).open(Request(url, headers=headers), timeout=TIMEOUT_S)


def _offset_and_total(response: HTTPResponse, held: int, url: str) -> tuple[int, int | None]:
    """Where the body belongs in the file, and the file's size; a server without Range sends it all again."""
    if response.status != 206:
        return 0, _length(response)
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != held:
        raise FetchError(
            f"{url}: the server sends another range than bytes {held}-; delete the .part file and run again"
        )
    return held, int(match[2])


def _length(response: HTTPResponse) -> int | None:
    """What the server says of the body's length; None where it says nothing that could be one."""
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _copy(response: HTTPResponse, stream: IO[bytes], done: int) -> Iterator[int]:
    """Write the body, yielding the bytes held after each piece."""
    while piece := response.read(CHUNK):
        stream.write(piece)
        done += len(piece)
        yield done


def _remedy(status: int) -> str:
    if status == 416:
        return "the part on the disk did not fit it and was deleted; run the same command again"
    if status in (401, 403, 404, 410):
        return "the publisher may have moved it, give another base address by --mirror"
    return "run the same command again later"
