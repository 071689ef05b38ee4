"""Plug-and-play heads: a supervised teacher's own classifier on the student's guess of its summary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unicscale.errors import DataError
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.score import Score, share
from unicscale.evaluate.task import Task, Want
from unicscale.evaluate.tasks.zero_shot import check_width, opened, own_terms, own_wants, which
from unicscale.evaluate.terms import Settings, Subject


@torch.no_grad()
def head_logits(teacher: Any, summaries: Tensor) -> Tensor:  # (N, D) -> (N, classes)
    """The teacher's logits for summaries in its own terms."""
    check_width(teacher, summaries)
    device = next(teacher.parameters()).device
    return torch.cat([teacher.classify(some.to(device).float()).float().cpu() for some in summaries.split(8192)])


@dataclass(frozen=True)
class Heads(Task):
    """On ImageNet's validation set, for every teacher that has a classifier."""

    name: str = "heads"
    teacher: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return ("imagenet",)

    def applies(self, subject: Subject) -> str | None:
        return None if which(subject, self.teacher, "classify") else "no teacher of it has a classifier"

    def wants(self, subject: Subject) -> list[Want]:
        return own_wants(subject, which(subject, self.teacher, "classify"))

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {"head": "projector -> de-standardise -> the teacher's own classifier; nothing is trained"}

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        for teacher in which(subject, self.teacher, "classify"):
            one = opened(subject, teacher).to(shelf.device)
            summaries, labels = own_terms(subject, shelf, teacher)
            logits = head_logits(one, summaries)
            classes = len(shelf.split("imagenet", "test").classes) or int(labels.max()) + 1
            if logits.shape[1] != classes:
                raise DataError(
                    f"heads: '{teacher}' answers for {logits.shape[1]} classes, but the data has {classes}; "
                    "its classifier fits ImageNet-1K with all folders, in their sorted order"
                )
            yield share(f"heads/{teacher}", (logits.argmax(1) == labels).numpy(), shelf.settings)
