"""MODEL on the command line -> a Subject: runs, checkpoints, exports, official files, `teacher:NAME`, `timm:ID`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unicscale.errors import CheckpointError, RecipeError, UserError
from unicscale.evaluate.features.extract import sha_of
from unicscale.evaluate.terms import Subject
from unicscale.interop.sources import resolved

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from unicscale.interop.loading import Model
    from unicscale.interop.opened import Opened
    from unicscale.recipe.sections import TeacherSection
    from unicscale.teacher.frozen import Frozen

Sections = dict[str, "TeacherSection"]


def open_subject(model: str, device: torch.device, given: Mapping[str, Mapping[str, Any]] | None = None) -> Subject:
    """The model, frozen, on the device; `given` says more of teachers by name: weights, size, plugin."""
    given = given or {}
    label, source = parted(model)
    if source.startswith("teacher:"):
        name = source.removeprefix("teacher:")
        return _with_teachers(
            _of_frozen(label or source, name, given.get(name, {}), device, teacher=True), {name: given.get(name, {})}
        )
    if source.startswith("timm:"):
        stated = {"plugin": "timm", "model": source.removeprefix("timm:"), **given.get(source, {})}
        return _of_frozen(label or source, source, stated, device, teacher=False)
    from unicscale.interop.loading import both

    path, opened = _read(source)
    module, whole = both(opened)
    module.to(device)
    subject = Subject(label or _label(path), module, module, sha_of(module), module.size, module.patch)
    if whole is not None and len(whole.statistics):
        _with_projectors(subject, whole.to(device), path, device, given)
    return subject


def _read(source: str) -> tuple[str, Opened]:
    """The first of the checkpoints meant that is whole: each is hashed once, on its way in."""
    from unicscale.interop.loading import read

    *newer, last = resolved(source)
    for path in newer:
        with contextlib.suppress(CheckpointError):  # a damaged one: the one before it then
            return path, read(path)
    return last, read(last)


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


def _of_frozen(label: str, name: str, stated: Mapping[str, Any], device: torch.device, *, teacher: bool) -> Subject:
    frozen = _open(name, sections_of({name: stated})[name], text=False).to(device)
    of = frozen.spec
    return Subject(
        label, frozen, frozen, sha_of(frozen), of.size, of.patch, teacher, taught_by=(name,) if teacher else ()
    )


def _with_projectors(
    subject: Subject, module: Model, source: str, device: torch.device, given: Mapping[str, Mapping[str, Any]]
) -> None:
    from unicscale.contracts import Features

    def invert(teacher: str, summary: Tensor) -> Tensor:
        summary = summary.to(device)
        found = module.unstandardise(teacher, Features(summary, None)).summary
        assert found is not None
        return found.cpu()

    subject.see, subject.invert, subject.taught_by = module, invert, tuple(module.statistics)
    subject.notes["without summary"] = [name for name in module.statistics if not module.answers_summary(name)]
    stated = recipe_teachers(source)
    known = {name: stated.get(name) or {"plugin": guess(name)} for name in subject.taught_by}
    merged = {name: {**section, **given.get(name, {})} for name, section in known.items()}
    _with_teachers(subject, merged)


def _with_teachers(subject: Subject, stated: Mapping[str, Mapping[str, Any]]) -> Subject:
    from unicscale.teacher.finding import find

    plugins, sections = {}, sections_of(stated)
    for name, section in sections.items():
        with contextlib.suppress(UserError):  # a teacher that is not installed here cannot lend its head
            plugins[name] = find(name, section)
    subject.notes["plugins"] = plugins
    subject.open_teacher = lambda name: _open(name, sections[name], text=True)
    return subject


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


def sections_of(given: Mapping[str, Mapping[str, Any]]) -> Sections:
    """Sections as a recipe would hold them."""
    from unicscale.recipe.sections import TeacherSection

    return {name: TeacherSection.model_validate(dict(section)) for name, section in given.items()}


def _open(name: str, section: TeacherSection, *, text: bool) -> Frozen:
    from unicscale.teacher.finding import find
    from unicscale.teacher.frozen import open_frozen

    if text and "text" in find(name, section).Options.model_fields:
        section = section.model_copy(update={"text": True})
        section = type(section).model_validate({**section.model_dump(), "text": True})
    return open_frozen(name, section)


def _label(source: str) -> str:
    path = Path(source).resolve()
    inside = path.name.startswith("step-") and path.parent.name == "checkpoints"
    return f"{path.parent.parent.name}@{path.name}" if inside else path.stem
