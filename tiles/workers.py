"""Threads and processes that work beside the calling one.

The caller works as well. Helper processes join when they have started, so that small work never waits for them, and
each takes a piece of work whenever it has none.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from tiles.errors import OutputError

Work = TypeVar("Work")
Result = TypeVar("Result")


_most_cores: int | None = None


def cores() -> int:
    """Processor cores that this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return found if _most_cores is None else min(found, _most_cores)


def use_cores(most: int) -> None:
    """Let this process use so many cores at most: a cluster's worker has a share of its machine."""
    global _most_cores
    _most_cores = most


def in_order(
    do: Callable[[Work], Result],
    works: Iterable[Work],
    *,
    threads: int,
    ahead: int,
    name: str,
    begin: Callable[[], object] | None = None,
) -> Generator[Result, None, None]:
    """Yield the results of works in their order, done by threads while the caller uses earlier ones.

    Args:
        do: Does one, in a thread.
        works: What is to be done; drawn one by one in the caller's thread, no sooner than needed.
        threads: Number of threads.
        ahead: Works drawn beyond the one whose result is yielded next.
        name: Of the threads.
        begin: Called once in each thread, before it does anything.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=begin) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for work in works:
                waiting.append(pool.submit(do, work))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def share_out(
    works: Sequence[Work],
    do: Callable[[Work], Result],
    here: Callable[[Work], Result],
    done: Callable[[Work, Result], None],
    helpers: int,
    threads: int = 0,
) -> None:
    """Do works in this process and in helpers beside it, in any order.

    Args:
        works: What is to be done; sent to helpers by pickling.
        do: Does it in a helper.
        here: Does it in this process.
        done: Told each result, in one thread at a time.
        helpers: Number of processes to start.
        threads: Number of threads to start in this process, beside the calling one.

    Raises:
        OutputError: Where a helper was killed.
        BaseException: The first error that a work ended in; the others are then given up.
    """
    waiting = deque(works)
    errors: list[BaseException] = []
    changed = threading.Condition()
    held = 0

    def go_on(do: Callable[[Work], Result]) -> None:
        nonlocal held
        while True:
            with changed:
                if not waiting:
                    return
                work = waiting.popleft()
                held += 1
            try:
                result = do(work)
                with changed:
                    done(work, result)
            except BaseException as error:  # the caller raises it
                errors.append(error)
                waiting.clear()
            finally:
                with changed:
                    held -= 1
                    changed.notify_all()

    with _pool(helpers) as call:

        def hand_out() -> None:
            # It may never start: killed, or no longer needed.
            with suppress(OutputError, RuntimeError):
                call(os.getpid)
                go_on(lambda work: call(do, work))

        own = [threading.Thread(target=go_on, args=(here,), name="own", daemon=True) for _ in range(threads)]
        beside = [threading.Thread(target=hand_out, name="helper", daemon=True) for _ in range(helpers)]
        try:
            for thread in [*beside, *own]:
                thread.start()
            go_on(here)
            with changed:  # helpers without work, started or not, will not get any
                changed.wait_for(lambda: errors or not held)
        finally:
            waiting.clear()
            for thread in own:  # what they have begun they end
                thread.join()
    if errors:
        raise next((error for error in errors if isinstance(error, KeyboardInterrupt)), errors[0])


@contextmanager
def _pool(helpers: int) -> Iterator[Callable[..., Any]]:
    """Yield what has one of so many new processes call a function; none runs the main program, all are killed at last.

    Forking a process in which GDAL and Arrow run threads can deadlock, and multiprocessing's own ways of starting
    afresh import the caller's main program again; loky's does neither.
    """
    if not helpers:
        yield lambda *_: None
        return
    from joblib.externals.loky import ProcessPoolExecutor  # a quarter of a second that one process need not spend
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # Ctrl-C is for the caller, who ends its helpers; those of a caller that was killed end when idle for so long.
    pool = ProcessPoolExecutor(helpers, timeout=10, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))

    def call(do: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return pool.submit(do, *arguments).result()
        except TerminatedWorkerError as error:
            raise OutputError(
                "A worker process was killed, perhaps for lack of memory; "
                "run the same command again, with fewer --workers."
            ) from error

    try:
        yield call
    finally:
        pool.shutdown(kill_workers=True)
