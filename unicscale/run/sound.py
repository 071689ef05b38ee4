"""What other programs, other versions and half a disk left in a run folder: believed as far as it makes sense."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

Moment = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]  # seconds since 1970: what calendars take
Number = Annotated[int, Field(ge=0, le=10**15)]
PLACES = ("step", "images", "stage", "time", "launch", "images_per_second", "skipped")  # reckoned with, so finite
LARGEST = 1e300
MUCH = 10**15


class Ended(BaseModel):
    """How a launch ended."""

    exit: int | None = None
    reason: str = ""
    kind: str | None = None
    asked: str | None = None
    step: Number | None = None
    time: Moment | None = None


class Entry(BaseModel):
    """One launch."""

    time: Moment = 0.0
    step: Number = 0
    restart: Number = 0
    ranks: Number | None = None
    host: str | None = None
    nodes: str | None = None
    job: str | None = None
    submission: str | None = None
    ended: Ended = Ended()


class Facts(BaseModel):
    """run.json, as far as anybody reckons with it; further keys are nobody's business here."""

    id: str | None = None
    steps: Number | None = None
    queued: str | None = None
    submission: str | None = None
    versions: dict[str, str] = {}
    launches: list[Entry] = []


def problem_of(facts: Any) -> str:
    """`"launches.0.time: Input should be a valid number"`, or nothing where all is as a launch writes it."""
    try:
        Facts.model_validate(facts, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
    return ""


def record_of(line: str | bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl, its numbers only; None where it is none or says nothing of where it was written."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    record = {
        key: value
        for key, value in said.items()
        # a million lines of twenty numbers are read for one page: the usual ones at once
        if (type(value) in (float, int) and -MUCH <= value <= MUCH) or (_is_number(value) and _makes_sense(key, value))
    }
    return record if type(record.get("step")) is int and record["step"] >= 0 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _makes_sense(key: str, value: float) -> bool:
    if isinstance(value, int) or key in PLACES:
        return -MUCH <= value <= MUCH  # not of a NaN
    return not math.isfinite(value) or abs(value) < LARGEST
