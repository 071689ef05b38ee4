"""Which checkpoints stay: the last K that are verified, and every Nth step."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from unicscale.checkpoint.manifest import Damaged
from unicscale.checkpoint.reading import STEP, committed, opened


class Keeper:
    """Deletes what is old, but never counts a torn checkpoint as one that protects the run."""

    def __init__(self, folder: Path, keep: int, keep_every_steps: int | None) -> None:
        self.folder, self.keep, self.every = folder, keep, keep_every_steps
        self.proven: dict[str, list[tuple[str, int, int]]] = {}  # what each looked like when its hashes were right

    def prove(self, path: Path) -> None:
        """Remember that this one's hashes are right: it was verified, or just written."""
        self.proven[path.name] = _looks(path)

    def sweep(self) -> None:
        """Delete everything older than the last `keep` verified ones, except every Nth step."""
        good = 0
        for path in committed(self.folder):
            if good >= self.keep and not (self.every and int(path.name.removeprefix("step-")) % self.every == 0):
                discard(path)
            elif self._whole(path):
                good += 1

    def _whole(self, path: Path) -> bool:
        if path.name in self.proven and self.proven[path.name] == _looks(path):
            return True
        try:
            whole = not opened(path).problems()
        except Damaged:
            return False
        if whole:
            self.prove(path)
        return whole


def _looks(path: Path) -> list[tuple[str, int, int]]:
    # a checkpoint proven once is not hashed again while nobody touched it: 20 GB per save for UNIC-L otherwise
    return sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in path.iterdir())


def discard(path: Path) -> None:
    """Delete a folder; renamed first, so that a kill half-way never leaves something that looks like a checkpoint."""
    doomed = path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(4)}.doomed")
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def tidy(folder: Path) -> None:
    """What killed launches left behind: half-written saves go, a checkpoint that was moved aside comes back.

    Only for the launch that holds the run folder.
    """
    for path in folder.glob(".step-*"):
        name = path.name.split(".")[1]
        if path.suffix == ".aside" and STEP.match(name) and not (folder / name).exists():
            os.rename(path, folder / name)
        elif path.suffix in (".partial", ".doomed", ".aside"):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".LATEST.*.tmp"):
        path.unlink()
