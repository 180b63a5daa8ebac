"""Progress for long work: a bar on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """What long-running functions report to."""

    def update(self, done: float, note: str = "") -> None:
        """Say that ``done`` of the total is finished."""


class Silent:
    """Reports nothing: the default of the Python API."""

    def update(self, done: float, note: str = "") -> None:
        """Ignore the report."""


class Share:
    """Reports a step of a longer work: 0 to 1 of the step become ``start`` to ``stop`` of the whole.

    Args:
        whole: Reporter of the whole.
        start: Share of the whole that is done when the step begins.
        stop: Share of it that is done when the step ends.
        note: Said where the step itself says nothing.
    """

    def __init__(self, whole: Progress, start: float, stop: float, note: str = "") -> None:
        self.whole, self.start, self.stop, self.note = whole, start, stop, note

    def update(self, done: float, note: str = "") -> None:
        """Report."""
        self.whole.update(self.start + (self.stop - self.start) * done, note or self.note)


class _Lines:
    """One plain line at most every ten seconds, for logs."""

    def __init__(self, description: str, total: float) -> None:
        self.description, self.total, self.last = description, total, time.monotonic()

    def update(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        if now - self.last >= 10:
            self.last = now
            share = 100 * done / self.total if self.total else 100
            print(f"{self.description}: {share:.0f} % {note}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def progress(description: str, total: float, *, show: bool = True) -> Iterator[Progress]:
    """Yield a reporter of work that ends at ``total`` (in any unit): a rich bar on a terminal, else plain lines."""
    if not show:
        yield Silent()
    elif not sys.stderr.isatty():
        yield _Lines(description, total)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        with Bar(
            *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True)
        ) as bar:
            task = bar.add_task(description, total=total, note="")

            class _Rich:
                def update(self, done: float, note: str = "") -> None:
                    bar.update(task, completed=done, note=note)

            yield _Rich()
