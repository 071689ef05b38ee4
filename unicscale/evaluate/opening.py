"""MODEL on the command line -> a Subject: runs, checkpoints, exports, official files, `teacher:NAME`, `timm:ID`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unicscale.contracts import Features
from unicscale.errors import CheckpointError, RecipeError
from unicscale.evaluate.features.marks import sha_of
from unicscale.evaluate.lenders import Lender
from unicscale.evaluate.terms import Subject
from unicscale.interop.sources import frozen_section, resolved

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from unicscale.interop.loading import Model


def open_subject(model: str, device: torch.device, given: Mapping[str, Mapping[str, Any]] | None = None) -> Subject:
    """The model, frozen, on the device; `given` says more of teachers by name: weights, size, plugin."""
    given = given or {}
    label, source = parted(model)
    if (frozen := frozen_section(source)) is not None:
        name, section = frozen
        lender = Lender.of(name, {**section, **given.get(name, {})})
        counts = source.startswith("teacher:")
        return _of_frozen(label or source, lender, device, teacher=counts)
    from unicscale.interop.loading import both, first_whole

    path, opened = first_whole(source)
    module, whole = both(opened)
    module.to(device)
    of = sha_of(module), module.size, module.patch, len(module.mean)
    subject = Subject(label or _label(path), module, module, *of)
    if whole is None or not len(whole.statistics):
        return subject
    lenders = _lenders(path, tuple(whole.statistics), given)
    whole.to(device)
    silent = tuple(name for name in whole.statistics if not whole.answers_summary(name))
    return replace(subject, see=whole, invert=_inverse(whole, device), lenders=lenders, silent=silent)


def parted(model: str) -> tuple[str, str]:
    """`LABEL=MODEL`; a path with an equals sign in it is a path."""
    label, found, source = model.partition("=")
    return (label, source) if found and not Path(model).exists() else ("", model)


def with_teachers(models: list[str], given: dict[str, dict[str, Any]]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The models and, after them, each teacher that their recipes name."""
    more: dict[str, dict[str, Any]] = {}
    for model in models:
        more |= recipe_teachers(resolved(parted(model)[1])[0])
    if not more:
        raise RecipeError(
            "--teachers: none of these models is a run, so no recipe names its teachers; give teacher:NAME"
        )
    merged = {name: {**more.get(name, {}), **given.get(name, {})} for name in [*more, *given]}
    return [*models, *(f"teacher:{name}" for name in more)], merged


def _of_frozen(label: str, lender: Lender, device: torch.device, *, teacher: bool) -> Subject:
    from unicscale.teacher.frozen import open_frozen

    frozen = open_frozen(lender.name, lender.section).to(device)
    of = frozen.spec
    return Subject(
        label, frozen, frozen, sha_of(frozen), of.size, of.patch,
        max(2, *(frozen.channels or [0])) + 1, teacher=teacher, tokens=of.tokens,
        lenders={lender.name: lender} if teacher else {},
    )  # fmt: skip


def _inverse(whole: Model, device: torch.device) -> Callable[[str, Tensor], Tensor]:
    """From a teacher's standardised summaries to its own terms."""

    def invert(teacher: str, summary: Tensor) -> Tensor:
        summary = summary.to(device)
        found = whole.unstandardise(teacher, Features(summary, None)).summary
        assert found is not None
        return found.cpu()

    return invert


def _lenders(source: str, names: Sequence[str], given: Mapping[str, Mapping[str, Any]]) -> dict[str, Lender]:
    """A student's teachers: by its own recipe, else by their names."""
    stated = recipe_teachers(source)
    known = {name: stated.get(name) or {"plugin": guess(name)} for name in names}
    return {name: Lender.of(name, {**section, **given.get(name, {})}) for name, section in known.items()}


def recipe_teachers(source: str) -> dict[str, dict[str, Any]]:
    """What a run's own recipe says of its teachers; nothing where MODEL is no run."""
    from unicscale import checkpoint

    if not Path(source).is_dir():
        return {}
    try:
        found = checkpoint.glance(source)
    except CheckpointError:
        return {}  # an export's folder
    return {name: section.model_dump() for name, section in found.recipe.teachers.items()}


def guess(name: str) -> str:
    """The plug-in behind a name such as the authors' `deit3_vitbase_16`: the installed one that it begins with."""
    from unicscale.teacher.finding import listing

    plain = name.replace("_", "").replace("-", "")
    fitting = [x.name for x in listing() if plain.startswith(x.name.replace("_", "").replace("-", ""))]
    return max(fitting, key=len, default=name)


def _label(source: str) -> str:
    path = Path(source).resolve()
    inside = path.name.startswith("step-") and path.parent.name == "checkpoints"
    return f"{path.parent.parent.name}@{path.name}" if inside else path.stem
