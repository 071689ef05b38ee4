"""A run as it stands, for those who watch: how far, how fast, how long still, and whether it learns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from unicscale.errors import CheckpointError
from unicscale.run.folder import RunFolder, facts_of
from unicscale.run.states import State
from unicscale.run.status import Status, tail

RECENT = 8  # records whose mean is held against that of as many before them
PATIENCE = 60.0  # seconds without a record of which nothing is said
FLAT = 0.005  # of a loss: what moves less stands still
OVER = {State.FINISHED, State.STOPPED, State.FAILED, State.DIED, State.CANCELLED, State.GONE, State.DAMAGED}


@dataclass(frozen=True, slots=True)
class Trend:
    """A number and where it goes."""

    now: float
    before: float | None = None

    @property
    def arrow(self) -> str:
        """Nothing where there is no past to compare with."""
        if not self.before:
            return ""
        change = (self.now - self.before) / abs(self.before)
        return "→" if abs(change) < FLAT else "↑" if change > 0 else "↓"


@dataclass(frozen=True, slots=True)
class Sight:
    """One run, at one moment."""

    status: Status
    stage: str = ""  # its name
    place: tuple[int, int] | None = None  # which stage of how many
    within: tuple[int, int] | None = None  # which step of it, of how many
    epoch: float | None = None
    pace: float | None = None  # images/s
    mfu: float | None = None  # share of the device's limit
    stage_left: float | None = None  # seconds
    loss: Trend | None = None
    teachers: dict[str, Trend] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)  # of the images that each taught
    waits: float | None = None  # share of a step that goes into waiting for images
    spent: dict[str, float] = field(default_factory=dict)  # seconds of a step by phase
    memory: float | None = None  # GiB, of rank 0
    saved: tuple[int, float] | None = None  # step of the newest checkpoint, and how many seconds ago
    measured: dict[str, float] = field(default_factory=dict)  # the last validation
    silent: float | None = None  # seconds for which a running run has said nothing, where that is unusual

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.status.state in OVER


def see(run: RunFolder, status: Status) -> Sight:
    """From the folder alone; what it does not say is left out."""
    try:
        facts = facts_of(run)
    except CheckpointError:
        return Sight(status)  # it says why itself
    records = _of_last_launch(tail(run.metrics))
    steps = [r for r in records if "loss" in r]
    last = steps[-1] if steps else {}
    names = [key[5:] for key in last if key.startswith("loss/") and key.count("/") == 1]
    spent = {key[5:]: value for key, value in last.items() if key.startswith("time/")}
    whole = sum(spent.values())
    stages = _stages(facts)
    number = min(int(last.get("stage", 0)), len(stages) - 1) if stages else None
    within = None if number is None else _within(stages[number], status.step)
    pace = _median([r["images_per_second"] for r in steps[-RECENT:] if r.get("images_per_second")])
    per_epoch = facts.get("images_per_epoch")
    return Sight(
        status,
        stage="" if number is None else str(stages[number].get("name", "")),
        place=None if number is None else (number + 1, len(stages)),
        within=within,
        epoch=last["images"] / per_epoch if last.get("images") and isinstance(per_epoch, int) and per_epoch else None,
        pace=pace,
        mfu=last.get("mfu"),
        stage_left=_share_of(status, within),
        loss=_trend(steps, "loss"),
        teachers={name: trend for name in names if (trend := _trend(steps, f"loss/{name}"))},
        shares={key[5:]: value for key, value in last.items() if key.startswith("keep/")},
        waits=spent.get("data", 0.0) / whole if whole > 0 else None,
        spent=spent,
        memory=last.get("memory_gib"),
        saved=_saved(run),
        measured=_measured(records),
        silent=_silent(records) if status.state is State.RUNNING else None,
    )


def _of_last_launch(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What an earlier launch did beyond its checkpoint was done again."""
    launch = next((r["launch"] for r in reversed(records) if "launch" in r), None)
    return [r for r in records if r.get("launch", launch) == launch]


def _stages(facts: dict[str, Any]) -> list[dict[str, Any]]:
    held = facts.get("stages")
    return [one for one in held if isinstance(one, dict)] if isinstance(held, list) else []


def _within(stage: dict[str, Any], step: int) -> tuple[int, int] | None:
    first, count = stage.get("first"), stage.get("steps")
    return (max(0, step - first), count) if isinstance(first, int) and isinstance(count, int) else None


def _share_of(status: Status, within: tuple[int, int] | None) -> float | None:
    """Of the time that the run still needs, as large a part as the stage has of its steps."""
    if status.eta is None or not status.steps or within is None or status.steps <= status.step:
        return None
    return status.eta * max(0, within[1] - within[0]) / (status.steps - status.step)


def _trend(steps: Sequence[dict[str, Any]], term: str) -> Trend | None:
    held = [r[term] for r in steps if isinstance(r.get(term), int | float)]
    if not held:
        return None
    before = held[-2 * RECENT : -RECENT]
    return Trend(statistics.fmean(held[-RECENT:]), statistics.fmean(before) if len(before) == RECENT else None)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _saved(run: RunFolder) -> tuple[int, float] | None:
    found: list[tuple[int, Path]] = []
    for file in run.checkpoints.glob("step-*/manifest.json"):
        number = file.parent.name.removeprefix("step-")
        found += [(int(number), file)] if number.isdecimal() else []
    if not found:
        return None
    step, file = max(found)
    try:
        return step, max(0.0, time.time() - file.stat().st_mtime)
    except OSError:  # retention took it in between
        return None


def _measured(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    held = next((r for r in reversed(records) if any(k.startswith("val/") for k in r)), {})
    shown = (k for k in held if k.startswith("val/") and k.count("/") == 1 and k not in ("val/seconds", "val/failed"))
    # "loss" alone is that of training
    return {"val loss" if key == "val/loss" else key[4:]: held[key] for key in shown}


def _silent(records: Sequence[dict[str, Any]]) -> float | None:
    """An evaluation may take long, and so may a first step; a rank that hangs takes longer."""
    times = [r["time"] for r in records if "time" in r]
    if len(times) < 3:
        return None
    usual = max(after - before for before, after in pairwise(times))
    silent = time.time() - times[-1]
    return silent if silent > max(PATIENCE, 2 * usual) else None


def clock(seconds: float | None) -> str:
    """`3:07:12`; days apart."""
    if seconds is None:
        return ""
    hours, rest = divmod(int(seconds), 3600)
    days = f"{hours // 24} d " if hours >= 48 else ""
    return f"{days}{hours % 24 if days else hours}:{rest // 60:02d}:{rest % 60:02d}"


def line(sight: Sight) -> str:
    """All of it in one line, for files and pipes."""
    now = sight.status
    parts = [now.run, str(now.state)]
    if sight.place:
        parts.append(f"stage {sight.stage} ({sight.place[0]}/{sight.place[1]})")
    parts.append(f"step {now.step}/{now.steps}" if now.steps else f"step {now.step}")
    parts += [f"epoch {sight.epoch:.2f}"] if sight.epoch is not None else []
    parts += [f"{sight.pace:.0f} img/s"] if sight.pace is not None else []
    parts += [f"MFU {100 * sight.mfu:.0f} %"] if sight.mfu is not None else []
    parts += [f"stage {clock(sight.stage_left)} left"] if sight.stage_left is not None else []
    parts += [f"run {clock(now.eta)} left"] if now.eta is not None else []
    parts += [f"loss {sight.loss.now:.4f}{sight.loss.arrow}"] if sight.loss else []
    for name, trend in sight.teachers.items():
        taught = f" of {100 * sight.shares[name]:.0f} %" if sight.shares.get(name, 1.0) < 1 else ""
        parts.append(f"{name} {trend.now:.4f}{trend.arrow}{taught}")
    parts += [f"{name} {value:.4g}" for name, value in sight.measured.items()]
    parts += [f"waits for data {100 * sight.waits:.0f} %"] if sight.waits is not None else []
    parts += [f"{sight.memory:.1f} GiB"] if sight.memory is not None else []
    parts += [f"saved at {sight.saved[0]}, {clock(sight.saved[1])} ago"] if sight.saved else []
    parts += [f"nothing new for {clock(sight.silent)}"] if sight.silent is not None else []
    parts += [now.why] if now.why and sight.over and now.state is not State.FINISHED else []
    return "  ".join(parts)
