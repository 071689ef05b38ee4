"""The commit protocol: a fresh folder, every file hashed and on the disk, one rename, LATEST after it.

It runs in threads, so it holds no collective: ranks leave `.done` files, and rank 0 commits when all are there.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from dataclasses import asdict, replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from unicscale.checkpoint.layout import file_of
from unicscale.checkpoint.manifest import NAME, Manifest, Proof, prove
from unicscale.checkpoint.retention import discard
from unicscale.errors import CheckpointError

POLL = 0.05  # seconds between looks for the others' marks


def write_part(folder: Path, rank: int, tensors: dict[str, Tensor]) -> None:
    """One rank's file, on the disk, and then the mark that says so and holds its hash."""
    path, mark = folder / file_of(rank), folder / f"{rank:04d}.done"
    save_file(tensors, str(path))
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
    _write_synced(mark.with_suffix(".tmp"), json.dumps(asdict(prove(path))))
    os.rename(mark.with_suffix(".tmp"), mark)


def everybody(folder: Path, ranks: int, timeout: float) -> dict[str, Proof]:
    """Wait for all marks and take them away; a rank that failed or stays silent ends the save."""
    deadline = time.monotonic() + timeout
    proofs: dict[str, Proof] = {}
    while len(proofs) < ranks:
        there = set(os.listdir(folder))  # one request, where a thousand ranks would be two thousand
        for rank in range(ranks):
            done, failed = f"{rank:04d}.done", f"{rank:04d}.failed"
            if failed in there:
                raise CheckpointError((folder / failed).read_text() or f"rank {rank} could not write")
            if done in there:
                proofs[file_of(rank)] = Proof(**json.loads((folder / done).read_text()))
                (folder / done).unlink()
        if len(proofs) < ranks and time.monotonic() > deadline:
            silent = next(rank for rank in range(ranks) if file_of(rank) not in proofs)
            raise CheckpointError(f"rank {silent} did not finish writing {file_of(silent)} in {timeout:.0f} s")
        time.sleep(POLL if len(proofs) < ranks else 0)
    return proofs


def commit(folder: Path, manifest: Manifest, proofs: dict[str, Proof], texts: dict[str, str]) -> Path:
    """Rank 0, when everybody's file is on the disk: small files, manifest, one rename, LATEST."""
    files = proofs | {name: _write_synced(folder / name, text) for name, text in texts.items()}
    _write_synced(folder / NAME, replace(manifest, files=files).text())
    _sync_folder(folder)
    final = folder.with_name(f"step-{manifest.progress['step']:08d}")
    _put_in_place(folder, final)
    _point(final)
    return final


def give_up(folder: Path, rank: int, why: str) -> None:
    """Rank 0 clears away what was not committed; the others tell it why they cannot."""
    try:
        if rank == 0:
            discard(folder)
            return
        (folder / f"{rank:04d}.failed").touch()  # an empty file fits on a full disk
        (folder / f"{rank:04d}.failed").write_text(why)
    except OSError:
        pass  # the folder is gone already, or rank 0 gives up by its own clock


def _point(final: Path) -> None:
    """LATEST names this checkpoint: for people and scripts, resuming goes by steps and hashes."""
    temporary = final.with_name(f".LATEST.{secrets.token_hex(4)}.tmp")
    _write_synced(temporary, final.name + "\n")
    os.replace(temporary, final.with_name("LATEST"))
    _sync_folder(final.parent)


def _put_in_place(folder: Path, final: Path) -> None:
    # a folder cannot be renamed over another: the old one steps aside; `tidy` brings it back after a kill
    aside = final.with_name(f".{final.name}.{secrets.token_hex(4)}.aside")
    if final.exists():
        os.rename(final, aside)
    os.rename(folder, final)
    _sync_folder(final.parent)
    if aside.exists():
        discard(aside)


def _write_synced(path: Path, text: str) -> Proof:
    with open(path, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return prove(path)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)
