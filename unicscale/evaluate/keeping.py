"""Results on disk: one JSON per model and task, and a summary of all that were ever measured beside it."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unicscale.errors import DataError, RecipeError
from unicscale.evaluate.results import compare
from unicscale.run.folder import write_whole

Result = dict[str, Any]


def refuse_unfit(out: Path, *suffixes: str) -> None:
    """What would fail after hours of measuring: a name of another kind, a folder, a place that cannot be written."""
    suffix = suffixes[0]
    if out.suffix not in suffixes:
        raise RecipeError(
            f"--out {out}: a file that ends in {' or '.join(suffixes)} is written.\n  Say {out.with_suffix(suffix)}"
        )
    if out.is_dir():
        raise RecipeError(f"--out {out}: that is a folder. Name a file in it: {out / ('out' + suffix)}")
    probe = out.with_name(f".{out.name}.{os.getpid()}.probe")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as problem:
        raise RecipeError(f"--out {out}: {out.parent} cannot be written: {problem.strerror}.") from None


def place(folder: Path, model: str, task: str) -> Path:
    """Where one result lies."""
    return folder / slug(model) / f"{slug(task)}.json"


def slug(name: str) -> str:
    """A name as a file name."""
    return re.sub(r"[^A-Za-z0-9._@+-]+", "_", name)


def write(file: Path, held: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(held, indent=1, allow_nan=False) + "\n")
    except OSError as problem:
        raise DataError(f"{file} cannot be written: {problem.strerror}.") from None


def finish(
    out: Path, results: Sequence[Result], beside: str | None, missing: Mapping[str, str], said: Mapping[str, Any]
) -> Result:
    """The summary: these results first, then what other calls measured. Nothing that was measured is dropped."""
    folder = out.with_suffix("")
    for result in results:
        file = place(folder, result["model"], result["task"])
        if not file.exists() or _read(file) != result:
            write(file, result)
    with _alone(folder):
        whole = {**compare.summary(merged(results, kept(folder)), beside, missing), **said}
        write(out, whole)
    return whole


def kept(folder: Path) -> list[Result]:
    """Every result below a folder; what cannot be read is none."""
    found = [_read(file) for file in sorted(folder.glob("*/*.json"))]
    return [one for one in found if one is not None]


def merged(new: Sequence[Result], old: Sequence[Result]) -> list[Result]:
    """Each model's results are of one set of weights: of those measured now, else of those measured last."""
    weights = {one["model"]: one["sha256"] for one in sorted(old, key=lambda one: str(one.get("when", "")))}
    weights |= {one["model"]: one["sha256"] for one in new}
    asked = {(one["model"], one["task"]) for one in new}
    others = [one for one in old if (one["model"], one["task"]) not in asked]
    return [*new, *(one for one in others if one["sha256"] == weights[one["model"]])]


def _read(file: Path) -> Result | None:
    try:
        held = json.loads(file.read_text())
        fits = isinstance(held["scores"], list) and all(isinstance(held[k], str) for k in ("model", "task", "sha256"))
        return held if fits and all({"name", "value"} <= set(score) for score in held["scores"]) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time gathers and writes a summary: each then holds all that the one before it did."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        with suppress(
            OSError
        ):  # a file system without locks: the last to write wins, and nothing but its table is late
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
