"""What a run reports: rows of a CSV file, TensorBoard scalars, and the line of the progress bar."""

import csv
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class MetricsLog:
    """Rows of ``metrics.csv``, and the same numbers for TensorBoard where it is installed.

    The file's columns are those of its first row. A resumed run drops the rows after its checkpoint, so that no step
    appears twice.

    Args:
        run: Folder of the run.
        step: Optimiser steps done; rows after it are dropped.
        enabled: False on all processes but the first, which then write nothing.
    """

    def __init__(self, run: Path, step: int, *, enabled: bool = True) -> None:
        self.path = run / "metrics.csv"
        self.columns: list[str] = []
        self.enabled = enabled
        self._board: Any = None
        if not enabled:
            return
        if self.path.exists():
            self._cut(step)
        self._file = self.path.open("a", newline="")
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def _cut(self, step: int) -> None:
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            return
        self.columns = list(rows[0])
        kept = [row for row in rows if int(row["step"]) <= step]
        part = self.path.with_name("metrics.csv.part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(kept)
        part.replace(self.path)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row and flush it.

        Args:
            step: Optimiser steps done.
            values: Numbers by name; a name unknown to the first row goes to TensorBoard only.
        """
        if not self.enabled:
            return
        row = {"step": step, **{name: f"{value:.6g}" for name, value in values.items()}}
        if not self.columns:
            self.columns = list(row)
            csv.DictWriter(self._file, self.columns).writeheader()
        csv.DictWriter(self._file, self.columns, extrasaction="ignore").writerow(row)
        self._file.flush()
        self.draw(step, values)

    def draw(self, step: int, values: Mapping[str, float]) -> None:
        """Give numbers to TensorBoard alone: those that have a file of their own."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.enabled:
            self._file.close()
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

    def note(self, loss: float) -> str:
        """The text beside the progress bar."""
        seconds = self.left * self.batch_size / self.images_per_s if self.images_per_s else 0.0
        hours, minutes = divmod(round(seconds / 60), 60)
        return (
            f"loss {loss:.3f}, {self.images_per_s:.1f} images/s, data wait {100 * self.data_wait:.0f} %, "
            f"{hours}:{minutes:02d} h left"
        )
