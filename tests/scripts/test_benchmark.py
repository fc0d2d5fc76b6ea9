"""Each mode of the benchmark leaves numbers that follow from each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.record import read_record
from benchmarks.through_main import read_numbers
from scripts import benchmark

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
    for name, latency in ((f"throughput_{mode}", "mean"), (f"median_throughput_{mode}", "50")):
        rate = items * 1000 / results[f"latency_{mode}_{latency}"].value
        assert results[name].value == pytest.approx(rate)
    assert results[f"throughput_{mode}"].better == "higher"
    logged = read_numbers(tmp_path / "perf.json")
    assert logged[f"latency_{mode}_99"] == pytest.approx(results[f"latency_{mode}_99"].value)


def test_train_compares_the_loader_with_a_constant_batch(tmp_path: Path) -> None:
    arguments = ["--mode", "train", "--results", str(tmp_path), *SMALL]
    assert benchmark.main([*arguments, "--", "--filters", "4", "8", "--num_workers", "0", "--depth", "1"]) == 0
    record = read_record(tmp_path / "benchmark_train.json")
    results = record["results"]
    constant = read_numbers(tmp_path / "constant_perf.json")
    assert constant["data_wait_train"] == 0
    assert 0 < results["data_wait_train"].value < 100
    ratio = constant["latency_train_50"] / results["latency_train_50"].value
    assert results["loader_efficiency"].value == pytest.approx(ratio)
    assert record["settings"]["flags"][0] == "--filters"
    assert (record["settings"]["channels"], record["settings"]["amp"]) == (1, False)  # of a CPU, written out


def test_records_are_json_that_anyone_reads(tmp_path: Path) -> None:
    assert benchmark.main(["--mode", "check", "--parts", "genesis", "--results", str(tmp_path)]) == 0
    values = json.loads((tmp_path / "benchmark_check.json").read_text(encoding="utf-8"))
    assert set(values) == {"machine", "versions", "settings", "results"}
    assert values["results"]["genesis_ms"]["unit"] == "ms"
