"""Where jobs run: a Dask cluster inside the server, or the one that the server was told of.

Each job is one Dask task, which starts the job's runner on the worker's machine and waits for it. The task gives its
place among the worker's threads back at once, so that a command which spreads its own rows over the same cluster
(``geodino features --dask``) finds the threads free. The runner outlives the task: a server or a worker that goes
away ends no job. The cluster inside the server opens no port.
"""

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.work.jobs import JobStore, State, read_status, write_status
from tiles.errors import InputError

if TYPE_CHECKING:
    from distributed import Client, Future

POLL_S = 0.5
ANSWERS_WITHIN = "10s"
AT_ONCE = 1  # jobs on this machine; a model fills it, others wait


def attend(folder: str) -> None:
    """The task: run a job's runner to its end on this machine."""
    from distributed import secede

    secede()
    with (Path(folder) / "log.txt").open("ab") as log:
        subprocess.run(
            [sys.executable, "-m", "app.work.runner", folder],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, check=False,
        )  # fmt: skip


class JobCluster:
    """The cluster that a server gives its jobs to; joined or made when the first job needs it.

    Args:
        address: Scheduler, such as ``tcp://10.0.0.1:8786``, whose workers see the server's folder under the same
            path; None for a cluster of this process's own.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        self._client: Client | None = None
        self._tasks: dict[Path, Future] = {}

    @property
    def at_once(self) -> int:
        """How many jobs may run at once: one on this machine, else one a worker."""
        return AT_ONCE if self.address is None else max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    @property
    def client(self) -> "Client":
        """The connection.

        Raises:
            InputError: Where no scheduler answers at the address.
        """
        if self._client is None or self._client.status not in {"running", "connecting"}:
            self._client = _own() if self.address is None else _join(self.address)
        return self._client

    def place(self, folder: Path) -> None:
        """Hand a job to the cluster."""
        self._tasks[folder] = self.client.submit(attend, str(folder), pure=False, key=f"{folder.name}-{time.time_ns()}")

    def placed(self, folder: Path) -> bool:
        """Whether a job is in the cluster's hands; one that the cluster could not begin is said to have failed."""
        task = self._tasks.get(folder)
        if task is None:
            return False
        if not task.done():
            return True
        del self._tasks[folder]
        status = read_status(folder)
        if task.status == "error" and status.state is State.queued:
            with (folder / "log.txt").open("a") as log:
                log.write(f"the Dask cluster could not begin this job: {task.exception()}\n")
            write_status(folder, replace(status, state=State.failed, ended=time.time()))
            return True
        return False

    def close(self) -> None:
        """Leave the cluster; the server's own ends."""
        if self._client is not None:
            cluster = self._client.cluster
            self._client.close()
            if cluster is not None:
                cluster.close()
            self._client = None


def _own() -> "Client":
    from distributed import Client, LocalCluster

    # Within this process there is no port that another account of the machine could send its code to; the memory that
    # counts is that of the jobs' own processes.
    cluster = LocalCluster(
        n_workers=1,
        threads_per_worker=AT_ONCE,
        processes=False,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=40,
    )
    return Client(cluster, set_as_default=False)


def _join(address: str) -> "Client":
    from distributed import Client

    try:
        return Client(address, timeout=ANSWERS_WITHIN, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {address} ({' '.join(str(error).split())})") from None


def keep_going(store: JobStore, cluster: JobCluster, stop: threading.Event) -> threading.Thread:
    """Have queued jobs begun from a thread of the server until ``stop``."""

    def run() -> None:
        store.recover()
        while not stop.wait(POLL_S):
            try:
                store.start_next(cluster)
            except (InputError, OSError):
                stop.wait(10)  # the scheduler is away; the jobs wait in the journal

    thread = threading.Thread(target=run, name="jobs", daemon=True)
    thread.start()
    return thread
