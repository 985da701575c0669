"""Worker processes side by side: each takes one task after another, and one that is killed is replaced."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from multiprocessing import connection, resource_tracker
from types import FrameType
from typing import Any, NamedTuple

import cloudpickle

from sparse_train.process.signals import SIGNALS, heard, sheltered

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NUMBER, COUNT = "SPARSE_TRAIN_WORKER", "SPARSE_TRAIN_WORKERS"
KILLED = "its worker process was killed, twice"


def worker() -> int:
    """Which of its launcher's workers this process is, from 0; 0 for a process of its own."""
    return int(os.environ.get(NUMBER, 0))


def is_worker() -> bool:
    """Whether a launcher of ours started this process."""
    return NUMBER in os.environ


def side_by_side() -> int:
    """How many workers its launcher has; 1 for a process of its own."""
    return int(os.environ.get(COUNT, 1))


class Worker(NamedTuple):
    process: multiprocessing.process.BaseProcess
    number: int
    task: int | None


def spread(work: Callable, tasks: Sequence[tuple], count: int) -> list[Any]:
    """`work(*task)` for every task, in so many processes at a time; the results in the tasks' order.

    A task whose process is killed is done again, once; after a second time its result is `KILLED`. SIGINT, SIGTERM and
    SIGHUP are passed on as SIGTERM: a task that saves on it does, and no other one begins. Ignored ones stay so.

    Args:
        work: in a worker; pickled by value where it must be. Its results are pickled too.

    Raises:
        SystemExit: for such a signal, with 128 and its number, once every worker has ended.
    """
    code = cloudpickle.dumps(work)
    results: list[Any] = [KILLED] * len(tasks)
    waiting, killed = deque(range(len(tasks))), Counter[int]()
    workers: dict[connection.Connection, Worker] = {}
    asked: list[int] = []

    def start(place: int) -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, code, place, min(count, len(tasks))))
        with sheltered():
            process.start()
        theirs.close()
        workers[ours] = Worker(process, place, None)
        give(ours)

    def give(end: connection.Connection) -> None:
        """The next task, or None for the end."""
        task = waiting.popleft() if waiting and not asked else None
        workers[end] = workers[end]._replace(task=task)
        with contextlib.suppress(BrokenPipeError):  # it is dead, as is found next
            end.send(None if task is None else tasks[task])

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        for worker in list(workers.values()):
            worker.process.terminate()

    context = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # else its start would end `sheltered`
    before = {number: signal.signal(number, pass_on) for number in heard(ENDS)}
    try:
        for place in range(min(count, len(tasks))):
            start(place)
        while workers:
            for end in connection.wait(list(workers)):
                worker = workers[end]
                try:
                    results[worker.task] = end.recv()
                    give(end)
                except (EOFError, ConnectionResetError):
                    del workers[end]
                    worker.process.join()
                    if worker.task is not None:
                        killed[worker.task] += 1
                        if killed[worker.task] == 1:
                            waiting.append(worker.task)
                    if waiting and not asked:
                        start(worker.number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        sys.exit(128 + asked[0])
    return results


def _serve(end: connection.Connection, code: bytes, place: int, places: int) -> None:
    """A worker: SIGTERM alone ends it. A run that it trains takes that over, and saves first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ[NUMBER], os.environ[COUNT] = str(place), str(places)
    work = cloudpickle.loads(code)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the one that started it is gone
        while (task := end.recv()) is not None:
            end.send(work(*task))
