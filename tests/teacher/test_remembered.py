"""Teachers are asked once about the same pixels, and nothing else changes."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.kit.recipe import write_images, write_recipe
from unicscale.errors import RecipeError, RunError, TeacherError
from unicscale.ranks.world import World
from unicscale.recipe import load
from unicscale.recipe.sections import EngineSection
from unicscale.teacher.remembered import HEAD, LOT, Remembered

AS_THEY_ARE = {"scale": [1, 1], "ratio": [1, 1], "jitter": 0, "grey": 0, "blur": 0, "solarize": 0}


class Teacher:
    """Two kinds of tokens, each image's its own; counts what it is asked."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: Tensor) -> list[Tensor]:
        self.batches.append(len(images))
        x = images.flatten(1).float()
        return [x[:, :5].bfloat16(), x[:, :12].view(-1, 3, 4) / 7]


def pages(count: int = 1, size: int = 1 << 16) -> list[mmap.mmap]:
    return [mmap.mmap(-1, size) for _ in range(count)]


def images(*seeds: int) -> Tensor:
    drawn = [torch.randint(0, 256, (3, 4, 4), generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(drawn).to(torch.uint8)


def check(shelf: Remembered, teacher: Teacher, *seeds: int, salt: str = "") -> None:
    for found, truth in zip(shelf(images(*seeds), teacher, salt), Teacher()(images(*seeds)), strict=True):
        assert found.dtype == truth.dtype and torch.equal(found, truth)


def test_only_images_that_were_not_met_before_are_asked_about_in_whole_lots() -> None:
    shelf, teacher = Remembered(pages(), 0), Teacher()
    check(shelf, teacher, 1, 2, 3)
    assert teacher.batches == [LOT, LOT], "the second time to see that the batch does not matter"
    check(shelf, teacher, 3, 1, 2)
    assert teacher.batches == [LOT, LOT]
    check(shelf, teacher, 2, 4, 3, 5)
    assert teacher.batches == [LOT, LOT, LOT] and (shelf.found, shelf.asked) == (5, 5)
    check(shelf, teacher, *range(10, 10 + LOT + 1))
    assert teacher.batches[3:] == [2 * LOT]


def test_another_salt_is_another_question() -> None:
    shelf, teacher = Remembered(pages(), 0), Teacher()
    check(shelf, teacher, 1)
    check(shelf, teacher, 1, salt="larger")
    assert (shelf.found, shelf.asked) == (0, 2)


def test_ranks_of_a_host_know_what_the_others_wrote_once_the_step_is_over() -> None:
    shared = pages(2)
    one, other, teacher = Remembered(shared, 0), Remembered(shared, 1), Teacher()
    check(one, teacher, 1, 2)
    check(other, teacher, 3, 2)
    assert other.asked == 2
    one.listen()
    other.listen()
    check(other, teacher, 1, 2, 3)
    check(one, teacher, 3)
    assert (one.asked, other.asked) == (2, 2) and (one.found, other.found) == (1, 3)


def test_when_there_is_no_room_left_what_is_known_stays_known() -> None:
    record = 16 + 8 + 64  # 5 numbers of 2 bytes and 12 of 4, up to the next 8
    shelf, teacher = Remembered(pages(size=HEAD + 2 * record), 0), Teacher()
    check(shelf, teacher, 1, 2, 3)
    check(shelf, teacher, 3, 2, 1)
    assert (shelf.found, shelf.asked) == (2, 4)


def test_a_teacher_whose_tokens_depend_on_the_batch_is_refused() -> None:
    def moody(some: Tensor) -> list[Tensor]:
        return [some.flatten(1).float() - some.float().mean()]

    with pytest.raises(TeacherError, match=r"engine\.remember: on this machine a teacher's tokens depend on the other"):
        Remembered(pages(), 0)(images(1, 2, 3), moody, "")


def test_a_disk_that_has_no_room_is_met_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"engine\.remember: 1024000000\.00 GiB for this rank could not be reserved in"):
        Remembered.open(EngineSection(remember=1_024_000_000.0), World(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_in_the_folder_of_the_run(tmp_path: Path) -> None:
    assert Remembered.open(EngineSection(), World(), tmp_path) is None
    assert Remembered.open(EngineSection(remember=0.001), World(), tmp_path) is not None
    assert not list(tmp_path.iterdir())


def test_where_no_image_comes_twice_alike_it_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", write_images(tmp_path / "images", 8), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"engine\.remember: with data\.augment as it is, no image looks the same"):
        load(recipe, ["engine.remember=1"])


@pytest.mark.timeout(300)
def test_a_run_that_remembers_ends_in_the_bits_of_one_that_forgot_on_the_way(tmp_path: Path) -> None:
    pictures = write_images(tmp_path / "images", 24)
    ended = {}
    for name, stops in (("whole", ()), ("resumed", ("--max-steps", "5"))):
        out = tmp_path / name / "run"
        out.parent.mkdir()
        recipe = write_recipe(
            out.parent / "recipe.yaml", pictures, out, data__augment=AS_THEY_ARE, engine__remember=0.05
        )
        for extra in (stops, ()) if stops else ((),):
            done = subprocess.run(
                [sys.executable, "-m", "unicscale", "train", str(recipe), *extra], capture_output=True, text=True
            )
            assert done.returncode in (0, 75), done.stderr
        last = sorted(out.glob("checkpoints/step-*"))[-1]
        ended[name] = json.loads((last / "manifest.json").read_text())["files"]["rank-0000.safetensors"]
        assert not list(out.glob("remembered*"))
    assert ended["whole"] == ended["resumed"]
