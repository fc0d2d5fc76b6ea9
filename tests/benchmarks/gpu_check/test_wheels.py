"""What to bring to a machine that reaches no index."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu_check import wheels

SMI = "| NVIDIA-SMI 570.86    Driver Version: 570.86    CUDA Version: {}     |"


@pytest.mark.parametrize(("version", "line"), [("13.1", 13), ("12.8", 12), ("11.4", 11), ("14.0", 13), ("10.2", 11)])
def test_the_driver_decides_the_line(version: str, line: int) -> None:
    assert wheels.cuda_line(SMI.format(version)) == line


def test_without_a_driver_it_is_todays() -> None:
    assert wheels.cuda_line("") == 13


@pytest.mark.parametrize("line", list(wheels.LINES))
def test_a_line_has_pytorch_dali_and_what_the_tests_need(line: int) -> None:
    requirements, indexes = wheels.wanted(line)
    names = [text.partition("==")[0] for text in requirements]
    assert {"torch", f"nvidia-dali-cuda{line}0", "pytorch-lightning", "pytest"} <= set(names)
    assert all(version for _, _, version in (text.partition("==") for text in requirements))
    assert len(indexes) == (2 if line == 11 else 0)
    command = wheels.download_command(line, "3.12", "aarch64")
    assert "--python-version 3.12 --platform manylinux_2_28_aarch64" in command
    assert all(text in command for text in [*requirements, *indexes])


def test_the_list_names_the_command_and_what_a_folder_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wheels.main(["--cuda", "12"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "CUDA 12 (requirements-cuda120.txt)" in said[0]
    requirements = said[3:]
    assert requirements == wheels.wanted(12)[0]
    for text in requirements:
        name, _, version = text.partition("==")
        if name != "nibabel":
            (tmp_path / f"{name.replace('-', '_')}-{version}-py3-none-any.whl").touch()
    assert wheels.main(["--cuda", "12", "--plain", "--lacking", str(tmp_path)]) == 0
    (lacking,) = capsys.readouterr().out.splitlines()
    assert lacking.startswith("nibabel==")
