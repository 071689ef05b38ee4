"""Threads that fill batches: errors reach the consumer, a stall is noticed, nothing outlives `close()`."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from unicscale.errors import DataError

STALL_SECONDS = 15.0  # without one image decoded; the promise is 20 s, and noticing takes a while too


class Workers:
    """`count` daemon threads; with 0 every job runs where it is submitted.

    Not a ThreadPoolExecutor: Python joins its threads at exit, so one read that hangs would keep a dead run alive.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._jobs: queue.SimpleQueue[tuple[Future, Callable[[], object]] | None] = queue.SimpleQueue()
        self._doing: dict[int, Callable[[], str]] = {}  # thread -> says what it is at
        self._beat = time.monotonic()
        self._threads = [threading.Thread(target=self._work, daemon=True, name=f"loader-{i}") for i in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], object]) -> Future:
        """Run it soon."""
        future: Future = Future()
        if self.count == 0:
            _run(future, job)
        else:
            self._jobs.put((future, job))
        return future

    def doing(self, what: Callable[[], str]) -> None:
        """Called by a job as it goes on to its next image."""
        self._doing[threading.get_ident()] = what
        self._beat = time.monotonic()

    def wait(self, futures: Sequence[Future]) -> None:
        """Until all are done; raises what a job raised, or DataError when no image has moved for a while."""
        self._beat = max(self._beat, time.monotonic() - 1)
        for future in futures:
            while True:
                try:
                    future.result(timeout=1.0)
                    break
                except FutureTimeout:
                    if time.monotonic() - self._beat > STALL_SECONDS:
                        raise DataError(self._stalled()) from None

    def close(self) -> None:
        """Drop what waits and end the threads; one that hangs in a read is left behind as a daemon."""
        with contextlib.suppress(queue.Empty):
            while True:
                waiting = self._jobs.get_nowait()
                if waiting is not None:
                    waiting[0].cancel()
        for _ in self._threads:
            self._jobs.put(None)
        patience = time.monotonic() + 2.0  # over all of them
        for thread in self._threads:
            thread.join(timeout=max(0.0, patience - time.monotonic()))
        self._threads = []

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            if future.set_running_or_notify_cancel():
                _run(future, job)
            self._doing.pop(threading.get_ident(), None)

    def _stalled(self) -> str:
        at = (
            "\n".join(f"  waiting for {what}" for what in sorted(what() for what in list(self._doing.values())))
            or "  no thread is at work"
        )
        return (
            f"the loader stands still: no image was decoded for {STALL_SECONDS:.0f} s.\n{at}\n"
            "  Is the file system that holds these images reachable?"
        )


def _run(future: Future, job: Callable[[], object]) -> None:
    try:
        future.set_result(job())
    except BaseException as problem:
        future.set_exception(problem)


def cores() -> int:
    """Cores this rank may use: its CPU affinity (schedulers bind tasks), else its share of the machine."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    unbound = mine == (os.cpu_count() or 1)
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "") or 1)
    return max(1, mine // ranks_here) if unbound else mine
