"""Engines keep their secret: who counts costs asks them, and nobody else looks at a parameter to guess which it is."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from tests.kit import contract, places, ranks
from unicscale.engine import engine_of, is_sharded
from unicscale.engine.facts import Trained
from unicscale.errors import RecipeError
from unicscale.ranks.world import World
from unicscale.recipe.sections import EngineSection
from unicscale.recipe.sections.engine import ENGINES

SNIFFING = re.compile(r"ds_id|ds_tensor|ds_shape|DTensor|engine\.kind [!=]=|\"(?:fsdp2|zero3)\"")
MODEL = Trained(total=1000, unit=100, widest=300, small=2)


def test_nobody_else_looks_for_an_engine_by_its_marks() -> None:
    own = {"engine", "recipe/sections/engine.py"}
    root = places.REPOSITORY / "unicscale"
    files = [path for path in root.rglob("*.py") if not own & {str(path.relative_to(root)), path.parent.name}]
    found = [f"{path.relative_to(root)}: {hit[0]}" for path in files if (hit := SNIFFING.search(path.read_text()))]
    assert len(files) > 100 and not found, found


@pytest.mark.parametrize("kind", ENGINES)
def test_every_engine_states_its_facts(kind: str) -> None:
    section = EngineSection(kind=kind, dtype="bf16", reshard=True)
    engine = engine_of(section)
    assert engine.parts(section, 4) == (4 if engine.sharding else 1)
    assert engine.gathers(section, 10**12, 10**9) is not engine.sharding
    held = engine.holds(section, MODEL, ranks=4, memory=None, accumulates=False)
    assert held.beside > 0 and held.gradients >= 4 * MODEL.total // engine.parts(section, 4)


def test_facts_refuse_what_the_engine_would_refuse() -> None:
    with pytest.raises(RecipeError, match=r"'engine\.replicate' is 3, which does not divide 4 ranks"):
        engine_of(EngineSection(kind="fsdp2")).parts(EngineSection(kind="fsdp2", replicate=3), 4)
    with pytest.raises(RecipeError, match="'shard: full' needs a sharding engine"):
        engine_of(EngineSection()).places("full", 1, None)


def marks(world: World, kinds: list[str]) -> list[bool]:
    """Whether a teacher's parameters count as sharded, engine by engine."""
    found = []
    for kind in kinds:
        engine = contract.open_engine(contract.Case(kind), world)
        with torch.device("meta"):
            teacher: nn.Module = contract.TinyTeacher()
        teacher = engine.shard_teacher(teacher, "full" if kind != "plain" else "none")
        found.append(any(is_sharded(p) for p in teacher.parameters()))
    return found


def test_a_sharded_teacher_is_known_as_one() -> None:
    assert ranks.run(2, contract.in_group, marks, list(ENGINES))[0] == [kind != "plain" for kind in ENGINES]
