"""metrics.jsonl, read from its beginning: what a run did, once, whoever did it last."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from unicscale.run.sound import record_of

Record = dict[str, Any]
MOST = 8000  # records of steps that are held: more than a figure has pixels
LAST = 5  # records whose mean stands for the end of a run: one step's loss is noisy


@dataclass(slots=True)
class Course:
    """What metrics.jsonl tells, each step once: as the last launch that reached it did it."""

    steps: list[Record] = field(default_factory=list)  # of a very long run every so manieth one
    last: deque[Record] = field(default_factory=lambda: deque(maxlen=LAST))  # these without gaps
    validations: list[Record] = field(default_factory=list)
    skips: dict[int, int] = field(default_factory=dict)  # by launch: steps that moved nothing
    replayed: int = 0  # records of steps that a later launch did again
    torn: int = 0  # lines that could not be read
    stride: int = 1
    seen: int = 0

    def hear(self, record: Record) -> None:
        """One line of the file."""
        number = record["step"]
        if "loss" not in record:
            _back_to(self.validations, number)
            self.validations.append(record)
            return
        self.replayed += self.stride * _back_to(self.steps, number)
        _back_to(self.last, number)
        self.last.append(record)
        launch = record.get("launch", 0)
        self.skips[launch] = max(self.skips.get(launch, 0), int(record.get("skipped", 0)))
        self.seen += 1
        if self.seen % self.stride == 0:
            self.steps.append(record)
        if len(self.steps) > MOST:
            del self.steps[1::2]
            self.stride *= 2


def _back_to(records: list[Record] | deque[Record], step: int) -> int:
    """A later launch goes on from its checkpoint: what lies behind it is done again. How many that were."""
    gone = 0
    while records and records[-1]["step"] >= step:
        records.pop()
        gone += 1
    return gone


def course_of(file: Path) -> Course:
    """Line by line; half a line, or one that is none of ours, costs that line."""
    course = Course()
    if not file.exists():
        return course
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            record = record_of(line)
            if _is_ours(record):
                course.hear(record)
            else:
                course.torn += 1
    return course


def _is_ours(record: Any) -> TypeGuard[Record]:
    """Whether a line says where in the run it was written."""
    return record is not None and all(isinstance(record.get(key), int) for key in ("step", "images", "stage"))
