"""What a stranger brings: names in no encoding, labels that are none, pickles behind options."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.interop.test_interop import Payload
from tests.kit import measured
from tests.kit.pictures import needs_ffcv, tree
from unicscale.commands.evaluation import features
from unicscale.data.pack.writing import AS_IT_IS, pack
from unicscale.data.sets.beton import Beton
from unicscale.errors import DataError, UserError
from unicscale.recipe import sections
from unicscale.student.trunk import build_trunk


def unreadable(folder: Path) -> Path:
    """Two classes of two images, one of each under a name that is no UTF-8."""
    tree(folder, 4, classes=2)
    for one in sorted(folder.iterdir()):
        first = sorted(one.iterdir())[0]
        os.rename(first, os.path.join(os.fsencode(one), b"\xff\xfe.jpg"))
    return folder


@needs_ffcv
def test_names_that_are_no_text_are_packed_and_told(tmp_path: Path) -> None:
    packed = pack(str(unreadable(tmp_path / "odd")), str(tmp_path / "o.beton"), AS_IT_IS, workers=1)
    assert packed.count == 4 and Beton(packed.path).labels.tolist() == [0, 0, 1, 1]


def test_names_that_are_no_text_have_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "f.safetensors"
    features(str(measured.student(tmp_path)), unreadable(tmp_path / "odd"), out=out, batch=4, device="cpu")
    assert out.exists() and "4 images" in capsys.readouterr().out


@needs_ffcv
@pytest.mark.parametrize("label", ["\u00b2", "--5", "9" * 20, "9" * 5000, "nan", "1e9"])
def test_a_label_that_is_no_number_is_a_name_or_refused_and_never_another_number(tmp_path: Path, label: str) -> None:
    tree(tmp_path / "tree", 2, classes=1)
    (tmp_path / "list.tsv").write_text(f"tree/class0/0000.jpg\t{label}\ntree/class0/0001.jpg\t1\n", encoding="utf-8")
    try:
        packed = pack(str(tmp_path / "list.tsv"), str(tmp_path / "o.beton"), AS_IT_IS, workers=1)
    except DataError as refused:
        assert "list.tsv" in str(refused)
        return
    assert Beton(packed.path).classes == sorted([label, "1"])


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg"])
@pytest.mark.parametrize("arch", ["vit_tiny", "convnext_atto", "vit_small_patch16_224"])
def test_a_pickle_behind_an_option_of_timm_runs_nothing(tmp_path: Path, arch: str, option: str) -> None:
    ran, file = tmp_path / "ran", tmp_path / "hostile.pth"
    torch.save({"state_dict": Payload(f"touch {ran}")}, file)
    said = str(file) if option == "checkpoint_path" else {"file": str(file), "url": f"file://{file}"}
    try:
        build_trunk(sections.Student.model_validate({"arch": arch, "options": {option: said}}), 64)
    except UserError as refused:
        assert "Traceback" not in str(refused)
    assert not ran.exists()
