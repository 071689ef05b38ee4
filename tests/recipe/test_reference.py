"""Every key of a recipe says what it means, to editors and to `unicscale explain`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from unicscale.commands.explain import asked
from unicscale.errors import RecipeError
from unicscale.recipe import Recipe
from unicscale.recipe.reference import keys

KEYS = keys()


def properties() -> Iterator[tuple[str, dict]]:
    """What editors read, by another way than the reference takes."""
    schema = Recipe.model_json_schema(by_alias=True)
    for name, model in {"Recipe": schema, **schema["$defs"]}.items():
        yield from ((f"{name}.{key}", said) for key, said in model.get("properties", {}).items())


def test_no_key_lacks_a_description() -> None:
    silent = [name for name, said in properties() if not said.get("description")]
    assert silent == [], "a docstring below the field"


def test_a_description_is_a_sentence() -> None:
    odd = [name for name, said in properties() if said["description"][-1] != "." or len(said["description"]) < 12]
    assert odd == []


def test_the_reference_holds_every_key_of_the_schema() -> None:
    assert {one.path.rpartition(".")[2] for one in KEYS} == {name.partition(".")[2] for name, _ in properties()}
    assert all(one.says and one.takes for one in KEYS)


@pytest.mark.parametrize(
    ("asked_for", "first", "takes", "default"),
    [
        ("save.keep", "save.keep", "a whole number from 1", "3"),
        ("stages.0.lr.peak", "stages[].lr.peak", "a number above 0", ""),
        ("teachers.dino.shard", "teachers.NAME.shard", "auto | full | none", "auto"),
        ("teachers.dino-2.weight", "teachers.NAME.weight", "a section or null", "null"),
        ("balance", "loss.balance", "a section", "as below"),
        ("engine.betas", "engine.betas", "a list: a number from 0 below 1", "[0.9, 0.99]"),
    ],
)
def test_a_key_is_found_as_people_write_it(asked_for: str, first: str, takes: str, default: str) -> None:
    found = asked(asked_for, KEYS)[0]
    assert (found.path, found.takes, found.default) == (first, takes, default)


def test_a_section_brings_what_stands_in_it() -> None:
    assert [one.path for one in asked("engine.offload", KEYS)][1:] == [
        "engine.offload.optimizer",
        "engine.offload.parameters",
    ]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("sav.kep", "'sav.kep' is not a key. Did you mean 'save.keep'?"),
        ("batch_size", "'batch_size' is not a key. Here it is data.images_per_step"),
        ("teachers.x.size", "Options of a plug-in are its own: `unicscale teachers show PLUGIN` lists them."),
    ],
)
def test_a_word_that_is_no_key_is_answered(word: str, text: str) -> None:
    with pytest.raises(RecipeError) as refused:
        asked(word, KEYS)
    assert text in str(refused.value)
