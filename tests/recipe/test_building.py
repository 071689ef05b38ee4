"""A kind is entered once, as a path beside its keys: checked without being imported, and found when it is built."""

from __future__ import annotations

from typing import Any

import pytest

from unicscale.recipe import sections
from unicscale.recipe.building import build, imported
from unicscale.recipe.sections.base import Section
from unicscale.recipe.sections.engine import ENGINES

PATHS = [*ENGINES.values()]


@pytest.mark.parametrize("path", PATHS)
def test_every_path_leads_to_something_that_can_be_called(path: str) -> None:
    assert callable(imported(path))


def test_what_is_built_gets_its_section_and_what_the_room_offers() -> None:
    class Pair(Section):
        builds = "builtins:dict.fromkeys"

    assert build(Pair(), 3) == {}


def test_an_unknown_kind_is_refused_as_a_literal_is() -> None:
    with pytest.raises(ValueError, match="Input should be 'plain', 'fsdp2' or 'zero3'"):
        sections.EngineSection.model_validate({"kind": "fsdp"})
    kinds: Any = sections.EngineSection.model_json_schema()["properties"]["kind"]
    assert kinds["enum"] == list(ENGINES)
