"""`unicscale init`: a recipe for my images, GPUs and teachers, which `check` takes and `train` can begin."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.recipe import write_images
from unicscale.recipe import load
from unicscale.recipe.outline import Outline

SMALL = ["--teacher", "scenes:knows=classes", "--student", "vit_tiny", "--size", "32", "--gpus", "0"]


def unicscale(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unicscale", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=120, stdin=-3)


def two_classes(folder: Path, count: int) -> Path:
    for name in ("cats", "dogs"):
        write_images(folder / name, count // 2)
    return folder


def test_what_it_writes_is_valid_and_trains(tmp_path: Path) -> None:
    two_classes(tmp_path / "my pictures" / "train", 20)
    two_classes(tmp_path / "my pictures" / "val", 4)
    ran = unicscale("init", "mine.yaml", "--images", "my pictures", *SMALL, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0] == "wrote mine.yaml: valid; not looked at: weights"
    text = (tmp_path / "mine.yaml").read_text()
    assert 'train: ["my pictures/train"]  # 20 images;' in text and "tasks: [loss, knn]" in text
    trained = unicscale("train", "mine.yaml", "--max-steps", "1", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "runs/mine/checkpoints/step-00000001").is_dir()


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    ran = unicscale("init", "--images", ".", *SMALL, cwd=tmp_path)
    assert ran.returncode == 2 and "recipe.yaml is there already, and would be lost." in ran.stderr
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


REFUSED = {
    "": "say --images: questions are asked on a terminal only.",
    "--images .": "say --teacher: questions are asked on a terminal only. Installed: aimv2, ",
    "--images . --teacher dinno": "no teacher plug-in is called 'dinno'. Did you mean 'dino'?",
    "--images . --teacher dino:size=huge": "'teachers.dino.size' is 'huge'",
    "--images nowhere --teacher dino": "nowhere: no such file or folder.",
    "--images . --teacher dino --size 100": "100 is not a multiple of the student's patch, 16.",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_work_is_said_and_nothing_is_written(words: str, tmp_path: Path) -> None:
    write_images(tmp_path, 8)
    ran = unicscale("init", *words.split(), cwd=tmp_path)
    assert ran.returncode in (2, 3, 4) and REFUSED[words] in ran.stderr and "Traceback" not in ran.stderr
    assert os.listdir(tmp_path) == ["all"]


def test_on_a_terminal_it_asks_for_what_was_left_out(tmp_path: Path) -> None:
    write_images(tmp_path / "pictures", 8)
    us, them = pty.openpty()
    command = [sys.executable, "-m", "unicscale", "init", "--gpus", "0"]
    asked = subprocess.Popen(command, stdin=them, stdout=subprocess.PIPE, stderr=them, cwd=tmp_path, text=True)
    os.close(them)
    heard = ""
    for question, answer in (("Images", "pictures"), ("Teachers", "dino deit3:size=base"), ("Student", "")):
        until = time.monotonic() + 60
        while question not in heard and time.monotonic() < until:
            heard += os.read(us, 4096).decode()
        os.write(us, f"{answer}\n".encode())
        heard = heard.partition(question)[2]
    assert asked.wait(60) == 0
    recipe = load(tmp_path / "recipe.yaml")
    assert list(recipe.teachers) == ["dino", "deit3"] and recipe.student.arch == "vit_small"
    os.close(us)


@pytest.mark.parametrize(
    ("images", "gpus", "expected"),
    [(1_281_167, 8, 512), (1_281_167, 0, 64), (1_281_167, 6, 510), (300, 2, 32), (5, 4, 4), (None, 8, 512)],
)
def test_a_step_takes_as_many_images_as_suit_data_and_ranks(images: int | None, gpus: int, expected: int) -> None:
    assert Outline("r.yaml", "runs/r", "x", images, gpus=gpus).images_per_step == expected
