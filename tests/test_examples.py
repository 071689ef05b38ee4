"""Every example, run as its own first lines say, on small students and images that are easy to tell apart."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.kit import measured, places

EXAMPLES = places.REPOSITORY / "examples"
STUDENT = places.GOLDEN / "unic_official_tiny.pth"
COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 60), "red": (220, 40, 30)}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in three colours: train/ and test/ with a folder each."""
    root, draw = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 8)):
        for name, colour in COLOURS.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(draw.normal(colour, 40, (60, 80, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:02d}.png")
    return root


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What an example prints."""

    def run(name: str, *words: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_each_is_forty_lines_at_most() -> None:
    for file in EXAMPLES.glob("*.py"):
        assert len(file.read_text().splitlines()) <= 40, file.name
    notebook = json.loads((EXAMPLES / "first_ten_minutes.ipynb").read_text())
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert sum(map(len, code)) <= 40
    assert not any(cell.get("outputs") for cell in notebook["cells"])


def test_the_readme_names_each() -> None:
    said = (EXAMPLES / "README.md").read_text()
    assert set(re.findall(r"`(\w+\.(?:py|ipynb))`", said)) == {
        file.name for file in EXAMPLES.iterdir() if file.suffix in (".py", ".ipynb")
    }


def test_classify(ran, coloured: Path) -> None:
    said = ran("classify", STUDENT, coloured / "train", coloured / "test")
    knn, linear = (float(number) for number in re.findall(r"(\d+\.\d) %", said))
    assert knn > 90 and linear > 90


def test_retrieve(ran, coloured: Path) -> None:
    said = ran("retrieve", STUDENT, coloured / "train", coloured / "test" / "red" / "00.png").splitlines()
    assert len(said) == 5 and all("/train/red/" in line for line in said)


def test_segment(ran, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(12):
        mask = np.zeros((96, 96), np.uint8)
        mask[:, : int(draw.integers(24, 72))] = 1
        pixels = np.clip(draw.normal(60 + 120 * mask[..., None], 20, (96, 96, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    said = ran("segment", STUDENT, tmp_path / "images", tmp_path / "masks")
    assert float(re.findall(r"(\d+\.\d) %", said)[0]) > 90


def test_zero_shot(ran, coloured: Path, tmp_path: Path) -> None:
    said = json.loads((places.GOLDEN / "teachers" / "teachers.json").read_text())["metaclip"]["arch"]
    size = f"size={json.dumps(said | {'text': said['text'] | {'context_length': 77, 'vocab_size': 49408}})}"
    image = coloured / "test" / "red" / "00.png"
    lines = ran(
        "zero_shot", measured.student(tmp_path), "metaclip", image, "a cat", "a dog", size, "weights=random"
    ).splitlines()
    assert [line.partition("%  ")[2] for line in lines] == ["a cat", "a dog"]
    assert sum(float(line.split()[0]) for line in lines) == pytest.approx(100, abs=0.2)


def test_finetune(ran, coloured: Path, tmp_path: Path) -> None:
    said = ran("finetune", STUDENT, coloured / "train", tmp_path / "out.pt", 4)
    shares = [float(number) for number in re.findall(r"(\d+\.\d) %", said)]
    assert len(shares) == 4 and shares[-1] > 90
    saved = torch.load(tmp_path / "out.pt", weights_only=True)
    assert saved["classes"] == sorted(COLOURS) and saved["head"]["weight"].shape[0] == 3


def test_own_loop(ran, coloured: Path) -> None:
    said = ran("own_loop", coloured / "train", 6, "test_vit", "test_vit=random", "test_vit2=random")
    losses = [float(number) for number in re.findall(r"loss (\d+\.\d+)", said)]
    assert len(losses) == 6 and losses[-1] < losses[0]


def test_the_notebook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], coloured: Path) -> None:
    monkeypatch.setenv("MODEL", str(STUDENT))
    monkeypatch.setenv("IMAGES", str(coloured / "train"))
    cells = json.loads((EXAMPLES / "first_ten_minutes.ipynb").read_text())["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    share = re.search(r"(\d+) % of the nearest images are of the same class", capsys.readouterr().out)
    assert share is not None and int(share[1]) > 90
    assert isinstance(names["sheet"], Image.Image)
