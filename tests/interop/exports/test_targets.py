"""Every target and every kind of student: its own library gives the student's tokens, or it is refused with the reason.

The lines that a card shows run here in this process; test_exporting.py runs them as an export does, in a fresh one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.kit import places, students
from unicscale import Features, load
from unicscale.errors import CheckpointError, RecipeError
from unicscale.interop import exporting, verify
from unicscale.interop.exports import TARGETS, target_of
from unicscale.interop.exports.portable import bicubic
from unicscale.interop.exports.target import Target, Wishes
from unicscale.interop.loading import read
from unicscale.interop.opened import Opened
from unicscale.interop.origin import Origin
from unicscale.recipe import sections
from unicscale.student.model import build_student, in_memory
from unicscale.student.trunk import resize_positions

OFFICIAL = places.GOLDEN / "unic_official_tiny.pth"
PLAINLY = Wishes()
GRAPHS = ("onnx", "torch")
LAYOUTS = [name for name in TARGETS if name not in GRAPHS]
EVERYWHERE = ("unic", "onnx", "torch", "safetensors")  # the same model at every size, whatever the student


def given(target: Target, opened: Opened, folder: Path, wishes: Wishes = PLAINLY) -> dict[int, dict[str, Any]]:
    """What the card's lines make of the probing images, by size."""
    target.write(opened, folder, wishes)
    lines = target.use(opened, wishes).replace("DIR", str(folder))
    found = {}
    for size, images in verify.probes(opened).items():
        names: dict[str, Any] = {"images": images}
        with torch.no_grad():
            exec(lines, names)
        found[size] = {"summary": names["summary"], "patches": names["patches"]}
        for name, answer in dict(names.get("answers", {})).items():
            both = answer._asdict() if isinstance(answer, Features) else None
            found[size] |= {name: answer} if both is None else {f"{name}.{kind}": t for kind, t in both.items()}
    return found


def assert_same(found: dict[str, Any], wanted: dict[str, torch.Tensor], limit: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for name, tokens in wanted.items():
        torch.testing.assert_close(torch.as_tensor(found[name]).float(), tokens, rtol=limit, atol=limit)


@pytest.mark.parametrize("kind", students.KINDS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_gives_the_students_tokens_or_says_why_it_cannot(name: str, kind: str, tmp_path: Path) -> None:
    target, opened = target_of(name), students.student(kind)
    if kind == "convolutions" and name not in (*GRAPHS, "safetensors"):
        with pytest.raises(CheckpointError, match=rf"--to {name}: the student has a stem of convolutions.*no word"):
            target.write(opened, tmp_path, PLAINLY)
        assert not list(tmp_path.iterdir())
        return
    found = given(target, opened, tmp_path)
    limit = 1e-4 if name == "onnx" else 1e-5
    for size, images in verify.probes(opened).items():
        own = verify.tokens(opened, images, False, target, its_positions=True)
        assert_same(found[size], own, limit)
        if size == opened.size or name in EVERYWHERE:
            assert_same(found[size], verify.tokens(opened, images, False, target), limit)


REFUSED = {"eva02": "turns its tokens by another rule", "resnet": "is no model of its", "swin": "is no model of its"}


@pytest.mark.parametrize("kind", students.OTHERS)
@pytest.mark.parametrize("name", ["timm", "hf"])
def test_a_library_that_has_the_architecture_gives_the_tokens_of_what_is_no_plain_vit(
    name: str, kind: str, tmp_path: Path
) -> None:
    target, opened = target_of(name), students.other(kind)
    if name == "hf" and kind in REFUSED:
        with pytest.raises(CheckpointError, match=rf"--to hf: '\S+' {REFUSED[kind]}; it has .*\n  These hold every"):
            target.write(opened, tmp_path, PLAINLY)
        assert not list(tmp_path.iterdir())
        return
    found = given(target, opened, tmp_path)
    for size, images in verify.probes(opened).items():
        assert_same(found[size], verify.tokens(opened, images, False, target, its_positions=True))


def test_a_map_on_a_grid_of_its_own_has_no_words_elsewhere(tmp_path: Path) -> None:
    built = build_student(sections.Student(arch="test_resnet", patch=16), sections.Ladder(hidden=8), {"one": 6}, 64)
    in_memory(built, "cpu")
    opened = Opened(built.eval(), 64)
    with pytest.raises(CheckpointError, match="'test_resnet' ends in no map of 4×4 cells with a pooling of its own"):
        target_of("timm").write(opened, tmp_path, PLAINLY)


def test_libraries_that_resize_positions_otherwise_are_known_to() -> None:
    """So that this is noticed where one of them changes its rule: it would then be stated wrongly on cards."""
    opened = students.student("plain")
    images = verify.probes(opened)[48]
    ours = verify.tokens(opened, images, False, target_of("timm"))["patches"]
    for name in TARGETS:
        theirs = verify.tokens(opened, images, False, target_of(name), its_positions=True)["patches"]
        apart = float((theirs - ours).abs().max())
        assert (apart > 1e-3) == (name in ("timm", "hf")), f"{name}: {apart}"


@pytest.mark.parametrize("name", ["unic", "safetensors", *GRAPHS])
def test_projectors_and_statistics_go_along(name: str, tmp_path: Path) -> None:
    target, opened, wishes = target_of(name), students.student("plain"), Wishes(projectors=True)
    found = given(target, opened, tmp_path, wishes)
    for size, images in verify.probes(opened).items():
        assert_same(found[size], verify.tokens(opened, images, True, target), 1e-4)
    if name not in GRAPHS:
        read_back = load(tmp_path / ("checkpoint.pth" if name == "unic" else ""), projectors=True)
        for teacher, pair in opened.statistics.items():
            torch.testing.assert_close(read_back.statistics[teacher]["1"].deviation, pair[1].deviation)


@pytest.mark.parametrize("name", TARGETS)
def test_half_is_half(name: str, tmp_path: Path) -> None:
    target, opened = target_of(name), students.student("plain")
    found = given(target, opened, tmp_path, Wishes(half=True))
    images = verify.probes(opened)[32]
    rounded = verify.tokens(verify._rounded(opened), images, False, target)
    assert_same(found[32], rounded, 3e-2 if target.half_computes else 1e-5)
    assert next(opened.student.parameters()).dtype == torch.float32, "the student itself stays as it is"
    whole = sum(t.numel() for t in opened.student.trunk.state_dict().values())
    held = sum(file.stat().st_size for file in tmp_path.iterdir())
    if name not in GRAPHS:
        assert held < 2 * whole + 20_000


@pytest.mark.parametrize("kind", ["plain", "registers", "layer scale", "swiglu"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_what_goes_out_comes_in_again(name: str, kind: str, tmp_path: Path) -> None:
    opened = students.student(kind)
    target_of(name).write(opened, tmp_path, PLAINLY)
    (tmp_path / "export.json").write_text('{"heads": 3}')
    for images in verify.probes(opened).values():
        wanted = verify.tokens(opened, images, False, target_of(name))
        assert_same(load(tmp_path)(images)._asdict(), wanted)
    assert load(tmp_path).size == 32


def test_the_authors_tiny_file_in_out_and_in_again_is_equal(tmp_path: Path) -> None:
    opened = read(OFFICIAL)
    target_of("unic").write(opened, tmp_path, Wishes(projectors=True))
    theirs, ours = (torch.load(f, weights_only=False) for f in (OFFICIAL, tmp_path / "checkpoint.pth"))
    assert theirs["model"].keys() == ours["model"].keys()
    used = [name for name in theirs["model"] if not name.endswith("mask_token")]  # nothing is masked: ours is zeros
    assert all(torch.equal(theirs["model"][name], ours["model"][name]) for name in used)
    assert all(
        torch.equal(of[part], ours["teacher_ft_stats"][teacher][kind][part])
        for teacher, kinds in theirs["teacher_ft_stats"].items()
        for kind, of in kinds.items()
        for part in ("mean", "std")
    )


def test_wrappers_before_the_names_change_nothing(tmp_path: Path) -> None:
    content = torch.load(OFFICIAL, weights_only=False)
    inner = {
        name.replace("module.", "module._orig_mod.").replace("blocks.0.1.", "blocks.0.1._orig_mod."): tensor
        for name, tensor in content["model"].items()
    }
    torch.save(content | {"model": inner}, tmp_path / "compiled.pth")
    images = torch.randn(1, 3, 56, 56)
    torch.testing.assert_close(load(tmp_path / "compiled.pth")(images), load(OFFICIAL)(images))


@pytest.mark.parametrize(
    ("backend", "shape", "levels"),
    [
        ("torchvision", (90, 70), 1.5),  # its bicubic rounds otherwise than Pillow's
        ("torchvision", (57, 80), 1.5),
        ("pil", (73, 73), 0.01),  # what is left over is even here: of an odd rest its centre is a pixel beside
    ],
)
def test_the_image_processor_gives_the_pixels_of_the_transform(
    backend: str, shape: tuple[int, int], levels: float, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor

    moved = students.student("plain")
    moved.student.resize_positions(56)
    target_of("hf").write(replace(moved, size=56), tmp_path, PLAINLY)
    model = load(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8))
    theirs = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)(picture, return_tensors="pt")["pixel_values"]
    apart = (theirs[0] - model.transform(picture)).abs() * torch.tensor(model.std).view(3, 1, 1) * 255
    assert float(apart.max()) <= levels


def test_products_resize_positions_as_interpolation_does() -> None:
    table = torch.randn(1, 36, 5, dtype=torch.float64).float()
    for new in ((6, 6), (9, 4), (13, 17)):
        same = torch.tensor(new == (6, 6))
        down, across = (bicubic(torch.arange(n), 6, same) for n in new)
        ours = torch.einsum("ih,jw,hwd->ijd", down, across, table.view(6, 6, 5)).flatten(0, 1)
        wanted = table[0] if new == (6, 6) else resize_positions(table, (6, 6), new)[0]
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


def test_a_target_that_nobody_wrote_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"--to tim: not a target\. Did you mean 'timm'\?"):
        target_of("tim")


@pytest.mark.parametrize(("kind", "sizes"), [("dinov3", [64]), ("eva02", [56, 84])])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_of_attention_that_turns_takes_the_sizes_that_it_can(
    name: str, kind: str, sizes: list[int], tmp_path: Path
) -> None:
    found = exporting.export(students.other(kind), Origin(kind), target_of(name), tmp_path / "out", PLAINLY)
    assert [one.size for one in found] == sizes
    assert max(one.from_student for one in found) < 1e-5
