"""BEST: the checkpoint that measured best so far. It stays whatever `save.keep` says, and `RUN@best` opens it."""

from __future__ import annotations

import json
import math
import os
import secrets
from pathlib import Path
from typing import NamedTuple, Protocol

NAME = "BEST"


class Rated(Protocol):
    """What a task measured."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def higher_is_better(self) -> bool: ...


class Best(NamedTuple):
    """A checkpoint's step, and the score that it is known for."""

    step: int
    task: str
    value: float
    higher_is_better: bool

    def beats(self, other: Best | None) -> bool:
        """By the same task; of equals the earlier one stays, and what is no number beats nothing."""
        if other is None or other.task != self.task:
            return math.isfinite(self.value)
        return self.value > other.value if self.higher_is_better else self.value < other.value

    @property
    def said(self) -> str:
        """`knn 71.2 at step 4000`."""
        return f"{self.task} {self.value:.4g} at step {self.step}"


def best_of(folder: Path) -> Best | None:
    """What the file says; None where there is none, or none that makes sense: then none is spared for it."""
    try:
        said = json.loads((folder / NAME).read_text(encoding="utf-8"))
        best = Best(int(said["step"]), str(said["task"]), float(said["value"]), bool(said["higher_is_better"]))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return None
    return best if math.isfinite(best.value) else None


def write_best(folder: Path, best: Best) -> None:
    """Whole or not at all."""
    temporary = folder / f".{NAME}.{secrets.token_hex(4)}.tmp"
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(best._asdict()) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, folder / NAME)
