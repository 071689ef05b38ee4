"""A kind is entered once, as a path beside its keys: checked without being imported, and found when it is built."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from unicscale.data.sets.images import ffcv_missing
from unicscale.recipe import sections
from unicscale.recipe.building import build, imported
from unicscale.recipe.sections.base import Section
from unicscale.recipe.sections.data import READERS
from unicscale.recipe.sections.engine import ENGINES
from unicscale.recipe.sections.objective import STANDARDIZERS


def named(base: type[Section]) -> list[str]:
    """The paths that sections carry as text, of all kinds of a section."""
    own = [base.builds] if isinstance(getattr(base, "builds", None), str) else []
    return own + [path for kind in base.__subclasses__() for path in named(kind)]


PATHS = sorted({*STANDARDIZERS.values(), *ENGINES.values(), *READERS.values(), *named(Section)})


@pytest.mark.parametrize("path", PATHS)
def test_every_path_leads_to_something_that_can_be_called(path: str) -> None:
    if path == READERS["ffcv"] and ffcv_missing():
        pytest.skip(ffcv_missing())
    assert callable(imported(path))


def test_what_is_built_gets_its_section_and_what_the_room_offers() -> None:
    class Pair(Section):
        builds: ClassVar = "builtins:tuple"
        first: int = 3

    assert build(Pair()) == (("first", 3),)


def test_an_unknown_kind_is_refused_as_a_literal_is() -> None:
    with pytest.raises(ValueError, match="Input should be 'plain', 'fsdp2' or 'zero3'"):
        sections.EngineSection.model_validate({"kind": "fsdp"})
    kinds: Any = sections.EngineSection.model_json_schema()["properties"]["kind"]
    assert kinds["enum"] == list(ENGINES)
