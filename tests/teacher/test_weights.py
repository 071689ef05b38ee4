"""Wrong files are refused with one clear message each, before anything is computed with them."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.kit import places
from tests.kit.recipe import write_images, write_recipe
from unicscale.errors import TeacherError
from unicscale.recipe import load
from unicscale.teacher import weights
from unicscale.teacher.frozen import open_teacher
from unicscale.train import train

GOLDEN = places.GOLDEN / "teachers"
ARCH = {name: facts["arch"] for name, facts in json.loads((GOLDEN / "teachers.json").read_text()).items()}


def refusal(plugin: str, file: Path | str, **options: object) -> str:
    with pytest.raises(TeacherError) as caught:
        open_teacher(plugin, str(file), options or {"size": ARCH[plugin]})
    assert caught.value.exit_code == 4
    return str(caught.value)


def official(name: str) -> dict[str, torch.Tensor]:
    held = weights.read(GOLDEN / f"{name}.pth")
    return dict(held.get("state_dict", held.get("model", held)))  # type: ignore[arg-type]


def saved(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def test_a_file_that_is_not_there_is_named_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "dino.pth").touch()
    said = refusal("dino", tmp_path / "dyno.pth")
    assert f"'weights: {tmp_path / 'dyno.pth'}' does not exist" in said
    assert "holds dino.pth" in said


def test_another_familys_file_is_refused_by_its_entries() -> None:
    said = refusal("dino", GOLDEN / "deit3.pth")
    assert "does not fit" in said
    assert "not expected: blocks.0.gamma_1" in said
    assert "pos_embed (1, 16, 32) instead of (1, 17, 32)" in said


def test_a_truncated_file_is_called_truncated(tmp_path: Path) -> None:
    whole = (GOLDEN / "dino.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    said = refusal("dino", tmp_path / "half.pth")
    assert f"{len(whole) // 2:,} bytes, and not a whole weights file" in said
    save_file(official("dino"), tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[:-100])
    assert "not a whole weights file" in refusal("dino", tmp_path / "half.safetensors")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_wherever_a_file_is_cut_it_is_refused_in_words(form: str, tmp_path: Path) -> None:
    file, held = tmp_path / "cut.pth", {"weight": torch.zeros(3)}
    save_file(held, file) if form == "safetensors" else torch.save(
        held, file, _use_new_zipfile_serialization=form == "zip"
    )
    whole = file.read_bytes()
    for length in range(0, len(whole) - 1, 3):
        file.write_bytes(whole[:length])
        with pytest.raises(
            TeacherError,
            match=r"cut\.pth: .*(not a whole weights file|not a file of weights|refused: reading it would call \w)",
        ):
            weights.read(file)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    assert "0 bytes, and not a whole weights file" in refusal("dino", tmp_path / "empty.pth")


def test_a_web_page_saved_as_weights_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("\n<!DOCTYPE html><html><body>Please log in</body></html>")
    assert "this is a web page, not weights" in refusal("dino", tmp_path / "page.pth")


def test_ibots_whole_checkpoint_is_refused_by_its_student(tmp_path: Path) -> None:
    inner = {f"module.backbone.{n}": t for n, t in official("ibot").items()}
    file = saved({"student": inner, "teacher": inner, "epoch": 400}, tmp_path / "checkpoint.pth")
    said = refusal("ibot", file)
    assert str(file) in said
    assert "'student' (module.backbone.cls_token, ...), 'teacher' (module.backbone.cls_token, ...)" in said
    assert "The teacher alone is wanted" in said


def test_another_size_is_refused_and_the_fitting_one_named(tmp_path: Path) -> None:
    small = open_teacher("dino", "random", {"size": "small"}).module.state_dict()
    small["norm.weight"] = small["norm.weight"] * 1.5
    said = refusal("dino", saved(small, tmp_path / "small.pth"), size="base")
    assert "another shape: " in said
    assert "(1, 1, 384) instead of (1, 1, 768)" in said
    assert said.endswith("It is the file of size: small.")


def test_registers_that_the_recipe_forgot_are_named(tmp_path: Path) -> None:
    state = official("dinov2_reg4")
    said = refusal("dinov2", saved(state, tmp_path / "reg.pth"), size={**ARCH["dinov2_reg4"], "reg_tokens": 0})
    assert "not expected: reg_token" in said


class Payload:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_a_pickle_that_wants_to_execute_is_refused_and_executes_nothing(tmp_path: Path) -> None:
    touched = tmp_path / "executed"
    for legacy in (False, True):
        file = tmp_path / "hostile.pth"
        torch.save({"model": Payload(touched)}, file, _use_new_zipfile_serialization=not legacy)
        said = refusal("deit3", file)
        assert "reading it would call " in said
        assert "system" in said
        assert not touched.exists()


def test_the_authors_command_line_beside_the_weights_is_let_through(tmp_path: Path) -> None:
    file = saved({"model": official("deit3"), "args": argparse.Namespace(lr=1e-3)}, tmp_path / "with_args.pth")
    open_teacher("deit3", str(file), {"size": ARCH["deit3"]})


def test_weights_that_were_never_trained_are_refused(tmp_path: Path) -> None:
    fresh = open_teacher("dino", "random", {"size": ARCH["dino"]}).module.state_dict()
    said = refusal("dino", saved(fresh, tmp_path / "fresh.pth"))
    assert "was never trained" in said
    assert "`weights: random`" in said


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_one_wrong_entry_is_enough(change: str, tmp_path: Path) -> None:
    state = official("dino")
    if change == "missing":
        del state["blocks.1.mlp.fc2.bias"]
    elif change == "extra":
        state["blocks.2.mlp.fc2.bias"] = torch.zeros(32)
    else:
        state["blocks.1.mlp.fc2.bias"] = torch.zeros(33)
    said = refusal("dino", saved(state, tmp_path / "bad.pth"))
    assert "does not fit" in said
    assert ".mlp.fc2.bias" in said


def test_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    said = refusal("dino", f"{GOLDEN / 'dino.pth'}#sha256={'0' * 64}")
    assert "is not the file it should be" in said
    assert f"expected {'0' * 64}" in said


def test_a_missing_cache_says_which_command_fills_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNICSCALE_CACHE", str(tmp_path))
    said = refusal("dinov2", "auto", size="giant")
    assert f"not in the cache: {tmp_path}/teachers/dinov2_vitg14--" in said and "--dinov2_vitg14_pretrain.pth" in said
    assert "`unicscale teachers fetch" in said
    assert "compute nodes never download" in said


def untrained() -> dict[str, torch.Tensor]:
    return dict(open_teacher("dino", "random", {"size": ARCH["dino"]}).module.state_dict())


WRONG = {
    "hash": (lambda: official("dino"), "#sha256=" + "0" * 64, "is not the file it should be"),
    "shape": (lambda: official("dino") | {"norm.bias": torch.zeros(33)}, "", "norm.bias (33,) instead of (32,)"),
    "missing": (lambda: {n: t for n, t in official("dino").items() if n != "norm.bias"}, "", "missing: norm.bias"),
    "random": (untrained, "", "was never trained"),
}


@pytest.mark.parametrize("engine", ["plain", "fsdp2"])
@pytest.mark.parametrize("case", WRONG)
def test_a_run_with_wrong_teacher_weights_ends_before_its_first_step(case: str, engine: str, tmp_path: Path) -> None:
    state, suffix, expected = WRONG[case]
    file = saved(state(), tmp_path / "wrong.pth")
    teacher = {"plugin": "dino", "weights": f"{file}{suffix}", "size": ARCH["dino"]}
    images = write_images(tmp_path / "images", count=8)
    changes = {"teachers__one": teacher, "engine__kind": engine}
    recipe = load(str(write_recipe(tmp_path / "r.yaml", images, tmp_path / "out", **changes)))
    with pytest.raises(TeacherError) as refused:
        train(recipe)
    assert refused.value.exit_code == 4
    assert expected in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_random_weights_depend_on_the_name_alone() -> None:
    first = open_teacher("dino", "random", {"size": ARCH["dino"]}).module.state_dict()
    again = open_teacher("dino", "random", {"size": {**ARCH["dino"], "depth": 1}}).module.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in again)
    assert not torch.equal(first["blocks.0.mlp.fc1.weight"], first["blocks.1.mlp.fc1.weight"])
    assert 0.015 < first["blocks.0.mlp.fc1.weight"].std() < 0.025
