"""Whole runs whose teachers are not all alike: patches only, sizes of their own, angles; trained, opened, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kit.recipe import SHAPE, write_images, write_recipe
from unicscale import interop
from unicscale.contracts import TeacherSpec, Widths
from unicscale.errors import RecipeError, TeacherError, UserError
from unicscale.evaluate.opening import open_subject
from unicscale.evaluate.tasks.borrowed import which
from unicscale.recipe import load
from unicscale.recipe.sections import TeacherSection
from unicscale.teacher.described import describe
from unicscale.teacher.grid import drawn, every_size, input_size
from unicscale.train import train

UNLIKE: dict[str, Any] = {
    "teachers__two": {
        "plugin": "dinov2", "weights": "random", "size": SHAPE | {"ffn": "swiglu"}, "tokens": ["patches"],
        "weight": {"patches": 2.0}, "resolution": [24, 32, 48],
    },
    "standardize": {"kind": "phi_s", "summary": "none", "freeze_after": 3},
    "loss": {
        "summary": {"angle": 1.0}, "patches": {"cosine": 0.9, "smooth_l1": 0.1}, "grid": "larger", "resize": "bicubic",
        "balance": {"kind": "none"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder / "r.yaml", images, folder / "out", steps=6, **UNLIKE, data__val=[str(images)])
    return train(load(str(recipe), ["evaluate.every_epochs=1"])).root


def test_a_run_of_unlike_teachers_draws_the_curves_that_there_are(run: Path) -> None:
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in logged if "loss" in r]
    assert all(isinstance(r["loss"], float) and r["loss"] == r["loss"] for r in steps) and len(steps) == 6
    parts = {name for name in steps[-1] if name.startswith("loss/") and name.count("/") == 3}
    assert parts == {"loss/one/cls/angle", *(f"loss/{t}/patch/{k}" for t in ("one", "two") for k in ("cos", "sl1"))}
    assert any("val/loss/two" in r for r in logged), "measured while training, too"


def test_what_such_a_run_learned_can_be_opened_and_put_back_into_the_teachers_terms(run: Path, tmp_path: Path) -> None:
    model = interop.load(run, projectors=True)
    seen = model(torch.zeros(2, 3, 48, 48, dtype=torch.uint8))
    assert seen.answers["two"].summary is None and seen.answers["two"].patches.shape == (2, 36, 32)
    tokens = model.unstandardise("two", seen.answers["two"])
    assert tokens.summary is None and tokens.patches.shape == (2, 36, 32)
    assert torch.equal(model.unstandardise("one", seen.answers["one"]).summary, seen.answers["one"].summary)
    opened = interop.native.read(run)
    description = interop.native.Description.model_validate(
        {"student": load(str(run / "recipe.yaml")).student, "projector": load(str(run / "recipe.yaml")).projector,
         "standardize": load(str(run / "recipe.yaml")).standardize}
    )  # fmt: skip
    interop.native.write(tmp_path / "one.safetensors", opened, description)
    again = interop.load(tmp_path / "one.safetensors", projectors=True)
    for name, answer in again(torch.zeros(2, 3, 48, 48, dtype=torch.uint8)).answers.items():
        assert torch.equal(answer.patches, seen.answers[name].patches)


def test_a_student_of_patches_only_has_no_summary_to_classify_by(run: Path) -> None:
    subject = open_subject(str(run), torch.device("cpu"))
    with pytest.raises(RecipeError, match="taught patches only by 'two': there is no summary of it to classify by"):
        which(subject, "two", "embed_text")


# --- before a run begins ----------------------------------------------------------------------------

LIAR = """
from unicscale.contracts import Features
from unicscale_teachers.dino import Dino

class Liar(Dino):
    def forward(self, module, images):
        said = module(images)
        return Features(said.summary, said.patches.repeat(1, 2, 1)[:, : said.patches.shape[1] + 1])
"""
DINO: dict[str, Any] = {"plugin": "dino", "weights": "random", "size": SHAPE}
WRONG: dict[str, tuple[dict[str, Any], type[UserError], str]] = {
    "an answer that is not its spec": ({}, TeacherError, "teacher 'one': its patches are 2×17×32; expected 2×16×32"),
    "patches weigh nothing": (
        {"teachers__one": DINO | {"tokens": ["patches"], "weight": {"patches": 0}}},
        RecipeError, "'teachers.one.weight': what this teacher has weighs 0",
    ),
    "a loss for a summary that is not there": (
        {"teachers__one": DINO | {"tokens": ["patches"], "loss": {"summary": {"mse": 1}}}},
        RecipeError, "'teachers.one.loss.summary': this teacher has no summary to answer.",
    ),
    "one of several sizes": (
        {"teachers__one": DINO | {"resolution": [32, 36]}},
        RecipeError, "'teachers.one.resolution': 36 pixels are no multiple of its patch of 8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_it_is_refused_before_the_run_folder_is_touched(tmp_path: Path, images: Path, case: str) -> None:
    changes, kind, expected = WRONG[case]
    (tmp_path / "liar.py").write_text(LIAR)
    liar = {"adapter": f"{tmp_path}/liar.py:Liar", "weights": "random", "size": SHAPE}
    recipe = write_recipe(tmp_path / "r.yaml", images, tmp_path / "out", **(changes or {"teachers__one": liar}))
    with pytest.raises(kind) as refused:
        train(load(str(recipe)))
    assert expected in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_tokens_that_a_teacher_does_not_have_cannot_be_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    from unicscale_teachers.dino import Dino

    both = describe("a", TeacherSection.model_validate(DINO | {"tokens": ["summary"]}))
    assert both.widths == Widths(32, None) and both.spec.widths == Widths(32, 32)
    spec = TeacherSpec(32, 8, 32, (0.0,) * 3, (1.0,) * 3, "none", tokens=("patches",))
    monkeypatch.setattr(Dino, "spec", lambda *_: spec)
    with pytest.raises(RecipeError, match=r"'teachers\.a\.tokens': this teacher has no summary, only patches\."):
        describe("a", TeacherSection.model_validate(DINO | {"tokens": ["summary"]}))


# --- sizes ------------------------------------------------------------------------------------------


def test_a_size_is_drawn_per_step_and_teacher_and_never_without_a_key() -> None:
    sizes = [256, 384, 512]
    draws = {name: [drawn(sizes, name, (5, step)) for step in range(300)] for name in ("a", "b")}
    assert draws["a"] != draws["b"] and all(70 < draws["a"].count(size) < 130 for size in sizes)
    assert draws["a"] == [drawn(sizes, "a", (5, step)) for step in range(300)]
    assert drawn(sizes, "a", None) == 256 and drawn("native", "a", (5, 1)) == "native"


def test_a_teacher_whose_sides_are_multiples_of_more_than_its_stride_is_shown_the_next_one() -> None:
    spec = TeacherSpec(32, 8, 64, (0.0,) * 3, (1.0,) * 3, "none", multiple=32)
    assert input_size(spec, "same_grid", size=48, student_patch=16, name="a") == 32
    assert input_size(spec, "same_grid", size=80, student_patch=16, name="a") == 64
    assert every_size(spec, [32, 64], size=48, student_patch=16, name="a") == [32, 64]
    with pytest.raises(RecipeError, match=r"40 pixels are no multiple of 32, which its sides must be"):
        input_size(spec, 40, size=48, student_patch=16, name="a")
