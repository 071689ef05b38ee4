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
from unicscale.evaluate.task import Task
from unicscale.evaluate.tasks.borrowed import Borrowed, check_width, own_terms
from unicscale.evaluate.terms import Settings, Subject


@torch.no_grad()
def head_logits(teacher: Any, summaries: Tensor) -> Tensor:  # (N, D) -> (N, classes)
    """The teacher's logits for summaries in its own terms."""
    check_width(teacher, summaries)
    device = next(teacher.parameters()).device
    return torch.cat([teacher.classify(some.to(device).float()).float().cpu() for some in summaries.split(8192)])


@dataclass(frozen=True)
class Heads(Borrowed):
    """On ImageNet's validation set, for every teacher that has a classifier."""

    name: str = "heads"
    needs: tuple[str, ...] = ("imagenet",)

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {"head": "projector -> de-standardise -> the teacher's own classifier; nothing is trained"}

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        for teacher in self.lenders(subject):
            one = subject.lenders[teacher].open().to(shelf.device)
            summaries, labels = own_terms(subject, shelf, teacher)
            logits = head_logits(one, summaries)
            classes = len(shelf.split("imagenet", "test").classes) or int(labels.max()) + 1
            if logits.shape[1] != classes:
                raise DataError(
                    f"heads: '{teacher}' answers for {logits.shape[1]} classes, but the data has {classes}; "
                    "its classifier fits ImageNet-1K with all folders, in their sorted order"
                )
            yield share(f"heads/{teacher}", (logits.argmax(1) == labels).numpy(), shelf.settings)


TASKS: tuple[Task, ...] = (Heads(),)
