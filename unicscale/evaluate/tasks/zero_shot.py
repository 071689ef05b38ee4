"""Zero-shot classification: the student's guess of a CLIP teacher's CLS, through that teacher's own projection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.errors import DataError
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.metrics.checks import check_labels
from unicscale.evaluate.score import Score, share
from unicscale.evaluate.task import Task
from unicscale.evaluate.tasks.borrowed import Borrowed, check_width, own_terms
from unicscale.evaluate.terms import Settings, Subject

TEXTS = 512  # prompts per pass of the text tower


@torch.no_grad()
def text_classifier(clip: Any, names: Sequence[str], templates: Sequence[Any]) -> Tensor:  # (classes, E)
    """Per class the normalised mean of its prompts' normalised embeddings; `clip` tokenizes and embeds texts."""
    device = next(clip.parameters()).device
    prompts = [template(name) for name in names for template in templates]
    parts = []
    for first in range(0, len(prompts), TEXTS):
        tokens = clip.tokenize(prompts[first : first + TEXTS]).to(device)
        parts.append(F.normalize(clip.embed_text(tokens).float(), dim=-1))
    return F.normalize(torch.cat(parts).view(len(names), len(templates), -1).mean(1), dim=-1)


@torch.no_grad()
def zero_shot_predict(clip: Any, summaries: Tensor, classifier: Tensor) -> Tensor:  # (N, D) -> (N,)
    """The nearest text of each of the teacher's (or the student's de-standardised) summaries."""
    check_width(clip, summaries)
    device = classifier.device
    parts = [clip.embed(some.to(device).float()) @ classifier.T for some in summaries.split(8192)]
    return torch.cat(parts).argmax(1).cpu()


def names_file(shelf: Shelf) -> Path:
    """Where a set that is not ImageNet lists its class names."""
    return Path(shelf.split("imagenet", "test").path).parent / "classnames.txt"


def imagenet_names(shelf: Shelf) -> tuple[list[str], Sequence[Any]]:
    """open_clip's class names and templates; other sets state theirs in classnames.txt beside train/ and val/."""
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    images = shelf.split("imagenet", "test")
    listed = names_file(shelf)
    names = listed.read_text().splitlines() if listed.is_file() else list(IMAGENET_CLASSNAMES)
    classes = len(images.classes) or int(np.asarray(images.labels).max()) + 1
    if len(names) != classes:
        raise DataError(
            f"{images.path}: {classes} classes, but {len(names)} names.\n"
            f"  Where this is not ImageNet, list the class names in the order of the folders, one per line, in {listed}"
        )
    return names, OPENAI_IMAGENET_TEMPLATES


@dataclass(frozen=True)
class ZeroShot(Borrowed):
    """On ImageNet's validation set."""

    name: str = "zero_shot"
    needs: tuple[str, ...] = ("imagenet",)
    ability: str = "embed_text"

    def depends(self, subject: Subject, shelf: Shelf) -> Any:
        listed = names_file(shelf)
        return [super().depends(subject, shelf), listed.read_text() if listed.is_file() else None]

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {"text": "open_clip's 1000 class names x OpenAI's 80 templates, mean of normalised embeddings"}

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        names, templates = imagenet_names(shelf)
        for teacher in self.lenders(subject):
            clip = subject.lenders[teacher].open().to(shelf.device)
            summaries, labels = own_terms(subject, shelf, teacher)
            check_labels("imagenet test", labels, len(summaries), len(names))
            predictions = zero_shot_predict(clip, summaries, text_classifier(clip, names, templates))
            yield share(f"zero_shot/{teacher}", (predictions == labels).numpy(), shelf.settings)


TASKS: tuple[Task, ...] = (ZeroShot(),)
