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

from unicscale.errors import DataError, RecipeError, TeacherError
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.metrics.checks import check_labels
from unicscale.evaluate.score import Score, share
from unicscale.evaluate.task import Task, Want
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


def check_width(teacher: Any, summaries: Tensor) -> None:
    """Refuse a teacher of another size than the one that taught."""
    if summaries.shape[1] != teacher.spec.dim:
        raise DataError(
            f"the summaries are {summaries.shape[1]} wide, but teacher '{teacher.name}' is {teacher.spec.dim} wide;"
            f" is it another size of it? --option {teacher.name}.size=..."
        )


def imagenet_names(shelf: Shelf) -> tuple[list[str], Sequence[Any]]:
    """open_clip's class names and templates; other sets state theirs in classnames.txt beside train/ and val/."""
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    images = shelf.split("imagenet", "test")
    listed = Path(images.path).parent / "classnames.txt"
    names = listed.read_text().splitlines() if listed.is_file() else list(IMAGENET_CLASSNAMES)
    classes = len(images.classes) or int(np.asarray(images.labels).max()) + 1
    if len(names) != classes:
        raise DataError(
            f"{images.path}: {classes} classes, but {len(names)} names.\n"
            f"  Where this is not ImageNet, list the class names in the order of the folders, one per line, in {listed}"
        )
    return names, OPENAI_IMAGENET_TEMPLATES


def own_wants(subject: Subject, teachers: list[str]) -> list[Want]:
    """Which summaries `own_terms` will ask for."""
    return [Want("imagenet", "test", None if subject.teacher else teacher) for teacher in teachers]


def own_terms(subject: Subject, shelf: Shelf, teacher: str) -> tuple[Tensor, Tensor]:
    """ImageNet's test images in a teacher's own summary space, and their labels."""
    if subject.teacher:
        held = shelf.features(subject, "imagenet", "test")
        return held.features, held.labels
    held = shelf.features(subject, "imagenet", "test", answer=teacher)
    assert subject.invert is not None
    return subject.invert(teacher, held.features.float()), held.labels


def which(subject: Subject, wanted: str | None, ability: str) -> list[str]:
    """The subject's teachers that have an ability (`embed` or `classify`) of their own; or the wanted one."""
    from unicscale.teacher.plugin import Teacher

    if wanted is not None and wanted not in subject.taught_by:
        taught = ", ".join(subject.taught_by) or "nobody: it has no projector"
        raise RecipeError(f"{subject.name} has no projector for '{wanted}'; it was taught by {taught}.")
    silent = subject.notes.get("without summary", [])
    if wanted in silent:
        raise RecipeError(
            f"{subject.name} was taught patches only by '{wanted}': there is no summary of it to classify by."
        )
    found = []
    for name in [wanted] if wanted else subject.taught_by:
        plugin = subject.notes.get("plugins", {}).get(name)
        if (
            name not in silent
            and plugin is not None
            and getattr(type(plugin), ability) is not getattr(Teacher, ability)
        ):
            found.append(name)
    return found


@dataclass(frozen=True)
class ZeroShot(Task):
    """On ImageNet's validation set."""

    name: str = "zero_shot"
    teacher: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return ("imagenet",)

    def applies(self, subject: Subject) -> str | None:
        return None if which(subject, self.teacher, "embed_text") else "no teacher of it has a text tower"

    def wants(self, subject: Subject) -> list[Want]:
        return own_wants(subject, which(subject, self.teacher, "embed_text"))

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {"text": "open_clip's 1000 class names x OpenAI's 80 templates, mean of normalised embeddings"}

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        names, templates = imagenet_names(shelf)
        for teacher in which(subject, self.teacher, "embed_text"):
            clip = opened(subject, teacher).to(shelf.device)
            summaries, labels = own_terms(subject, shelf, teacher)
            check_labels("imagenet test", labels, len(summaries), len(names))
            predictions = zero_shot_predict(clip, summaries, text_classifier(clip, names, templates))
            yield share(f"zero_shot/{teacher}", (predictions == labels).numpy(), shelf.settings)


def opened(subject: Subject, teacher: str) -> Any:
    """The teacher itself, with weights; the error says how to name them."""
    assert subject.open_teacher is not None
    try:
        return subject.open_teacher(teacher)
    except TeacherError as problem:
        raise TeacherError(f"{problem}\n  Or say where its weights are: --weights {teacher}=FILE") from None
