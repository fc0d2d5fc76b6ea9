"""What to bring to a machine that reaches no index: ``scripts/gpu_check.sh --list-wheels``.

Needs nothing but Python, since it runs before anything is installed. What the listed packages need themselves comes
with the command that it prints, which is run where there is an index.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES = {13: "requirements.txt", 12: "requirements-cuda120.txt", 11: "requirements-cuda110.txt"}  # by CUDA's version
TESTS = ("pytest",)  # of requirements-dev.txt
PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")  # what the wheels of all lines are built for
INCLUDED, OPTION = re.compile(r"^-r (\S+)"), re.compile(r"^--extra-index-url (\S+)")


def cuda_line(said: str) -> int:
    """The newest line of ours that a driver can run, by what nvidia-smi says; without a driver, today's."""
    found = re.search(r"CUDA Version: (\d+)", said)
    if not found:
        return max(LINES)
    return max((line for line in LINES if line <= int(found.group(1))), default=min(LINES))


def driver() -> str:
    """What nvidia-smi says, empty where there is none."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, encoding="utf-8", check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def pinned(name: str) -> Iterator[str]:
    """Requirements of a file and of those that it includes, and its index options."""
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        text = line.partition(" #")[0].strip()
        if included := INCLUDED.match(text):
            yield from pinned(included.group(1))
        elif text and not text.startswith("#"):
            yield text


def wanted(line: int) -> tuple[list[str], list[str]]:
    """(requirements, indexes besides the public one) of a CUDA line, with what the tests need."""
    texts = list(pinned(LINES[line]))
    indexes = [found.group(1) for text in texts if (found := OPTION.match(text))]
    tests = [text for text in pinned("requirements-dev.txt") if text.partition("==")[0] in TESTS]
    return [text for text in texts if not OPTION.match(text)] + tests, indexes


def download_command(line: int, python: str, machine: str, folder: str = "DIR") -> str:
    """What fetches the wheels, with all that they need, for another machine."""
    requirements, indexes = wanted(line)
    platforms = " ".join(f"--platform {name}_{machine}" for name in PLATFORMS)
    extra = "".join(f" --extra-index-url {index}" for index in indexes)
    target = f"--only-binary=:all: --implementation cp --python-version {python} {platforms}"
    return f"python3 -m pip download --dest {folder} {target}{extra} {' '.join(requirements)}"


def missing(line: int, folder: Path) -> list[str]:
    """Requirements of which a folder holds no wheel."""
    held = {wheel.name.partition("-")[0].lower() for wheel in folder.glob("*.whl")}
    names = {text: re.sub(r"[-_.]+", "_", text.partition("==")[0]).lower() for text in wanted(line)[0]}
    return [text for text, name in names.items() if name not in held]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the list, or the requirements alone for pip."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.sh --list-wheels", description=(__doc__ or "").strip())
    parser.add_argument("--cuda", type=int, choices=LINES, help="line of CUDA; not given: as the driver here says")
    parser.add_argument("--plain", action="store_true", help="the requirements and nothing else")
    parser.add_argument("--lacking", type=Path, metavar="DIR", help="only those of which this folder holds no wheel")
    given = parser.parse_args(argv)
    line = given.cuda or cuda_line(driver())
    requirements = wanted(line)[0] if given.lacking is None else missing(line, given.lacking)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not given.plain:
        print(f"# Python {python} on {platform.machine()}, CUDA {line} ({LINES[line]}). With an index, this fetches")
        print(f"# these and what they need:\n#   {download_command(line, python, platform.machine())}")
    print("\n".join(requirements))
    return 0


if __name__ == "__main__":
    sys.exit(main())
