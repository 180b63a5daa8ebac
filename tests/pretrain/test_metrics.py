"""The table of a run, row by row, and the pace beside its progress bar."""

import csv
import time
from contextlib import closing
from pathlib import Path

import pytest

from pretrain.monitor.metrics import MetricsLog, Pace, StepTable


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_resumed_log_holds_every_step_once(tmp_path: Path) -> None:
    with closing(MetricsLog(tmp_path, 0)) as log:
        for step in range(1, 6):
            log.write(step, {"total": step})
    with closing(MetricsLog(tmp_path, 3)) as log:
        log.write(4, {"total": 40})
    assert [(row["step"], row["total"]) for row in rows(tmp_path)] == [("1", "1"), ("2", "2"), ("3", "3"), ("4", "40")]


def test_the_pace_tells_images_waiting_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 4.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    pace = Pace(batch_size=10, steps=902)
    pace.count(waited=0.1)
    pace.count(waited=0.4)
    assert pace.images_per_s == 5 and pace.data_wait == pytest.approx(0.1)
    assert pace.note(1.5) == "loss 1.500, 5.0 images/s, data wait 10 %, 0:30 h left"


def test_a_name_that_comes_later_becomes_a_column(tmp_path: Path) -> None:
    table = StepTable(tmp_path / "metrics.csv", 0)
    table.append(1, {"total": 0.5})
    table.append(2, {"total": 0.25, "knn": 0.75})
    table.append(3, {"total": 0.125})
    assert [list(row.values()) for row in rows(tmp_path)] == [
        ["1", "0.5", ""],
        ["2", "0.25", "0.75"],
        ["3", "0.125", ""],
    ]


def test_a_run_that_begins_again_has_no_rows(tmp_path: Path) -> None:
    with closing(MetricsLog(tmp_path, 0)) as log:
        log.write(1, {"total": 1})
    with closing(MetricsLog(tmp_path, 0)) as log:
        assert not rows(tmp_path)
        log.write(1, {"other": 2})
    assert rows(tmp_path) == [{"step": "1", "other": "2"}]
