"""Threads and processes that work beside the calling one.

The caller works as well. Helper processes join when they have started, so that small work never waits for them, and
each takes a piece of work whenever it has none.
"""

import os
import pickle
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

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
) -> Iterator[Result]:
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


class _Helper(Generic[Work, Result]):
    """One process, and the thread of this one that hands it work."""

    def __init__(self, share: "_Shared[Work, Result]", do: Callable[[Work], Result]) -> None:
        self.share, self.do = share, do
        self.work: Work | None = None
        # Forking a process in which GDAL and Arrow run threads can deadlock, and multiprocessing's own ways of starting
        # afresh import the caller's main program again; a new interpreter does neither.
        near, far = socket.socketpair()
        command = [sys.executable, "-P", "-c", "from tiles.workers import serve; serve()", str(far.fileno())]
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            pass_fds=[far.fileno()],
            process_group=0,  # Ctrl-C is for the caller, who ends its helpers
        )
        far.close()
        self.connection = Connection(near.detach())
        self.thread = threading.Thread(target=self._hand_out, name="helper", daemon=True)
        self.thread.start()

    def _hand_out(self) -> None:
        try:
            self.connection.send(self.do)
            self.connection.recv()  # it has started, and imported what it takes
            while (work := self.share.take(self)) is not None:
                self.connection.send(work)
                answer = self.connection.recv()
                if isinstance(answer, BaseException):
                    self.share.stop(answer)
                    return
                self.share.give(work, answer)
                self.work = None
        except (EOFError, OSError):
            if self.work is not None:
                self.share.stop(
                    OutputError(
                        "A worker process was killed, perhaps for lack of memory; "
                        "run the same command again, with fewer --workers."
                    )
                )
        except BaseException as error:  # work that cannot be sent, say: the caller raises it
            self.share.stop(error)

    def end(self) -> None:
        self.process.terminate()
        self.thread.join()
        self.process.wait()
        self.connection.close()


class _Shared(Generic[Work, Result]):
    """What is to be done, and what came of it."""

    def __init__(self, works: Sequence[Work], done: Callable[[Work, Result], None]) -> None:
        self.waiting = deque(works)
        self.done = done
        self.error: BaseException | None = None
        self.lock = threading.Lock()

    def take(self, helper: _Helper[Work, Result] | None = None) -> Work | None:
        with self.lock:
            work = self.waiting.popleft() if self.waiting else None
            if helper is not None:
                helper.work = work
            return work

    def give(self, work: Work, result: Result) -> None:
        with self.lock:
            self.done(work, result)

    def stop(self, error: BaseException) -> None:
        with self.lock:
            self.error = self.error or error
            self.waiting.clear()


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
        do: Does it in a helper: a function at the top of a module.
        here: Does it in this process.
        done: Told each result, in one thread at a time.
        helpers: Number of processes to start.
        threads: Number of threads to start in this process, beside the calling one.

    Raises:
        OutputError: Where a helper was killed.
        BaseException: The first error that a work ended in; the others are then given up.
    """
    shared: _Shared[Work, Result] = _Shared(works, done)
    beside: list[_Helper[Work, Result]] = []

    def take_and_do() -> None:
        while (work := shared.take()) is not None:
            shared.give(work, here(work))

    def in_thread() -> None:
        try:
            take_and_do()
        except BaseException as error:  # the caller raises it
            shared.stop(error)

    own = [threading.Thread(target=in_thread, name="own", daemon=True) for _ in range(threads)]
    try:
        beside += (_Helper(shared, do) for _ in range(helpers))
        for thread in own:
            thread.start()
        take_and_do()
        for thread in own:
            thread.join()
        for helper in beside:
            # Nothing is left to be taken: a helper without work, started or not, will not get any.
            while helper.work is not None and helper.thread.is_alive():
                helper.thread.join(0.05)
    finally:
        shared.waiting.clear()
        for helper in beside:
            helper.end()
        for thread in own:
            if thread.is_alive():  # what it has begun it ends
                thread.join()
    if shared.error is not None:
        raise shared.error


def serve() -> None:
    """Do what comes until nobody is there to send more: the whole life of a helper."""
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    try:
        do = connection.recv()
        connection.send(None)
        while True:
            work = connection.recv()
            try:
                answer = do(work)
            except BaseException as error:  # raised again where the work came from
                error.add_note("".join(traceback.format_exception(error)))
                answer = error
            try:
                connection.send(answer)
            except (AttributeError, TypeError, pickle.PicklingError) as error:
                connection.send(TypeError(f"{answer!r} cannot be sent back ({error})"))
    except (EOFError, ConnectionError):
        return  # the caller is gone
