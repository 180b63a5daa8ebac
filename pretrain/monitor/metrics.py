"""What a run reports: rows of a CSV file, TensorBoard scalars, and the line of the progress bar.

The tables are our own: Lightning's CSVLogger (2.6) deletes a ``metrics.csv`` that it finds, so a resumed run would lose
its rows, and sorts the columns; and its loggers would make a training node of one process need lightning.
"""

import csv
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tiles.writing.outputs import replacing


class StepTable:
    """A CSV file with a row a step, which a resumed run goes on with.

    Args:
        path: The file.
        step: Steps done; rows after it are dropped, so that no step comes twice.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.columns: list[str] = []
        if path.exists():
            self._replace([row for row in self._rows() if int(row["step"]) <= step])

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row; a name that no row had before becomes a new column."""
        row = {"step": str(step), **{name: f"{value:.6g}" for name, value in values.items()}}
        if not set(row) <= set(self.columns):
            self._replace([*self._rows(), row])
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _replace(self, rows: list[dict[str, str]]) -> None:
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        with replacing(self.path) as part, part.open("w", newline="") as file:
            if rows:
                csv.DictWriter(file, self.columns).writeheader()
            csv.DictWriter(file, self.columns).writerows(rows)


class MetricsLog:
    """Rows of ``metrics.csv``, and the same numbers for TensorBoard where it is installed.

    Args:
        run: Folder of the run.
        step: Optimiser steps done; rows after it are dropped.
        enabled: False on all processes but the first, which then write nothing.
    """

    def __init__(self, run: Path, step: int, *, enabled: bool = True) -> None:
        self._table: StepTable | None = None
        self._board: Any = None
        if not enabled:
            return
        (run / "metrics.csv").touch()  # whoever looks for runs finds this one
        self._table = StepTable(run / "metrics.csv", step)
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row: numbers by name after ``step`` optimiser steps."""
        if self._table is not None:
            self._table.append(step, values)
            self.draw(step, values)

    def draw(self, step: int, values: Mapping[str, float]) -> None:
        """Give numbers to TensorBoard alone: those that have a file of their own."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
        if self._board is not None:
            self._board.close()


class Pace:
    """Images per second, share of time spent waiting for data, and time left, over the last steps.

    Args:
        batch_size: Images a step.
        steps: Steps of the run that remain.
    """

    def __init__(self, batch_size: int, steps: int) -> None:
        self.batch_size, self.left = batch_size, steps
        self._start = time.perf_counter()
        self._waited = 0.0
        self._steps = 0
        self.images_per_s = self.data_wait = 0.0

    def count(self, waited: float) -> None:
        """Count one step.

        Args:
            waited: Seconds waited for data since the run began.
        """
        self._steps += 1
        self.left -= 1
        elapsed = time.perf_counter() - self._start
        self.images_per_s = self._steps * self.batch_size / elapsed
        self.data_wait = (waited - self._waited) / elapsed
        if elapsed > 30:  # a window long enough to be steady, short enough to follow the machine
            self._start, self._waited, self._steps = time.perf_counter(), waited, 0

    def numbers(self) -> dict[str, float]:
        """Images per second and share of time spent waiting, by their names in ``metrics.csv``."""
        return {"images_per_s": self.images_per_s, "data_wait": self.data_wait}

    def note(self, loss: float) -> str:
        """The text beside the progress bar."""
        seconds = self.left * self.batch_size / self.images_per_s if self.images_per_s else 0.0
        hours, minutes = divmod(round(seconds / 60), 60)
        return (
            f"loss {loss:.3f}, {self.images_per_s:.1f} images/s, data wait {100 * self.data_wait:.0f} %, "
            f"{hours}:{minutes:02d} h left"
        )
