"""download.py: tasks and weights from a server, by hand, and what it says of anything else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import download
from data_preprocessing.planning.tasks import TASKS
from data_preprocessing.published_data import published_data
from nets.weights.published_files import published_files
from runtime.fetch import digest
from tests.served import Server, served, tar_of, zip_of


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as running:
        yield running


def test_task_from_server_to_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = tar_of({"Task04_Hippocampus/dataset.json": b"{}"})
    server.files["Task04_Hippocampus.tar"] = tar
    command = ["--task", "4", "--results", str(tmp_path), "--mirror", server.address + "/"]
    assert download.main(command) == 1  # not the published archive
    assert "instead of 9d24dba78a72977dbd1d2e110310f31b" in capsys.readouterr().err
    monkeypatch.setitem(TASKS, "04", replace(TASKS["04"], md5=hashlib.md5(tar).hexdigest()))
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


def test_data_from_server_to_folder(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        server.files[f"subset{number}.zip"] = zip_of(
            {f"subset{number}/a.mhd": b"NDims = 3", f"subset{number}/a.raw": b"x"}
        )
    command = ["--dataset", "luna16", "--results", str(tmp_path), "--mirror", server.address]
    assert download.main(command) == 1
    assert "subset9.zip: the server answers 404" in capsys.readouterr().err
    server.files["subset9.zip"] = zip_of({"subset9/b.mhd": b"NDims = 3"})
    asked = len(server.asked)
    assert download.main(command) == 0
    assert len(server.asked) == asked + 1  # the others are there
    out = capsys.readouterr().out
    assert "subset8.zip is already unpacked" in out and "LUNA16 is ready: subset0 to subset9" in out
    assert (tmp_path / "LUNA16" / "subset3" / "a.mhd").read_bytes() == b"NDims = 3"
    assert not list((tmp_path / "LUNA16").glob("*.zip"))


def test_data_behind_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert download.main(["--dataset", "mrbrains18", "--results", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "open https://mrbrains18.isi.uu.nl/data/" in told and f"put it at {tmp_path / 'MRBrainS18'}" in told


@pytest.mark.parametrize(("flag", "value"), [("--task", "11"), ("--weights", "resnet"), ("--dataset", "luna")])
def test_unknown_names(tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str) -> None:
    assert download.main([flag, value, "--results", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {flag} {value}")


def test_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime.fetch.fetch", interrupted)
    assert download.main(["--task", "04", "--results", str(tmp_path)]) == 130
    assert "interrupted; run the same command again to continue" in capsys.readouterr().err


def test_list_names_every_task_and_weight(capsys: pytest.CaptureFixture[str]) -> None:
    assert download.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"--task {number:02d}" in printed for number in range(1, 11))
    assert all(f"--weights {name} " in printed for name in published_files())
    assert len(published_files()) == 15
    assert all(f"--dataset {name} " in printed for name in published_data())


def test_the_list_tells_sizes_that_servers_tell(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["Task04_Hippocampus.tar"] = bytes(2_500_000)
    monkeypatch.setattr("cli.download.DECATHLON", server.address)
    monkeypatch.setattr("cli.download.published_data", dict)
    monkeypatch.setattr("cli.download.published_files", dict)
    assert download.main(["--list", "--sizes"]) == 0
    rows = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "--task" in line}
    assert "2.5 MB" in rows["--task 04"] and "MB" not in rows["--task 01"]
    with pytest.raises(SystemExit, match="2"):
        download.main(["--task", "04", "--sizes"])
