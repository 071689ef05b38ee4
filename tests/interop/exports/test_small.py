"""Smaller exports: what becomes of the weights, what the card says of it, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.kit import students
from unicscale.commands.export import trial
from unicscale.errors import CheckpointError, DataError, RecipeError
from unicscale.interop import exporting
from unicscale.interop.description import Description
from unicscale.interop.exports import target_of
from unicscale.interop.exports.target import Wishes
from unicscale.interop.opened import Opened
from unicscale.interop.origin import Origin
from unicscale.interop.small import Int8Linear, Small, matrices, pruned, reduced
from unicscale.recipe import sections
from unicscale.student.model import build_student

NOWHERE = Origin("a.safetensors")


def test_two_of_four_are_the_largest_two() -> None:
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.5, 0.1, -0.2, 0.3, 7.0]])
    assert pruned(weight, 2, 4).tolist() == [[0, -4, 3, 0, 0.5, 0, 0, pytest.approx(0.3), 7]]
    large = torch.randn(6, 64)
    assert ((pruned(large, 2, 4) != 0).view(6, -1, 4).sum(2) == 2).all()


def test_eight_bits_are_half_a_step_from_the_weights() -> None:
    linear = torch.nn.Linear(40, 7)
    small = Int8Linear(linear)
    assert small.weight.dtype == torch.int8
    restored = small.weight.float() * small.scale
    assert ((restored - linear.weight).abs() <= 0.5001 * small.scale).all()
    x = torch.randn(3, 40)
    torch.testing.assert_close(small(x), torch.nn.functional.linear(x, restored, linear.bias), rtol=1e-5, atol=1e-5)


def test_the_student_itself_stays_as_it_is() -> None:
    opened = students.student("plain")
    before = {name: t.clone() for name, t in opened.student.state_dict().items()}
    for text in ("int8", "2:4"):
        other = reduced(opened, Small.parse(text))
        assert not torch.equal(other.student(torch.ones(1, 3, 32, 32)).features.patches, torch.zeros(1))
    assert all(torch.equal(before[name], t) for name, t in opened.student.state_dict().items())
    assert len(list(matrices(opened.student.trunk))) == 8, "four in each block"


@pytest.mark.parametrize(("text", "target"), [("int8", "torch"), ("dynamic", "onnx"), ("2:4", "timm")])
def test_a_smaller_export_is_read_by_its_library_and_the_card_says_what_it_costs(
    text: str, target: str, tmp_path: Path
) -> None:
    images = coloured(tmp_path / "images")
    opened = students.student("plain")
    with torch.no_grad():
        for _, _, linear in matrices(opened.student.trunk):
            linear.weight *= 0.3  # as trained ones are: what a block adds is less than what passes it by
    wishes = Wishes(small=Small.parse(text))
    exporting.export(opened, NOWHERE, target_of(target), tmp_path / "out", wishes, shown=trial(opened, images))
    said = (tmp_path / "out" / "README.md").read_text()
    cosines = [float(text) for text in re.findall(r"\| cosine with the student's \w+ \| 1 \| (\d\.\d{4}) \|", said)]
    assert "## Smaller" in said and len(cosines) == 2 and min(cosines) > (0.9 if text == "2:4" else 0.99)
    assert "| k-NN, each image against the others | 100.0 % | 100.0 % |" in said and "24 images (images)" in said
    assert f'"small": "{text}"' in (tmp_path / "out" / "export.json").read_text()


def test_eight_bits_take_a_quarter_of_the_room(tmp_path: Path) -> None:
    opened, held = wide(), {}
    for text in ("", "int8"):
        folder = tmp_path / (text or "whole")
        folder.mkdir()
        target_of("torch").write(reduced(opened, Small.parse(text)) if text else opened, folder, Wishes())
        held[text] = (folder / "model.pt2").stat().st_size
    assert held["int8"] < 0.45 * held[""]


def wide(width: int = 384) -> Opened:
    """One whose matrices outweigh its program."""
    section = sections.Student(patch=8, options={"embed_dim": width, "depth": 2, "num_heads": 6})
    student = build_student(section, sections.Ladder(hidden=8, last_hidden=8), {"one": 6}, 32)
    values = {name: student.initial(name, tuple(p.shape), 0) for name, p in student.named_parameters()}
    student.load_state_dict(values, assign=True)
    return Opened(student, 32, {}, Description(student=section))


def test_what_is_no_longer_the_student_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--small 1:16: its tokens are no longer the student's: cosine"):
        exporting.export(
            students.student("plain"), NOWHERE, target_of("timm"), tmp_path / "out", Wishes(small=Small.parse("1:16"))
        )
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_place_is_refused_before_any_work() -> None:
    for text in ("int4", "4:2", "0:4", "2:4:8"):
        with pytest.raises(RecipeError, match=rf"--small {text}: int8 \(weights\), dynamic .*N:M"):
            Small.parse(text)
    with pytest.raises(RecipeError, match="--small int8 goes --to torch or onnx; timm has no place for it"):
        Small.parse("int8").refuse("timm")
    with pytest.raises(CheckpointError, match="there are no matrices in this student's blocks"):
        reduced(students.other("resnet"), Small.parse("2:4"))


def test_a_trial_asks_for_labels(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="no labels; one folder per class"):
        trial(students.student("plain"), tmp_path)


def coloured(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    for name, colour in {"red": (230, 20, 20), "blue": (20, 20, 230)}.items():
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(draw.normal(colour, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
