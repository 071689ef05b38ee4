"""An extraction that was cut short goes on: one part file beside `out`, and how far each rank is with it."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from unicscale.errors import DataError
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.run.folder import write_whole

EVERY = 10.0  # seconds between two notes: so much is done again after a kill


class Unfinished:
    """The file that is being written; one of another model, or of other images, is begun anew."""

    def __init__(self, out: Path, identity: dict[str, str], world: World) -> None:
        self.path = out.with_name(f".{out.name}.part")
        self.identity, self.world = {**identity, "ranks": str(world.size)}, world
        self.whole = False  # said by whoever has finished it
        self._lock: IO[str] | None = None
        world.on_main(self._alone)
        self.going_on, self.done = self._read()  # whether there is a part; rows of this rank's share that are in it
        self._last = time.monotonic()
        if self.done and world.main:
            say.info("%s: goes on behind %s images of this rank", out, f"{self.done:,}")

    def note(self, rows: int, sync: Callable[[], None], *, now: bool = False) -> None:
        """These rows are written; once in a while they are brought to the disk, and that is kept."""
        if not now and time.monotonic() - self._last < EVERY:
            return
        sync()
        write_whole(self._note(self.world.rank), json.dumps({"of": self.identity, "rows": rows}))
        self._last = time.monotonic()

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(self, *why: object) -> None:
        """Nobody goes on with what is whole; what nobody could go on with goes too."""
        if not self.world.main:
            return
        if self.whole or not self._note(0).exists():
            self.path.unlink(missing_ok=True)
            self._forget()
        if self._lock is not None:
            Path(self._lock.name).unlink(missing_ok=True)
            self._lock.close()

    def _note(self, rank: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{rank}")

    def _forget(self) -> None:
        for note in self.path.parent.iterdir():
            stem, _, rank = note.name.rpartition(".")
            if stem == self.path.name and rank.isdecimal():
                note.unlink(missing_ok=True)

    def _read(self) -> tuple[bool, int]:
        held: Any = {}
        with suppress(OSError, ValueError):
            held = json.loads(self._note(self.world.rank).read_text())
        fits = self.path.exists() and isinstance(held, dict) and held.get("of") == self.identity
        if all(self.world.gather_objects(fits)):
            return True, int(held["rows"])
        if self.world.main:
            self.path.unlink(missing_ok=True)
            self._forget()
        self.world.barrier()
        return False, 0

    def _alone(self) -> None:
        """Two that write one file would both be wrong; the lock goes with its process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self.path.with_name(f"{self.path.name}.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock = None
            raise DataError(f"{self.path}: another process is writing this file now.") from None
        except OSError:
            pass  # a file system without locks
