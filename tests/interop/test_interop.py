"""Models in: the authors' files, ours, teachers."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

import unicscale
from tests.kit import places, students
from tests.kit.golden_method import assert_near
from unicscale import Features, Seen, checkpoint, load
from unicscale.data import scenes
from unicscale.errors import CheckpointError, UserError
from unicscale.interop import native, unic
from unicscale.interop.exports import target_of
from unicscale.interop.exports.target import Wishes
from unicscale.recipe import load as load_recipe
from unicscale.recipe import sections
from unicscale.student.model import build_student
from unicscale.teacher import weights
from unicscale.teacher.frozen import open_teacher
from unicscale.train import train

OFFICIAL = places.GOLDEN / "unic_official_tiny.pth"
EXPECTED = load_file(OFFICIAL.with_name("unic_official_tiny.expected.safetensors"))


def content() -> dict:
    return weights.read(OFFICIAL)


@pytest.mark.parametrize("size", [56, 84])
def test_an_official_checkpoint_gives_the_authors_features(size: int) -> None:
    model = load(OFFICIAL)
    features = model(EXPECTED[f"image_{size}"])
    assert isinstance(features, Features)
    assert_near(features.summary, EXPECTED[f"cls_{size}"])
    assert_near(features.patches, EXPECTED[f"patch_{size}"])


def test_an_official_checkpoint_gives_the_authors_projections() -> None:
    seen = load(OFFICIAL, projectors=True)(EXPECTED["image_56"])
    assert isinstance(seen, Seen) and list(seen.answers) == ["deit3_vitbase_16", "dino_vitbase_16"]
    for name, answer in seen.answers.items():
        assert_near(answer.summary, EXPECTED[f"projected_56.{name}.cls"])
        assert_near(answer.patches, EXPECTED[f"projected_56.{name}.patch"])


def test_the_statistics_in_it_undo_the_standardisation() -> None:
    model = load(OFFICIAL, projectors=True)
    answer = model(EXPECTED["image_56"]).answers["dino_vitbase_16"]
    tokens = model.unstandardise("dino_vitbase_16", answer)
    held = content()["teacher_ft_stats"]["dino_vitbase_16"]["patch"]
    torch.testing.assert_close(tokens.patches, answer.patches * (held["std"] + 1e-6) + held["mean"])
    with pytest.raises(CheckpointError, match=r"no statistics of 'ibot' here, only of \['deit3_vitbase_16'"):
        model.unstandardise("ibot", answer)


def test_a_loaded_model_is_frozen_takes_uint8_and_knows_its_sizes() -> None:
    model = load(OFFICIAL)
    assert not model.training and not model.eval().training
    assert not any(p.requires_grad for p in model.parameters())
    assert (model.size, model.patch, model.width) == (56, 14, 128)
    features = model(torch.randint(0, 256, (1, 3, 28, 42), dtype=torch.uint8))
    assert features.patches.shape == (1, 6, 128) and not features.summary.requires_grad


def rebuilt(tmp_path: Path, pre: bool, mid: str, blocks: list[int]) -> tuple[Path, dict[str, torch.Tensor]]:
    """The official file with other ladder blocks and norms, named as a Sequential of these layers would be."""
    held = content()
    kept = {k: v for k, v in held["model"].items() if ".lp." not in k}
    for k, v in held["model"].items():
        found = unic.HEAD.fullmatch(k.removeprefix("module."))
        if not found or int(found[3]) not in blocks:
            continue
        layer, leaf = int(found[4]), found[5]
        stem = k.rsplit(".", 2)[0]
        first, second = int(pre), int(pre) + 2 + bool(mid)
        kept[f"{stem}.{first if layer == 0 else second}.{leaf}"] = v
        width = v.shape[0] if layer == 0 else 0
        if pre and layer == 0:
            kept[f"{stem}.0.{leaf}"] = torch.rand(128) + (leaf == "weight")
        if mid and layer == 0:
            place = first + (1 if mid == "before" else 2)
            kept[f"{stem}.{place}.{leaf}"] = torch.rand(width) + (leaf == "weight")
    path = tmp_path / "other.pth"
    torch.save(held | {"model": kept}, path)
    return path, {k.removeprefix("module."): v for k, v in kept.items()}


@pytest.mark.parametrize("mid", ["", "before", "after"])
@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("blocks", [[0, 2], [1], [0, 1, 2]])
def test_any_subset_of_blocks_with_and_without_norms_is_read_off_the_tensors(
    tmp_path: Path, blocks: list[int], pre: bool, mid: str
) -> None:
    path, state = rebuilt(tmp_path, pre, mid, blocks)
    model = load(path, projectors=True)
    images = EXPECTED["image_56"]
    raw, _ = model.student.trunk(images)
    wanted = torch.zeros(2, 16, 48)
    for block in blocks:
        stem = f"lp.heads.dino_vitbase_16.patch.{block}.layers"
        layers = [torch.nn.LayerNorm(128)] if pre else []
        hidden = state[f"{stem}.{int(pre)}.weight"].shape[0]
        norm = {"": [], "before": [torch.nn.LayerNorm(hidden)], "after": []}[mid]
        after = [torch.nn.LayerNorm(hidden)] if mid == "after" else []
        head = torch.nn.Sequential(
            *layers, torch.nn.Linear(128, hidden), *norm, torch.nn.GELU(), *after, torch.nn.Linear(hidden, 48)
        )
        head.load_state_dict({k.removeprefix(f"{stem}."): v for k, v in state.items() if k.startswith(f"{stem}.")})
        with torch.no_grad():
            wanted += head(raw[block][:, 1:])
    torch.testing.assert_close(model(images).answers["dino_vitbase_16"].patches, wanted, rtol=1e-5, atol=1e-5)


def test_an_encoder_by_itself_is_read_and_projectors_of_it_are_refused(tmp_path: Path) -> None:
    encoder = {
        k.removeprefix("module.encoder."): v for k, v in content()["model"].items() if k.startswith("module.encoder.")
    }
    path = tmp_path / "encoder.pth"
    torch.save(encoder, path)
    assert_near(load(path)(EXPECTED["image_56"]).summary, EXPECTED["cls_56"])
    with pytest.raises(CheckpointError, match="projectors=True, but there are no projectors in it"):
        load(path, projectors=True)


@pytest.mark.parametrize("wrapped", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_file_of_dune_gives_its_encoder_whatever_its_projectors_are(tmp_path: Path, wrapped: str) -> None:
    """Registers and LayerScale, a transformer for each teacher, statistics of another form: only the first is a ViT."""
    opened = students.student("registers and layer scale")
    target_of("unic").write(opened, tmp_path, Wishes())
    held = weights.read(tmp_path / "checkpoint.pth")
    model = {name.replace("module.", wrapped, 1): tensor for name, tensor in held["model"].items()}
    model |= {f"{wrapped}projectors.mast3r.block.attn.qkv.weight": torch.randn(6, 2)}
    torch.save(held | {"model": model, "teacher_ft_stats": {}}, tmp_path / "dune.pth")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "dune.pth")(images), opened.student(images).features)
    with pytest.raises(CheckpointError, match="no projectors in it"):
        load(tmp_path / "dune.pth", projectors=True)


class Payload:
    """What a hostile checkpoint would hold."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def test_nothing_in_a_foreign_file_is_executed(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "hostile.pth"
    torch.save(content() | {"extra": Payload(f"touch {trace}")}, path)
    with pytest.raises(CheckpointError, match=r"refused: reading it would call \w+\.system, and weights need no code"):
        load(path)
    assert not trace.exists()


def test_files_that_are_something_else_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(2, 2), "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(CheckpointError, match=r"no 'encoder\.pos_embed' in it, so .* It has fc\.weight"):
        load(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"other\.pth: not a file of weights: "):
        load(path)
    path.write_text("\n<!DOCTYPE html><html><body>Please log in</body></html>")
    with pytest.raises(CheckpointError, match=r"other\.pth: this is a web page, not weights"):
        load(path)
    path.write_bytes(OFFICIAL.read_bytes()[:9999])
    with pytest.raises(CheckpointError, match=r"other\.pth: 9,999 bytes, and not a whole weights file"):
        load(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match=r"other\.pth: holds a list, not a dictionary of tensors"):
        load(path)
    with pytest.raises(CheckpointError, match="'nowhere' is neither a file nor a folder here"):
        load("nowhere")
    plain = tmp_path / "plain.safetensors"
    save_file({"x": torch.zeros(1)}, plain)
    with pytest.raises(CheckpointError, match="nothing says which student this is"):
        load(plain)
    plain.write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(plain)
    save_file({"x": torch.zeros(1)}, plain, {"unicscale": json.dumps({"student": {"arc": "x"}})})
    with pytest.raises(CheckpointError, match="its metadata does not describe a student"):
        load(plain)


@pytest.mark.parametrize(("kind", "stem"), [("running", "patch"), ("phi_s", "convolutions")])
def test_our_own_file_gives_the_same_model_back(
    tmp_path: Path, kind: str, stem: Literal["patch", "convolutions"]
) -> None:
    section = sections.Student(
        arch="vit_tiny", patch=4, stem=stem, registers=2, options={"embed_dim": 16, "depth": 2, "num_heads": 2}
    )
    standardize = sections.Standardize.model_validate({"kind": kind})
    student = build_student(section, sections.Ladder(), {"a": 8, "b": 12}, 16).to_empty(device="cpu").eval()
    with torch.no_grad():
        for name, p in student.named_parameters():
            p.copy_(student.initial(name, p.shape, 0))
    student.resize_positions(24)
    statistics = {}
    for name, dim in (("a", 8), ("b", 12)):
        pair = [native.empty_standardizer(standardize, dim) for _ in range(2)]
        for standardizer in pair:
            standardizer(torch.randn(40, dim) + 3, momentum=1.0)
        statistics[name] = tuple(pair)
    path = tmp_path / "model.safetensors"
    description = native.Description(student=section, projector=sections.Ladder(), standardize=standardize)
    native.write(path, native.Opened(student, 24, statistics), description)
    for source in (path, tmp_path):
        model = load(source, projectors=True)
        images = torch.randn(2, 3, 24, 24)
        torch.testing.assert_close(model(images), student(images))
        assert model.size == 24
    answer = model(images).answers["a"]
    torch.testing.assert_close(
        model.unstandardise("a", answer).summary, statistics["a"][0].invert(student(images).answers["a"].summary)
    )


def test_a_teacher_that_nobody_offers_is_refused() -> None:
    with pytest.raises(UserError, match="dinno"):
        load("teacher:dinno")


@pytest.mark.parametrize("opens", [lambda *said: load(f"teacher:{said[0]}", False, *said[1:]), open_teacher])
def test_whose_weights_win_is_the_same_by_either_door(opens: Callable[..., torch.nn.Module], tmp_path: Path) -> None:
    def weights_of(*said: object) -> torch.Tensor:
        return next(opens("scenes", *said).parameters())

    other = tmp_path / "other.safetensors"
    plain = {name: t * 2 for name, t in open_teacher("scenes").module.state_dict().items()}
    save_file(plain, other)
    official, doubled = weights_of(), weights_of(None, {"weights": str(other)})
    assert torch.equal(doubled, official * 2)  # the options' before the official ones
    assert torch.equal(weights_of(other), doubled)
    assert torch.equal(weights_of(other, {"weights": "nowhere.pth"}), doubled)  # one's own word before the options'
    assert torch.equal(weights_of("auto", {"weights": str(other)}), official)


def test_the_names_of_the_package_are_the_promised_ones() -> None:
    assert unicscale.distil.__module__ == "unicscale.objective.loss"
    assert unicscale.Standardizer(3).mean.shape == (3,)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stages of two steps each, with averaged weights."""
    folder = tmp_path_factory.mktemp("run")
    scenes.write(folder / "images", 16, seed=0)
    path = folder / "recipe.yaml"
    path.write_text(
        f"""
schema: 1
out: {folder / "out"}
data: {{train: [{folder / "images"}], images_per_step: 8, reader: folder, workers: 0}}
student: {{arch: vit_tiny, patch: 8, drop_path: 0.1, options: {{embed_dim: 32, depth: 2, num_heads: 2}}}}
teachers: {{classes: {{plugin: scenes}}, dense: {{plugin: scenes, knows: dense}}}}
stages:
  - {{name: low,  size: 48, steps: 2, lr: {{peak: 1e-3}}}}
  - {{name: high, size: 64, steps: 2, lr: {{peak: 1e-3}}}}
engine: {{kind: plain, device: cpu, ema: 0.5}}
"""
    )
    return train(load_recipe(path)).root


def test_a_run_folder_gives_its_averaged_student_at_its_last_size(run: Path) -> None:
    model = load(run, projectors=True)
    held = checkpoint.locate(run)
    averaged = held.tensors("ema")
    assert model.size == 64 and list(model(torch.zeros(1, 3, 64, 64)).answers) == ["classes", "dense"]
    for name, parameter in model.student.named_parameters():
        expected = averaged[name] if name in averaged else held.tensors("weights")[name]
        assert torch.equal(parameter, expected)
    assert "trunk.pos_embed" in averaged and "trunk.norm.weight" not in averaged


def test_a_run_folder_brings_the_statistics_of_its_teachers(run: Path) -> None:
    model, held = load(run, projectors=True), checkpoint.locate(run).tensors("statistics")
    for teacher in ("classes", "dense"):
        for kind, standardizer in zip(Features._fields, model.statistics[teacher].values(), strict=True):
            assert torch.equal(standardizer.mean, held[f"{teacher}/{kind}.running_mean"])
            assert standardizer.mean.abs().sum() > 0


def test_a_checkpoint_folder_gives_what_its_run_gives(run: Path) -> None:
    (step,) = sorted((run / "checkpoints").glob("step-*"))[-1:]
    images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(load(step)(images), load(run)(images))


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load(tmp_path)


def test_the_lines_of_the_documentation_run() -> None:
    page = (places.REPOSITORY / "docs" / "train.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names = {"PATH": OFFICIAL, "images": torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8)}
    exec(block, names)
    assert names["summary"].shape == (2, 128) and list(names["seen"].answers) == ["deit3_vitbase_16", "dino_vitbase_16"]
