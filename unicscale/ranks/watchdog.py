"""Names the rank that everybody waits for, dumps stacks, and ends the process: a hang costs minutes, not a night.

No collective could report that a collective hangs: each rank's watchdog thread writes a small file into the run
folder, and reads the others' when nothing moves. A stopped process stops writing, a stuck one says where it is stuck.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicscale.errors import RunError
from unicscale.ranks.terminal import tell


@dataclass(frozen=True, slots=True)
class Pulse:
    """What one rank last said of itself."""

    rank: int
    host: str
    pid: int
    beats: int  # how often its loop moved: stands still in a hang
    writes: int  # how often its watchdog wrote: stands still in a stopped process
    doing: str

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"


class Watchdog:
    """One per rank. The loop calls `beat`; nothing else in the program knows of it."""

    def __init__(self, folder: Path, *, rank: int, size: int, timeout: float) -> None:
        self.folder, self.rank, self.size, self.timeout = folder, rank, size, timeout
        self.every = min(1.0, timeout / 5)  # between looks at the loop, and between signs of life once it stands still
        self.seldom = max(self.every, min(10.0, timeout / 8))  # between signs of life while it moves: a file each
        self.written = 0.0
        self.beats, self.writes, self.doing = 0, 0, "starting"
        self.paused = True  # until the loop begins, and while all ranks do something that may take its time
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self._file(rank).unlink(missing_ok=True)  # a rank of the launch before must not speak for this one

    def start(self) -> Watchdog:
        """Begin to watch."""
        self._write()  # at once: a rank that dies young has a name too
        self.thread.start()
        return self

    def beat(self, doing: str) -> None:
        """The loop moved, and this is what it does next."""
        self.doing, self.paused = doing, False
        self.beats += 1

    def __enter__(self) -> Watchdog:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """The run ended by itself."""
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()
        self._file(self.rank).unlink(missing_ok=True)

    def lost(self) -> str:
        """After a broken connection: the ranks that no longer write, as text."""
        self._write()  # the others look for signs of life as well
        earlier = self._pulses()
        time.sleep(self.seldom + 2 * self.every)  # one that still moves writes no sooner
        return ", ".join(str(pulse) for pulse in _still(earlier, self._pulses(), self.rank)) or "another rank"

    def _file(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:04d}.pulse"

    def _watch(self) -> None:
        moved, mine, seen = time.monotonic(), self.beats, None
        beaten = moved  # by this loop itself; `moved` is by anybody's
        while not self.ended.wait(self.every):
            now = time.monotonic()
            beaten = now if self.beats != mine else beaten
            pace = self.every if now - beaten > self.timeout / 2 else self.seldom
            if now - self.written > pace - self.every / 2:
                self._write()
            still = now - moved
            if self.paused or self.beats != mine:
                moved, mine, seen = now, self.beats, None
            elif still > self.timeout / 2:  # only now: 64 ranks that read 64 files every second are a load
                beats = {rank: pulse.beats for rank, pulse in self._pulses().items()}
                if seen is not None and beats != seen:  # anybody counts: one may evaluate while the others wait
                    moved = now
                elif still > self.timeout:
                    self._end(still)
                seen = beats

    def _write(self) -> None:
        self.writes, self.written = self.writes + 1, time.monotonic()
        pulse = {
            "rank": self.rank, "host": platform.node(), "pid": os.getpid(),
            "beats": self.beats, "writes": self.writes, "doing": self.doing,
        }  # fmt: skip
        temporary = self._file(self.rank).with_suffix(".pulse.tmp")
        try:
            temporary.write_text(json.dumps(pulse))
            os.replace(temporary, self._file(self.rank))
        except OSError:
            pass  # a full disk is reported by whoever saves

    def _pulses(self) -> dict[int, Pulse]:
        found = {}
        for rank in range(self.size):
            try:
                said: dict[str, Any] = json.loads(self._file(rank).read_text())
                found[rank] = Pulse(**said)
            except (OSError, ValueError, TypeError):
                continue
        return found

    def _end(self, waited: float) -> None:
        try:
            earlier = self._pulses()
            self._linger()  # a stopped process writes nothing meanwhile, a waiting one does
            tell(verdict(earlier, self._pulses(), self.rank, self.size, waited))
            self._dump()
            self._linger()  # so that the others do not take this rank for the stopped one
        finally:  # whatever cannot be written: a rank that nobody ends holds its node for ever
            os._exit(RunError.exit_code)

    def _dump(self) -> None:
        stacks = self.folder / f"rank-{self.rank:04d}.stacks"
        try:
            with open(stacks, "w") as stream:
                faulthandler.dump_traceback(stream, all_threads=True)
                if not os.fstat(stream.fileno()).st_size:  # it reports no error of its own
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            tell(f"  This rank's stacks are in {stacks}.")
        except OSError as problem:  # no such folder, no descriptor left, a full disk
            tell(f"  {stacks} cannot be written ({problem.strerror}); this rank's stacks:")
            faulthandler.dump_traceback(2, all_threads=True)

    def _linger(self) -> None:
        for _ in range(2):
            time.sleep(self.every)
            self._write()


def verdict(earlier: dict[int, Pulse], later: dict[int, Pulse], me: int, size: int, waited: float) -> str:
    """Which rank is to blame, as far as the pulses tell."""
    silent = [rank for rank in range(size) if rank not in later]
    stopped = _still(earlier, later, me)
    fewest = min((p.beats for p in later.values()), default=0)
    behind = [p for p in later.values() if p.beats == fewest]
    said = f"rank {me}: nothing has moved for {waited:.0f} s (engine.timeout_seconds)."
    if stopped or silent:
        said += "".join(
            f"\n  {p} does not answer: it was stopped or its host is gone; last seen in '{p.doing}'." for p in stopped
        )
        said += "".join(f"\n  rank {rank} is not there: it did not start, or it has left." for rank in silent)
    elif len(behind) < size:
        said += "".join(f"\n  {p} is behind the others: it hangs in '{p.doing}'." for p in behind)
    else:
        said += f"\n  All ranks wait in '{later[me].doing if me in later else '?'}'."
    return said + "\n  Ending this rank; the same command goes on from the last checkpoint."


def _still(earlier: dict[int, Pulse], later: dict[int, Pulse], me: int) -> list[Pulse]:
    return [p for rank, p in later.items() if rank != me and rank in earlier and p.writes == earlier[rank].writes]
