"""What runs are doing, from the queue where there is one and from their folders in any case."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicscale.errors import CheckpointError, nearest
from unicscale.launches import known_runs
from unicscale.lock import alive, read
from unicscale.runs import RunFolder, facts_of, write_whole

TAIL = 65536  # bytes of metrics.jsonl that are read for the last numbers


@dataclass(frozen=True, slots=True)
class Status:
    """One line of `unicscale jobs`."""

    run: str
    state: str  # queued, requeued, starting, running, finished, stopped, failed, died, cancelled
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
    elsewhere = [Path(line) for line in known_runs() if Path(line, "run.json").exists()]
    unique = {path.resolve(): path for path in [*here, *elsewhere][::-1]}
    return [RunFolder(path) for path in reversed(unique.values())]


def open_existing(name: str) -> RunFolder:
    """A run that is there, or the nearest name among those that are."""
    folder = RunFolder(Path(name))
    if not folder.facts.exists():
        known = [str(run.root) for run in find([])]
        raise CheckpointError(f"{name} is no run folder: it holds no run.json.{nearest(name, known)}")
    return folder


def statuses(runs: Iterable[RunFolder]) -> list[Status]:
    """All of them, with one question to the queue."""
    queue = squeue()
    return [status(run, queue) for run in runs]


def status(run: RunFolder, queue: dict[str, tuple[str, str]] | None) -> Status:
    """One run, as it is now."""
    facts = facts_of(run)
    launches = facts.get("launches", [])
    last = launches[-1] if launches else {}
    job = last.get("job") if facts.get("queued") is None else facts["queued"]
    in_queue, nodes = (queue or {}).get(job or "", ("", ""))
    lock = run.root / "lock"
    holder = read(lock)
    held = holder is not None and alive(lock, holder)
    records = tail(run.metrics)
    return Status(
        run=str(run.root),
        state=_state(in_queue, held, last),
        job=job,
        where=nodes or last.get("nodes") or last.get("host", ""),
        step=next((r["step"] for r in reversed(records) if "step" in r), 0),
        steps=facts.get("steps"),
        loss=next((r["loss"] for r in reversed(records) if "loss" in r), None),
        eta=_eta(records, facts.get("steps")) if held else None,
        launches=len(launches),
        why="" if held else str(last.get("ended", {}).get("reason", "")),
    )


def _state(in_queue: str, held: bool, last: dict[str, Any]) -> str:
    if held:
        return "running"
    if in_queue in ("PENDING", "REQUEUED", "CONFIGURING"):
        return "requeued" if last else "queued"
    if in_queue in ("RUNNING", "SUSPENDED"):
        return "ending" if "ended" in last and last["ended"].get("exit") == 0 else "starting"
    ended = last.get("ended")
    if ended is None:
        return "cancelled" if in_queue == "CANCELLED" else "died" if last else "gone"
    return {0: "finished", 75: "stopped"}.get(ended.get("exit"), "failed")


def _eta(records: list[dict[str, Any]], steps: int | None) -> float | None:
    """From the pace of the current launch."""
    paced = [r for r in records if "loss" in r and "time" in r]
    paced = [r for r in paced if r.get("launch") == paced[-1].get("launch")]
    if steps is None or len(paced) < 2 or paced[-1]["step"] <= paced[0]["step"]:
        return None
    pace = (paced[-1]["time"] - paced[0]["time"]) / (paced[-1]["step"] - paced[0]["step"])
    return max(0.0, (steps - paced[-1]["step"]) * pace)


def tail(file: Path) -> list[dict[str, Any]]:
    """The last records; a half-written line is left out."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - TAIL))
            lines = stream.read().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def squeue() -> dict[str, tuple[str, str]] | None:
    """Job -> (state, nodes) of this user's jobs; None where no Slurm answers."""
    command = ["squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%N"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
    return {job: (state, nodes) for job, state, nodes in rows}


def stop(run: RunFolder, who: str) -> str:
    """Ask a run to save and leave, or take it out of the queue; what was done, in words."""
    now = status(run, squeue())
    launches = now.launches
    if now.state in ("queued", "requeued"):
        subprocess.run(["scancel", str(now.job)], check=True, timeout=60)
        return f"{run.root}: was {now.state}; job {now.job} is cancelled. The same command goes on."
    if now.state not in ("running", "starting"):
        return f"{run.root}: nothing to stop, it is {now.state}."
    meant = launches + (now.state == "starting")
    write_whole(run.stop_request, json.dumps({"launch": meant, "by": who}) + "\n")
    return f"{run.root}: asked to stop; it saves at the end of its step and leaves. The same command goes on."


def follow(file: Path, lines: int, *, forever: bool, patience: float = 0.5) -> Iterator[str]:
    """The last lines of a file, then what is appended to it; survives the file's replacement."""
    with file.open(errors="replace") as stream:
        yield from stream.readlines()[-lines:]
        while forever:
            text = stream.readline()
            if text:
                yield text
            else:
                time.sleep(patience)
