"""What changed between two recipes, as far as it changes what a run computes."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any

from unicscale.recipe.sections import Recipe, TeacherSection

# these say where and how a run computes, not what: it may go on with others
HARMLESS = (
    "out", "track.*", "save.*", "evaluate.*", "launch.*", "dry_run*", "data.val*", "data.reader", "data.workers",
    "data.ahead", "data.micro_batch", "data.max_resolution", "data.max_bad", "teachers.*.shard", "teachers.*.compile",
    "engine.kind", "engine.compile", "engine.checkpointing", "engine.reshard", "engine.replicate", "engine.offload.*",
    "engine.attention", "engine.cuda_graphs", "engine.device", "engine.deterministic", "engine.remember",
    "engine.timeout_seconds",
)  # fmt: skip
# another node may have the same file in another place: only the last part of these paths counts
PATHS = ("data.train.*", "teachers.*.weights", "teachers.*.adapter", "standardize.path")
# keys that belong to others, whose defaults nobody here knows: null is not the same as no word
FREE = ("teachers.*", "student.options.*")


def differences(old: Recipe, new: Recipe) -> list[str]:
    """`stages.0.lr.peak: 0.0006 -> 0.001`, one line per key that matters; none where a run may go on."""
    before, after = flat(old), flat(new)
    return [
        f"{key}: {_said(before, key)} -> {_said(after, key)}"
        for key in sorted(before | after)
        if not any(fnmatchcase(key, pattern) for pattern in HARMLESS)
        and _compared(key, before) != _compared(key, after)
    ]


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every value of a recipe under its dotted key."""
    found: dict[str, Any] = {}

    def walk(key: str, value: Any) -> None:
        branches = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
        if branches is None:
            found[key] = value
        for name, branch in branches or ():
            walk(f"{key}.{name}" if key else str(name), branch)

    walk("", recipe.model_dump(mode="json", by_alias=True))
    return found


def _compared(key: str, values: dict[str, Any]) -> Any:
    if key not in values and _free(key):
        return ...
    value = values.get(key)
    if isinstance(value, str) and any(fnmatchcase(key, pattern) for pattern in PATHS):
        return PurePath(value).name
    return value


def _free(key: str) -> bool:
    ours = key.startswith("teachers.") and key.split(".")[2] in TeacherSection.model_fields
    return any(fnmatchcase(key, pattern) for pattern in FREE) and not ours


def _said(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "(not there)"
