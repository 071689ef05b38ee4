"""Several runs from one command: values of a key, or the recipes of a folder; each has its own run folder."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from unicscale.errors import RecipeError
from unicscale.recipe import load

from .submission import Variant

UNFIT = re.compile(r"[^A-Za-z0-9_.+-]+")


def variants(recipe: str, overrides: Sequence[str], sweeps: Sequence[str]) -> list[Variant]:
    """One run, or one per combination of swept values and recipes, in an order that does not change."""
    folder = Path(recipe).is_dir()
    files = sorted(Path(recipe).glob("*.yaml")) if folder else [Path(recipe)]
    if not files:
        raise RecipeError(f"{recipe} holds no recipes (*.yaml).")
    axes = [axis(text) for text in sweeps if text or not folder]  # a folder needs no values to be a sweep
    found: list[Variant] = []
    for file in files:
        for point in itertools.product(*axes):
            plain = load(file, [*overrides, *point])
            label = "-".join([*([file.stem] if len(files) > 1 else []), *map(shorten, point)])
            # below the recipe's own folder's name, so that a sweep never continues the run it was made from
            out = f"{plain.out.rstrip('/')}-sweep/{label}" if point else plain.out
            found.append(Variant(plain.model_copy(update={"out": out}), label))
    outs = [run.recipe.out for run in found]
    if doubled := {out for out in outs if outs.count(out) > 1}:
        raise RecipeError(f"several runs would share {', '.join(sorted(doubled))}: give each recipe its own 'out'.")
    return found


def axis(text: str) -> list[str]:
    """`a.b=0.0,0.5` as overrides; values that hold commas are written as a YAML list: `a.b=[[1,2],[3,4]]`."""
    key, equals, raw = text.partition("=")
    if not equals or not raw:
        raise RecipeError(f"--sweep '{text}': write KEY=VALUE,VALUE,... for example loss.balance.p=0.0,0.5,1.0")
    values = _listed(text, raw) if raw.startswith("[") else raw.split(",")
    if len(set(values)) < len(values):
        raise RecipeError(f"--sweep '{text}' names a value twice.")
    return [f"{key}={value}" for value in values]


def _listed(text: str, raw: str) -> list[str]:
    try:
        values = yaml.safe_load(raw)
    except yaml.YAMLError as problem:
        raise RecipeError(f"--sweep '{text}' is no YAML list: {str(problem).splitlines()[0]}") from None
    if not isinstance(values, list) or not values:
        raise RecipeError(f"--sweep '{text}' names no value.")
    return [yaml.safe_dump(value, default_flow_style=True).split("\n...")[0].strip() for value in values]


def shorten(override: str) -> str:
    """`loss.balance.p=0.25` -> `p0.25`, fit for a folder's name."""
    key, _, value = override.partition("=")
    return f"{key.rpartition('.')[2]}{UNFIT.sub('_', value)}"
