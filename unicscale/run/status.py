"""What runs are doing, from the queue where there is one and from their folders in any case."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicscale.errors import CheckpointError, RunError, nearest
from unicscale.ranks.scheduler import Entry, Phase, Queue, scheduler
from unicscale.run.folder import RunFolder, facts_of, write_whole
from unicscale.run.launches import known_runs
from unicscale.run.lock import alive, read
from unicscale.run.sound import record_of
from unicscale.run.states import State

SET_ASIDE = re.compile(r"before-\d+")  # what --fresh started over from: not a run of its own
TAIL = 65536  # bytes of metrics.jsonl that are read for the last numbers


@dataclass(frozen=True, slots=True)
class Status:
    """One line of `unicscale jobs`."""

    run: str
    state: State
    job: str | None = None
    where: str = ""
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    eta: float | None = None  # seconds
    launches: int = 0
    why: str = ""


def find(named: Sequence[str]) -> list[RunFolder]:
    """The runs named; else those below runs/, and those this user started elsewhere."""
    if named:
        return [open_existing(name) for name in named]
    here = sorted(path.parent for path in Path("runs").glob("**/run.json") if len(path.parts) <= 5)
    here = [path for path in here if not SET_ASIDE.fullmatch(path.name)]
    elsewhere = [Path(line) for line in known_runs() if _there(Path(line, "run.json"))]
    unique = {os.path.realpath(path): path for path in [*here, *elsewhere][::-1]}
    return [RunFolder(path) for path in reversed(unique.values())]


def open_existing(name: str) -> RunFolder:
    """A run that is there, or the nearest name among those that are."""
    folder = RunFolder(Path(name))
    if not _there(folder.facts):
        known = [str(run.root) for run in find([])]
        why = "is no run folder: it holds no run.json" if folder.root.exists() else "is not there"
        raise CheckpointError(f"{name} {why}.{nearest(name, known)}")
    return folder


def _there(file: Path) -> bool:
    """Whether there is such a file; one that may not be looked at is, and its run says why."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def statuses(runs: Iterable[RunFolder]) -> list[Status]:
    """All of them, with one question to the queue; a run that cannot be read does not hide the others."""
    queue = scheduler().queue()
    return [_readable(run, queue) for run in runs]


def _readable(run: RunFolder, queue: Queue | None) -> Status:
    try:
        return status(run, queue)
    except (CheckpointError, OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
        said = str(problem) if isinstance(problem, CheckpointError | OSError) else f"run.json is not ours: {problem!r}"
        return Status(str(run.root), State.DAMAGED, why=said.splitlines()[0])


def status(run: RunFolder, queue: Queue | None) -> Status:
    """One run, as it is now."""
    facts = facts_of(run)
    launches = facts.get("launches", [])
    last = launches[-1] if launches else {}
    job = last.get("job") if facts.get("queued") is None else facts["queued"]
    entry = (queue or {}).get(job or "", Entry(Phase.GONE))
    lock = run.root / "lock"
    holder = read(lock)
    held = holder is not None and alive(lock, holder, lambda job: _phase_in(queue, job))
    unsure = queue is None and _may_be_queued(facts, last)
    records = tail(run.metrics)
    why = f"{scheduler().name} does not answer" if unsure else str(last.get("ended", {}).get("reason", ""))
    return Status(
        run=str(run.root),
        state=State.UNKNOWN if unsure and not held else _state(entry.phase, held, last),
        job=job,
        where=entry.nodes or last.get("nodes") or last.get("host", ""),
        step=records[-1]["step"] if records else 0,
        steps=facts.get("steps"),
        loss=next((r["loss"] for r in reversed(records) if "loss" in r), None),
        eta=_eta(records, facts.get("steps")) if held else None,
        launches=len(launches),
        why="" if held else why,
    )


def _phase_in(queue: Queue | None, job: str) -> Phase | None:
    """From the one answer that is there; only a job of another user's is worth a question of its own."""
    if queue is None:
        return None
    return queue[job].phase if job in queue else scheduler().phase(job)


def _may_be_queued(facts: dict[str, Any], last: dict[str, Any]) -> bool:
    """Whether only the queue knows: its job has not begun, was killed, or left with 75 to be requeued."""
    if facts.get("queued") is None:
        return False
    return last.get("job") != facts["queued"] or last.get("ended", {}).get("exit") in (None, 75)


def _state(phase: Phase, held: bool, last: dict[str, Any]) -> State:
    if held:
        return State.RUNNING
    if phase is Phase.WAITING:
        return State.REQUEUED if last else State.QUEUED
    if phase is Phase.RUNNING:
        return State.ENDING if "ended" in last and last["ended"].get("exit") == 0 else State.STARTING
    ended = last.get("ended")
    if ended is None:
        return State.CANCELLED if phase is Phase.CANCELLED else State.DIED if last else State.GONE
    return {0: State.FINISHED, 75: State.STOPPED}.get(ended.get("exit"), State.FAILED)


def _eta(records: list[dict[str, Any]], steps: int | None) -> float | None:
    """From the pace of the current launch."""
    paced = [r for r in records if "loss" in r and "time" in r]
    paced = [r for r in paced if r.get("launch") == paced[-1].get("launch")]
    if steps is None or len(paced) < 2 or paced[-1]["step"] <= paced[0]["step"]:
        return None
    pace = (paced[-1]["time"] - paced[0]["time"]) / (paced[-1]["step"] - paced[0]["step"])
    return max(0.0, (steps - paced[-1]["step"]) * pace)


def tail(file: Path, most: int = TAIL) -> list[dict[str, Any]]:
    """The last records; a half-written line is left out."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - most))
            lines = stream.read().split(b"\n")
    except OSError:
        return []
    return [record for record in map(record_of, lines) if record is not None]


def stop(run: RunFolder, who: str) -> str:
    """Ask a run to save and leave, or take it out of the queue; what was done, in words."""
    now = status(run, scheduler().queue())
    launches = now.launches
    if now.state in (State.QUEUED, State.REQUEUED):
        scheduler().cancel(str(now.job))
        return f"{run.root}: was {now.state}; job {now.job} is cancelled. The same command goes on."
    if now.state is State.UNKNOWN:
        raise RunError(
            f"{run.root}: {scheduler().name} does not answer, so nobody can say whether job {now.job} waits or runs.\n"
            f"  Try again where its queue can be asked, or cancel job {now.job} there."
        )
    if now.state not in (State.RUNNING, State.STARTING):
        return f"{run.root}: nothing to stop, it is {now.state}."
    meant = launches + (now.state is State.STARTING)
    write_whole(run.stop_request, json.dumps({"launch": meant, "by": who}) + "\n")
    return f"{run.root}: asked to stop; it saves at the end of its step and leaves. The same command goes on."
