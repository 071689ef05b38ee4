"""An export from beginning to end: verified in a fresh process, with its card and its sums, whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.kit import places, students
from unicscale import recipe as recipes
from unicscale.errors import CheckpointError, RecipeError
from unicscale.interop import card, exporting, hub, verify
from unicscale.interop.exports import target_of
from unicscale.interop.exports.target import Wishes
from unicscale.interop.exports.timm import Timm
from unicscale.interop.origin import Origin, Taught

PLAINLY, NOWHERE = Wishes(), Origin("a.safetensors")
EXPORT = """
import sys
from tests.kit import students
from unicscale.errors import UserError
from unicscale.interop import exporting
from unicscale.interop.exports import target_of
from unicscale.interop.exports.target import Wishes
from unicscale.interop.origin import Origin
"""


class Broken(Timm):
    """One weight of it is another."""

    def write(self, opened, folder, wishes):
        super().write(opened, folder, wishes)
        state = load_file(folder / "model.safetensors")
        state["blocks.0.attn.qkv.weight"][0, 0] += 1.0
        save_file(state, folder / "model.safetensors", {"format": "pt"})


def test_an_export_is_read_by_its_own_library_in_a_process_that_knows_nothing_of_us(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "student"
    found = exporting.export(students.student("registers"), NOWHERE, target_of("timm"), out, PLAINLY)
    assert [(one.size, one.agrees) for one in found] == [(32, True), (48, False)]
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "config.json",
        "export.json",
        "model.safetensors",
    ]
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    said = (out / "README.md").read_text()
    assert 'timm.create_model("local-dir:student", pretrained=True)' in said and "import unicscale" not in said
    assert "| 32 | 0e+00 | yes |" in said or "| 32 | " in said
    assert "| no |" in said and "resizes the positions by another rule" in said
    facts = json.loads((out / "export.json").read_text())
    assert (facts["target"], facts["size"], facts["heads"]) == ("timm", 32, 3)
    assert [p.name for p in tmp_path.glob("**/.*")] == []


def test_an_export_that_differs_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"timm reads this export, and gives other tokens at 32 pixels: .*apart"):
        exporting.export(students.student("plain"), NOWHERE, Broken(), tmp_path / "out", PLAINLY)
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_cannot_read_it_is_quoted(tmp_path: Path) -> None:
    class Unreadable(Timm):
        def write(self, opened, folder, wishes):
            super().write(opened, folder, wishes)
            (folder / "config.json").write_text("{")

    with pytest.raises(CheckpointError, match=r"timm does not read this export: json\.decoder\.JSONDecodeError"):
        exporting.export(students.student("plain"), NOWHERE, Unreadable(), tmp_path / "out", PLAINLY)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    exporting.refuse_place(out, force=False)  # empty
    (out / "thesis.tex").write_text("years")
    for force in (False, True):
        with pytest.raises(CheckpointError, match="is there already, and is no export"):
            exporting.refuse_place(out, force)
    (out / "export.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"an export is there already\. --force replaces it"):
        exporting.refuse_place(out, force=False)
    exporting.refuse_place(out, force=True)
    with exporting.beside(out) as folder:
        (folder / "new").write_text("")
    assert [p.name for p in out.iterdir()] == ["new"] and [p.name for p in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ZeroDivisionError), exporting.beside(out) as folder:
        (folder / "newer").write_text(str(1 / 0))
    assert [p.name for p in out.iterdir()] == ["new"] and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["safetensors", "dinov2", "onnx", "torch"])
def test_a_disk_that_fills_up_leaves_nothing(name: str, tmp_path: Path) -> None:
    script = EXPORT + (
        "import resource, signal\n"
        "sys.dont_write_bytecode = True  # a limit on files would cut it short, and leave it so for everyone\n"
        "student = students.student('plain')\n"
        "target = target_of(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "try: exporting.export(student, Origin('x'), target, exporting.Path(sys.argv[2]), Wishes())\n"
        "except UserError as error: print(type(error).__name__, error); sys.exit(error.exit_code)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, name, str(tmp_path / "out")],
        cwd=places.REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 5, ran.stderr
    assert "cannot be written: File too large" in ran.stdout and "Nothing was kept" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = pytest.raises(CheckpointError, match=r"--out .*file/sub/out cannot be written: Not a directory")
    with refused, exporting.beside(tmp_path / "file" / "sub" / "out"):
        pass


def test_projectors_are_refused_where_there_is_no_place_for_them() -> None:
    opened = students.student("plain")
    with pytest.raises(CheckpointError, match=r"--to timm --with-projectors: timm has no place for projectors"):
        exporting.refuse_projectors(opened, target_of("timm"))
    opened.student.projector = None
    with pytest.raises(CheckpointError, match="there are no projectors in this model"):
        exporting.refuse_projectors(opened, target_of("onnx"))


def test_an_export_for_another_size_is_exact_there() -> None:
    opened = students.student("plain")
    images = torch.randn(1, 3, 48, 48)
    wanted = opened.student(images).features.patches
    moved = exporting.at_size(opened, 48)
    assert moved.size == 48 and moved.student.trunk.grid == (6, 6)
    torch.testing.assert_close(moved.student(images).features.patches, wanted)
    with pytest.raises(RecipeError, match="size 50 is not a multiple of the patch, 8"):
        exporting.at_size(opened, 50)


def test_a_card_names_teachers_licences_scores_and_an_unfinished_run() -> None:
    opened, target = students.student("plain"), target_of("onnx")
    path = places.REPOSITORY / "recipes" / "unic_l.yaml"
    recipe = recipes.load(path, ["data.train=[/home/me/secret/train.beton]"], unset="keep")
    taught = [
        Taught("dinov2", "Apache-2.0", "arXiv:2304.07193"),
        Taught("metaclip", "CC-BY-NC 4.0"),
        Taught("mine", "?", plugin="./mine.py:Mine"),
    ]
    scores = {"knn": {"value": 85.6, "low": 85.2, "high": 86.0}, "odd": {"value": 1.0, "low": None}}
    origin = Origin("unic_l", recipe, taught, 1200, 3000, scores)
    said = card.card(origin, target, opened, Wishes(licence=card.licence_of(origin)), [], "student")
    assert "distilled from dinov2, metaclip and mine (plug-in ./mine.py:Mine)" in said
    assert "1,200 steps of 512 images, 614,400 in all, repeats counted." in said
    assert "**Its training is not finished**: this is step 1,200 of 3,000." in said
    assert "| metaclip | CC-BY-NC 4.0 | no commercial use; name the authors |" in said
    assert "| mine (plug-in ./mine.py:Mine) | ? | read it: this program does not know it |" in said
    assert "| knn | 85.6 | 85.2 to 86 |" in said and "| odd | 1 |  |" in said
    assert said.startswith("---\nlicense: other\n") and "dinov2: arXiv:2304.07193." in said
    assert "train.beton" in said and "/home/me" not in said and "wandb" not in said and "runs/" not in said
    assert "opset 18" in said and "ECCV" in said
    assert card.licence_of(Origin("x", taught=taught[:1])) == "apache-2.0" and card.licence_of(NOWHERE) == "other"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("plain", "a ViT with 2 blocks of 48 channels, patches of 8 pixels, for"),
        ("dinov3", "patches of 16 pixels and rotary positions, for"),
        (
            "convnext of convolutions",
            "timm's `convnext_atto`, which ends in 32 channels and one token for 32 pixels a side, for",
        ),
    ],
)
def test_a_card_says_what_kind_of_encoder_it_is(kind: str, said: str) -> None:
    target, opened = target_of("safetensors"), students.student(kind) if kind == "plain" else students.other(kind)
    assert said in card.card(NOWHERE, target, opened, Wishes(licence="other"), [], "student")


def test_without_a_network_a_push_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="--push-to me/mine: it is written hf:ORG/NAME"):
        hub.repository("me/mine")
    with pytest.raises(
        RecipeError, match=r"--push-to hf:me/mine: .*\n  Nothing was done. It takes a network and a token"
    ):
        hub.repository("hf:me/mine")


def unicscale(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unicscale", *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})


def test_the_command_exports_and_refuses(tmp_path: Path) -> None:
    source, out = places.GOLDEN / "unic_official_tiny.pth", tmp_path / "out"
    ran = unicscale(
        "export", str(source), "--to", "safetensors", "--with-projectors", "--size", "84", "--out", str(out)
    )
    assert ran.returncode == 0, ran.stderr
    assert "unicscale at 84 pixels: 0e+00 from the student (the same model)" in ran.stdout
    assert "model.safetensors" in ran.stdout
    again = unicscale("export", str(source), "--to", "safetensors", "--out", str(out))
    assert (again.returncode, "--force replaces it" in again.stderr, "Traceback" in again.stderr) == (5, True, False)
    assert unicscale("export", "teacher:dino", "--to", "timm", "--out", str(tmp_path / "x")).returncode == 2


def test_the_verifier_knows_only_what_the_lines_say() -> None:
    assert "unicscale" not in verify.READER
