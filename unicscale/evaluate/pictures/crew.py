"""A student and its teachers at the same pixels: what each says of them, and how far the student's guess is off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale import checkpoint
from unicscale.contracts import Features, Seen
from unicscale.data.once import Once
from unicscale.data.sets.images import Images
from unicscale.errors import CheckpointError
from unicscale.evaluate.features.extract import summary_of
from unicscale.evaluate.opening import open_subject
from unicscale.evaluate.pictures.sheet import SIDE
from unicscale.evaluate.terms import Subject
from unicscale.interop.sources import resolved
from unicscale.objective.grid import on_grid
from unicscale.recipe import Recipe
from unicscale.teacher.targets import Teachers

BATCH = 32


@dataclass(slots=True)
class Crew:
    """One run's student and, where they can be had, its teachers."""

    recipe: Recipe
    student: Subject
    teachers: dict[str, Subject]
    at: int  # the step of its checkpoint

    @property
    def models(self) -> dict[str, Subject]:
        """All of them, the student first."""
        return {"student": self.student, **self.teachers}


@dataclass(slots=True)
class Views:
    """What all of them said of some images."""

    tiles: Tensor  # (N, 3, S, S) uint8, small
    names: list[str]
    labels: Tensor  # (N,) -1: none
    classes: list[str]
    summaries: dict[str, Tensor]  # model -> (N, D)
    patches: dict[str, Tensor]  # model -> (few, P, D): of the first images only
    distances: dict[str, Tensor]  # teacher -> (N,): of the student's guess from the teacher's tokens


def muster(run: str, device: torch.device, given: Mapping[str, Mapping[str, Any]], *, alone: bool) -> Crew:
    """From a run folder; `alone` leaves the teachers out."""
    for path in (paths := resolved(run)):
        try:
            found = checkpoint.glance(path)
            break
        except CheckpointError:  # a damaged one: the one before it then
            if path == paths[-1]:
                raise
    recipe = found.recipe
    said = {n: {**s.model_dump(), **given.get(n, {})} for n, s in recipe.teachers.items()}
    student = open_subject(run, device, given)
    names = [] if alone or student.see is None else list(recipe.teachers)
    teachers = {name: open_subject(f"{name}=teacher:{name}", device, said) for name in names}
    return Crew(recipe, student, teachers, found.progress.step)


def view(crew: Crew, images: Images, few: int) -> Views:
    """All images once through everybody; patch tokens of the first few are kept."""
    device = next(crew.student.module.parameters()).device
    size, patch = crew.student.size, crew.student.patch
    targets_of = _targets(crew, device)
    tiles, labels = [], []
    summaries: dict[str, list[Tensor]] = {}
    patches: dict[str, list[Tensor]] = {}
    distances: dict[str, list[Tensor]] = {}
    seen_so_far = 0
    for pixels, label, _ in Once(images, range(len(images)), size, BATCH, device, crop=True):
        wanted = max(0, few - seen_so_far)
        seen_so_far += len(pixels)
        with torch.inference_mode():
            for name, features, distance in _each(crew, targets_of, pixels):
                summaries.setdefault(name, []).append(summary_of(features).float().cpu())
                if features.patches is not None and wanted:
                    patches.setdefault(name, []).append(on_grid(features.patches[:wanted], size // patch).float().cpu())
                if distance is not None:
                    distances.setdefault(name, []).append(distance.cpu())
        pixels = pixels[:, crew.recipe.data.channels.three] if pixels.shape[1] != 3 else pixels  # for a person
        small = F.interpolate(pixels.float(), size=(SIDE, SIDE), mode="area") if size > SIDE else pixels
        tiles.append(small.round().clamp(0, 255).to(torch.uint8).cpu())
        labels.append(label.cpu())
    return Views(
        torch.cat(tiles), [images.name(n) for n in range(len(images))], torch.cat(labels), list(images.classes),
        *({name: torch.cat(parts) for name, parts in held.items()} for held in (summaries, patches, distances)),
    )  # fmt: skip


def _each(crew: Crew, targets_of: Teachers | None, pixels: Tensor) -> Iterator[tuple[str, Features, Tensor | None]]:
    """(model, its features in its own terms, how far the student's guess of it is off)."""
    if targets_of is None:
        yield "student", crew.student.encode(pixels), None
        return
    assert crew.student.see is not None, "teachers are mustered for students with projectors"
    seen: Seen = crew.student.see(pixels)
    yield "student", seen.features, None
    for name, target in targets_of(pixels, observe=False).items():
        statistics: Any = targets_of.statistics
        own = Features(*(
            None if tokens is None else statistics[f"{name}/{kind}"].invert(tokens)
            for kind, tokens in zip(Features._fields, target, strict=True)
        ))  # fmt: skip
        yield name, own, distance(seen.answers[name], target)


def distance(answer: Features, target: Features) -> Tensor:  # (B,)
    """1 - cosine of the standardised tokens: the mean of the summary's and of all patches'."""
    parts = []
    if answer.summary is not None and target.summary is not None:
        parts.append(1 - F.cosine_similarity(answer.summary.float(), target.summary, dim=-1))
    if answer.patches is not None and target.patches is not None:
        theirs = on_grid(target.patches, round(answer.patches.shape[1] ** 0.5))
        parts.append((1 - F.cosine_similarity(answer.patches.float(), theirs, dim=-1)).mean(1))
    return torch.stack(parts).mean(0)


def _targets(crew: Crew, device: torch.device) -> Teachers | None:
    """The run's teachers as it trained with them, with the statistics that its checkpoint holds."""
    if not crew.teachers:
        return None
    recipe, whole = crew.recipe, crew.student.see
    frozen: Any = {name: one.module for name, one in crew.teachers.items()}
    policies = {name: recipe.teachers[name].resolution for name in frozen}
    targets = Teachers(
        frozen, frozen, policies, recipe.standardize, recipe.loss, crew.student.patch, device, None,
        recipe.loss.angles(recipe.teachers),
    )  # fmt: skip
    own: Any = targets.statistics
    held: Any = whole.statistics  # type: ignore[union-attr]
    for name in frozen:
        for number, kind in zip("01", Features._fields, strict=True):
            if f"{name}/{kind}" in own and number in held[name]:
                own[f"{name}/{kind}"] = held[name][number]
    return targets
