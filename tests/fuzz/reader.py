"""Reads files in a process with limits, and judges what is accepted."""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import resource
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np

from tests.fuzz.mutations import Mutated
from tests.fuzz.samples import Sample

SECONDS = 10.0
BYTES = 2 << 30
CLEAN = ("refused", "accepted")


@dataclass(frozen=True)
class Verdict:
    """What became of a file.

    Attributes:
        kind: "refused" and "accepted" are right; "wrong", "traceback", "crash" and "hang" are not.
        message: the error's, or what is wrong.
    """

    kind: str
    message: str = ""

    @property
    def good(self) -> bool:
        return self.kind in CLEAN


class Reader:
    """A process that reads one scan after the other, and is replaced when it dies."""

    def __enter__(self) -> Reader:
        self._folder = TemporaryDirectory()
        self._start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()
        self._folder.cleanup()

    def judge(self, original: Sample, mutated: Mutated) -> Verdict:
        """The verdict on a mutated sample."""
        with TemporaryDirectory(dir=self._folder.name) as folder:
            places = [_write(Path(folder, name), files) for name, files in (("o", original), ("m", mutated.files))]
            self._ours.send((*places, mutated.sealed, mutated.wrong))
            if not self._ours.poll(SECONDS):
                verdict = Verdict("hang", f"over {SECONDS:g} s")
            else:
                try:
                    return Verdict(*self._ours.recv())
                except EOFError:
                    self._process.join()
                    verdict = Verdict("crash", f"exit status {self._process.exitcode}")
            self._stop()
            self._start()
            return verdict

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def _stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()


def _write(folder: Path, files: Sample) -> Path:
    """Its files; the path of the scan."""
    folder.mkdir()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    first = next(iter(files))
    return folder / first.partition("/")[0]


def _serve(pipe: Connection) -> None:
    faulthandler.enable()
    os.environ["OMP_NUM_THREADS"] = "1"
    for module in ("SimpleITK", "nibabel", "cases.volumes"):  # before the limit, which is of what reading takes
        importlib.import_module(module)
    used = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    while True:
        try:
            original, path, sealed, wrong = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_judged(original, path, sealed, wrong))
        except Exception:
            pipe.send(("traceback", traceback.format_exc()))


def _judged(original: Path, path: Path, sealed: bool, wrong: bool) -> tuple[str, str]:
    from cases.volumes import VolumeError, read_volume, write_volume

    try:
        image, geometry = read_volume([path])
    except VolumeError as error:
        named = str(path.parent) in str(error)
        return ("refused", str(error)) if named else ("wrong", f"the message names no file: {error}")
    if wrong:
        return "wrong", "accepted, though a part is missing or twice"
    if sealed and not np.array_equal(image, read_volume([original])[0], equal_nan=True):
        return "wrong", "other voxels from a stream whose checksum does not fit"
    for suffix in (".nii", ".mha"):
        copy = path.with_name(f"copy{suffix}")
        try:
            write_volume(copy, image, geometry)
            again, other = read_volume([copy])
        except VolumeError as error:
            return "wrong", f"accepted, but written and read again: {error}"
        if not np.array_equal(image, again, equal_nan=True):
            return "wrong", "other voxels when written and read again"
        if fault := geometry.mismatch(other):
            return "wrong", f"another grid when written and read again: {fault}"
        if not np.allclose(geometry.spacing_mm, other.spacing_mm, rtol=0.02):
            return "wrong", f"spacing {geometry.spacing_mm}, written and read again {other.spacing_mm}"
    return "accepted", ""
