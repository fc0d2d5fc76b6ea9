"""What main.py logs of a benchmark."""

from pathlib import Path

import pytest

from benchmarks.record import RecordError
from benchmarks.through_main import read_numbers


def test_a_log_without_a_result_is_named(tmp_path: Path) -> None:
    log = tmp_path / "perf.json"
    log.write_text('DLLL {"type": "LOG", "step": "PARAMETER", "data": {}}\n', encoding="utf-8")
    with pytest.raises(RecordError, match=r"perf\.json has no record of a benchmark"):
        read_numbers(log)
