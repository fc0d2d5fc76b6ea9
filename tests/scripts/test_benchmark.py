"""Each mode of the benchmark leaves numbers that follow from each other; the gate sees what is slow."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import against as benchmark_against
from benchmarks.against import Gate, gate, interleave
from benchmarks.record import RecordError, read_record
from scripts import benchmark
from settings import SettingsError

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--volume", "20", "24", "28", "--patch_size", "16", "16", "16", "--gpus", "0", "--batch_size", "1"]
SMALL += ["--train_batches", "5", "--test_batches", "5", "--warmup", "2", "--cases", "5"]


@pytest.mark.parametrize("mode", ["preprocess", "genesis", "inference"])
def test_a_mode_writes_its_record_and_dllogger_lines(mode: str, tmp_path: Path) -> None:
    assert benchmark.main(["--mode", mode, "--results", str(tmp_path), *SMALL]) == 0
    record = read_record(tmp_path / f"benchmark_{mode}.json")
    assert record["settings"]["warmup"] == 2
    assert record["machine"]["cores"] >= 1
    assert record["versions"]["torch"]
    results = record["results"]
    assert results[f"latency_{mode}_99"].value >= results[f"latency_{mode}_50"].value > 0
    items = 16 if mode == "genesis" else 1
    rate = items * 1000 / results[f"latency_{mode}_50"].value
    assert results[f"throughput_{mode}"].value == pytest.approx(rate)
    assert results[f"throughput_{mode}"].better == "higher"
    logged = benchmark.read_numbers(tmp_path / "perf.json")
    assert logged[f"latency_{mode}_99"] == pytest.approx(results[f"latency_{mode}_99"].value)


def test_train_compares_the_loader_with_a_constant_batch(tmp_path: Path) -> None:
    arguments = ["--mode", "train", "--results", str(tmp_path), *SMALL]
    assert benchmark.main([*arguments, "--", "--filters", "4", "8", "--num_workers", "0", "--depth", "1"]) == 0
    record = read_record(tmp_path / "benchmark_train.json")
    results = record["results"]
    constant = benchmark.read_numbers(tmp_path / "constant_perf.json")
    assert constant["data_wait_train"] == 0
    assert 0 < results["data_wait_train"].value < 100
    ratio = constant["latency_train_50"] / results["latency_train_50"].value
    assert results["loader_efficiency"].value == pytest.approx(ratio)
    assert record["settings"]["flags"][0] == "--filters"


def test_nothing_left_to_measure_is_refused() -> None:
    with pytest.raises(SettingsError, match="5 batches leave nothing to measure after --warmup 5"):
        benchmark.BenchmarkSettings(mode="genesis", train_batches=5, warmup=5)


def test_a_log_without_a_result_is_named(tmp_path: Path) -> None:
    log = tmp_path / "perf.json"
    log.write_text('DLLL {"type": "LOG", "step": "PARAMETER", "data": {}}\n', encoding="utf-8")
    with pytest.raises(RecordError, match=r"perf\.json has no record of a benchmark"):
        benchmark.read_numbers(log)


def repository(folder: Path, files: dict[str, str]) -> Path:
    """A git repository of one commit."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)
    return folder


def test_the_gate_passes_where_there_is_nothing_to_compare_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = repository(tmp_path / "first", {"README.md": "text"})
    assert gate(Gate("HEAD~1"), root) == 0
    assert "no revision HEAD~1 here" in capsys.readouterr().out
    assert gate(Gate("HEAD"), root) == 0
    assert "HEAD has no such benchmark yet" in capsys.readouterr().out


PROGRAM = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--results") + 1])
results = {"part_ms": {"value": %s, "unit": "ms", "better": "lower"}}
record = {"machine": {}, "versions": {}, "settings": {}, "results": results}
(folder / "benchmark_check.json").write_text(json.dumps(record))
"""


def test_the_gate_checks_the_revision_out_and_removes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = Path("scripts/benchmark.py")
    root = repository(tmp_path / "tree", {str(program): PROGRAM % 10, "scripts/benchmark_against.py": ""})
    (root / program).write_text(PROGRAM % 14, encoding="utf-8")
    assert gate(Gate("HEAD", "50%", 1), root) == 0
    assert gate(Gate("HEAD", "30%", 1), root) == 1
    assert "worse by more than 30 %: part_ms" in capsys.readouterr().out
    left = subprocess.run(
        ["git", "-C", str(root), "worktree", "list"], check=True, capture_output=True, encoding="utf-8"
    )
    assert len(left.stdout.splitlines()) == 1
    (root / program).write_text("raise SystemExit('broken')", encoding="utf-8")
    with pytest.raises(RecordError, match=r"--mode check ended with 1: broken"):
        gate(Gate("HEAD", "30%", 1), root)


def test_a_slowed_path_is_seen(tmp_path: Path) -> None:
    """The real benchmark on two trees, one of which sleeps in the Genesis transformation."""
    slow = tmp_path / "slow"
    parts = shutil.ignore_patterns(".*", "__pycache__", "tests", "notebooks", "docs", "results", "data")
    shutil.copytree(ROOT, slow, ignore=parts)
    path = slow / "data_loading/genesis_sampling.py"
    path.write_text(path.read_text(encoding="utf-8") + SLEEPING, encoding="utf-8")
    (change,) = interleave(ROOT, slow, rounds=1, parts=("genesis",))
    assert change.name == "genesis_ms"
    assert change.worse > 1  # 20 ms on top of a few; a busy machine slows both trees
    assert benchmark_against.show([change], 0.3, ("before", "after")) == 1


SLEEPING = """

_unhurried = sample


def sample(*arguments, **named):
    import time

    time.sleep(0.02)
    return _unhurried(*arguments, **named)
"""


def test_records_are_json_that_anyone_reads(tmp_path: Path) -> None:
    assert benchmark.main(["--mode", "check", "--parts", "genesis", "--results", str(tmp_path)]) == 0
    values = json.loads((tmp_path / "benchmark_check.json").read_text(encoding="utf-8"))
    assert set(values) == {"machine", "versions", "settings", "results"}
    assert values["results"]["genesis_ms"]["unit"] == "ms"
