"""What a teacher answers is held against what its spec promised, and what goes wrong in it is said to be its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, Features, TeacherSpec
from unicscale.errors import TeacherError
from unicscale.recipe.sections import TeacherSection
from unicscale.teacher.described import describe
from unicscale.teacher.door import rehearse
from unicscale.teacher.frozen import Frozen
from unicscale.teacher.plugin import Teacher, TeacherOptions

SPEC: dict[str, Any] = dict(dim=8, patch=4, size=16, mean=IMAGENET_MEAN, std=IMAGENET_STD, licence="none")


class Scripted(Teacher):
    """Answers what the test says."""

    api_version = 1

    def __init__(self, answer: Callable[[torch.Tensor], Any], **spec: Any) -> None:
        self.answer, self.said = answer, SPEC | spec

    def spec(self, options: Any) -> TeacherSpec:
        return TeacherSpec(**self.said)

    def build(self, options: Any) -> nn.Module:
        return nn.Linear(1, 1)

    def forward(self, module: nn.Module, images: torch.Tensor) -> Any:
        return self.answer(images)


def teacher(answer: Callable[[torch.Tensor], Any], **spec: Any) -> Frozen:
    return Frozen(Scripted(answer, **spec), TeacherOptions(), "odd")


def tokens(*shape: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: torch.zeros(shape, device=images.device)


def answer(summary: tuple[int, ...] | None, patches: tuple[int, ...] | None) -> Callable[[torch.Tensor], Features]:
    return lambda x: Features(*(None if s is None else torch.zeros(s, device=x.device) for s in (summary, patches)))


WRONG = {
    "CLS left in": (answer((2, 8), (2, 17, 8)), "2×17×8; expected 2×16×8", "is CLS still among them"),
    "registers left in": (answer((2, 8), (2, 21, 8)), "2×21×8", "5 tokens too many: are CLS and registers"),
    "not the stride": (answer((2, 8), (2, 4, 8)), "2×4×8", "`patch` of its spec is the stride"),
    "a map": (answer((2, 8), (2, 8, 4, 4)), "2×8×4×4", r"maps\.flatten\(2\)\.transpose\(1, 2\)"),
    "wrong width of patches": (answer((2, 8), (2, 16, 6)), "2×16×6", "`patch_dim` of its spec"),
    "wrong width of the summary": (
        answer((2, 6), (2, 16, 8)),
        "summary is 2×6; expected 2×8",
        "`dim` of its spec is 8",
    ),
    "summary of three axes": (answer((2, 1, 8), (2, 16, 8)), "2×1×8", "take the token out"),
    "one image short": (answer((1, 8), (2, 16, 8)), "1×8; expected 2×8", "one row for each"),
    "no summary": (answer(None, (2, 16, 8)), "no summary", r"tokens=\('patches',\)"),
    "no patches": (answer((2, 8), None), "no patches", r"tokens=\('summary',\)"),
    "one tensor": (tokens(2, 17, 8), "one tensor, 2×17×8", "Return unicscale.contracts.Features"),
    "a tuple of three": (lambda x: (x, x, x), "a tuple of 3", "Return unicscale.contracts.Features"),
    "a dict": (lambda x: {"summary": x, "patches": x}, "a dict", "Return unicscale.contracts.Features"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    "ask", [lambda one: one(torch.zeros(2, 3, 16, 16)), lambda one: rehearse(one, [16])], ids=["called", "rehearsed"]
)
def test_an_answer_that_is_not_its_spec_is_refused_with_the_usual_reason(wrong: str, ask: Callable[..., Any]) -> None:
    said, found, reason = WRONG[wrong]
    with pytest.raises(TeacherError, match=rf"(?s)teacher 'odd': .*{found}.*{reason}") as refusal:
        ask(teacher(said))
    assert refusal.value.exit_code == 4


def test_a_plain_tuple_of_two_will_do_and_what_the_spec_does_not_name_is_left_out() -> None:
    one = teacher(lambda x: (x.new_zeros(2, 8), x.new_zeros(2, 16, 8)))
    assert [t.shape for t in one(torch.zeros(2, 3, 16, 16))] == [(2, 8), (2, 16, 8)]
    dense = teacher(answer((2, 5), (2, 16, 6)), tokens=("patches",), patch_dim=6)
    found = dense(torch.zeros(2, 3, 16, 16))
    assert found.summary is None and found.patches.shape == (2, 16, 6)


def test_a_stride_that_does_not_divide_the_side_may_round_either_way() -> None:
    for cells in (9, 16):
        found = teacher(answer((2, 8), (2, cells, 8)), multiple=1)(torch.zeros(2, 3, 15, 15))
        assert found.patches.shape[1] == cells


def fails(problem: BaseException) -> Callable[[torch.Tensor], Any]:
    def forward(images: torch.Tensor) -> Any:
        raise problem

    return forward


@pytest.mark.parametrize("problem", [ValueError("odd side"), RuntimeError("shapes"), KeyError("x")])
def test_what_goes_wrong_inside_a_plug_in_names_it_and_the_line(problem: BaseException) -> None:
    with pytest.raises(
        TeacherError, match=rf"teacher 'odd': its forward failed at test_door\.py:\d+: {type(problem).__name__}"
    ):
        teacher(fails(problem))(torch.zeros(2, 3, 16, 16))


class Unbuildable(Scripted):
    """Says what it is, and fails when it is made."""

    def build(self, options: Any) -> nn.Module:
        raise KeyError("depth")


def test_what_goes_wrong_before_the_first_image_names_it_and_the_line_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from unicscale.contracts import TeacherSpec\nfrom unicscale.teacher import Teacher\n"
        "class Mine(Teacher):\n    api_version = 1\n"
        "    def spec(self, options):\n        return TeacherSpec(summary=8)\n"
        "    def build(self, options): ...\n    def forward(self, module, images): ...\n"
    )
    section = TeacherSection.model_validate({"adapter": f"{tmp_path}/mine.py:Mine", "weights": "random"})
    with pytest.raises(TeacherError, match=r"^teacher 'odd': its spec failed at mine\.py:6: TypeError: .*'summary'$"):
        describe("odd", section)
    with pytest.raises(TeacherError, match=r"teacher 'odd': its build failed at test_door\.py:\d+: KeyError: 'depth'"):
        Frozen(Unbuildable(lambda images: None), TeacherOptions(), "odd")


@pytest.mark.parametrize("problem", [MemoryError(), RuntimeError("CUDA out of memory"), RuntimeError("NCCL: lost")])
def test_what_goes_wrong_with_the_machine_is_not_the_plug_ins(problem: BaseException) -> None:
    with pytest.raises(type(problem)):
        teacher(fails(problem))(torch.zeros(2, 3, 16, 16))


def test_a_plug_in_that_asks_meta_for_values_is_held_to_its_spec_with_the_first_real_answer() -> None:
    rehearse(teacher(lambda x: float(x.sum())), [16])  # meta has none: that is no fault of the plug-in's
    with pytest.raises(TeacherError, match=r"its forward failed at .*AttributeError"):
        rehearse(teacher(lambda x: x.no_such_method()), [16])


def test_a_teacher_that_writes_into_its_images_writes_into_its_own() -> None:
    images = torch.ones(2, 3, 16, 16)
    teacher(lambda x: (x.zero_().new_zeros(2, 8), x.new_zeros(2, 16, 8)))(images)
    assert torch.equal(images, torch.ones(2, 3, 16, 16))
