"""student.init: what is taken of weights that others trained, and that features are then theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.kit import places
from unicscale import load
from unicscale.engine import build_engine
from unicscale.errors import CheckpointError, RecipeError
from unicscale.interop import native
from unicscale.interop.opened import Opened
from unicscale.interop.starting import start_of
from unicscale.ranks.world import World
from unicscale.recipe import sections
from unicscale.recipe.sections import TeacherSection
from unicscale.student.model import Student, build_student, in_memory
from unicscale.student.starting import few
from unicscale.teacher.frozen import open_frozen

SHAPE = {"embed_dim": 32, "depth": 2, "num_heads": 2}
PLAIN = {"arch": "vit_tiny", "patch": 8, "options": SHAPE}
TURNING = {"arch": "vit_tiny_patch16_dinov3_qkvb", "patch": 8, "options": SHAPE}
OFFICIAL = places.GOLDEN / "unic_official_tiny.pth"


def shaken(module: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*module.parameters(), *(b for n, b in module.named_buffers() if "running" in n)]:
            tensor.copy_(torch.randn(tensor.shape, generator=generator).abs() * 0.1 + 0.05)
    return module.eval()


def started(section: dict, source: str, size: int = 32, teachers: dict | None = None) -> Student:
    """As a run would start it, before its first step."""
    student = build_student(sections.Student.model_validate(section), sections.Ladder(hidden=4), {"a": 6}, size)
    start = start_of(source, student.trunk, teachers or {})
    assert start.share == 1 and not start.absent, start.said(source)
    student.source = lambda: start.values
    engine = build_engine(sections.EngineSection(), student, seed=1, world=World(), micro_batches=1, size=size)
    return engine.student.eval()  # type: ignore[attr-defined]


def said_of(section: dict, source: str, teachers: dict | None = None) -> str:
    student = build_student(sections.Student.model_validate(section), sections.Ladder(hidden=4), {"a": 6}, 32)
    return start_of(source, student.trunk, teachers or {}).said(source)


def assert_features(student: Student, summary: Tensor, patches: Tensor, images: Tensor) -> None:
    with torch.no_grad():
        features = student(images).features
    torch.testing.assert_close(features.summary, summary, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.patches, patches, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_official_file_of_dinov2(tmp_path: Path) -> None:
    options = SHAPE | {"patch_size": 8, "img_size": 32, "init_values": 1.0, "global_pool": "token"}
    model = shaken(timm.create_model("vit_tiny_patch16_224", num_classes=0, **options))
    state = dict(model.state_dict()) | {"mask_token": torch.zeros(1, 32)}
    torch.save(state, tmp_path / "dinov2_vits.pth")
    images = torch.randn(2, 3, 32, 32)
    tokens = model.forward_features(images)
    student = started(PLAIN | {"layer_scale": 1.0}, str(tmp_path / "dinov2_vits.pth"))
    assert_features(student, tokens[:, 0], tokens[:, 1:], images)


@torch.no_grad()
@pytest.mark.parametrize("official", [False, True])
def test_a_vit_that_turns_from_timms_file_or_its_authors(tmp_path: Path, official: bool) -> None:
    options = SHAPE | {"patch_size": 8, "img_size": 32}
    model = shaken(timm.create_model("vit_tiny_patch16_dinov3_qkvb", num_classes=0, **options))
    state = dict(model.state_dict())
    if official:  # Meta's names
        for block in range(2):
            q, v = (state.pop(f"blocks.{block}.attn.{part}_bias") for part in "qv")
            state[f"blocks.{block}.attn.qkv.bias"] = torch.cat([q, torch.zeros(32), v])
            for number in (1, 2):
                state[f"blocks.{block}.ls{number}.gamma"] = state.pop(f"blocks.{block}.gamma_{number}")
        state["storage_tokens"] = state.pop("reg_token")
        state |= {"mask_token": torch.zeros(1, 32), "rope_embed.periods": torch.ones(4)}
    torch.save(state, tmp_path / "dinov3.pth")
    images = torch.randn(2, 3, 32, 32)
    tokens = model.forward_features(images)
    assert_features(started(TURNING, str(tmp_path / "dinov3.pth")), tokens[:, 0], tokens[:, 5:], images)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_a_folder_of_transformers(tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    name = {"dinov2": "Dinov2", "dinov3": "DINOv3ViT"}[kind]
    said = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8,
        intermediate_size=128, mlp_ratio=4, num_register_tokens=4,
    )  # fmt: skip
    model = shaken(getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**said)))
    model.save_pretrained(tmp_path)
    section = PLAIN | {"layer_scale": 1.0} if kind == "dinov2" else TURNING
    images, prefix = torch.randn(2, 3, 32, 32), 1 if kind == "dinov2" else 5
    tokens = model(images).last_hidden_state
    assert_features(started(section, str(tmp_path)), tokens[:, 0], tokens[:, prefix:], images)
    assert "mean" not in said_of(section, str(tmp_path)), "nothing says how these weights saw pixels"
    saw = {"image_mean": [1, 1, 1], "image_std": [1, 1, 1], "rescale_factor": 1 / 127.5, "do_resize": False}
    pixels = tmp_path / "preprocessor_config.json"
    pixels.write_text(json.dumps(saw | {"image_processor_type": "BitImageProcessor", "do_center_crop": False}))
    assert (
        "trained on pixels of mean [0.5, 0.5, 0.5] and deviation [0.5, 0.5, 0.5], and the student sees those of mean "
        "[0.485, 0.456, 0.406].\n  To see the same: data.channels: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"
    ) in said_of(section, str(tmp_path))
    if kind == "dinov2":
        photo = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
        shown = transformers.AutoImageProcessor.from_pretrained(tmp_path)(photo[0], return_tensors="pt")
        torch.testing.assert_close(
            load(tmp_path)(photo).summary, model(**shown).last_hidden_state[:, 0], rtol=1e-4, atol=1e-5
        )
        pixels.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
        assert load(tmp_path).mean == (0.5, 0.5, 0.5)
        pixels.write_text(json.dumps({"do_normalize": False}))
        assert load(tmp_path).std == (1.0, 1.0, 1.0)
    for strange in ({"rescale_factor": None}, {"rescale_factor": 0}, {"image_mean": 0.5}):
        pixels.write_text(json.dumps(strange))
        with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: what it says of pixels is no numbers"):
            said_of(section, str(tmp_path))


def test_a_vit_of_transformers_without_a_processors_file_is_said_to_be_taken_as_imagenets(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    said = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    config = transformers.ViTConfig(**said, intermediate_size=128)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    assert load(tmp_path).mean == (0.485, 0.456, 0.406)
    assert (
        "without a preprocessor_config.json nothing says its normalisation; taken: ImageNet's" in capfd.readouterr().err
    )
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    assert load(tmp_path).mean == (0.5, 0.5, 0.5)
    assert not capfd.readouterr().err


@torch.no_grad()
def test_an_official_file_of_unic_at_another_size() -> None:
    model, images = load(OFFICIAL), torch.randn(2, 3, 84, 84)
    section = {"arch": "vit_tiny", "patch": 14, "options": {"embed_dim": 128, "depth": 3, "num_heads": 2}}
    features = model(images)
    assert_features(started(section, str(OFFICIAL), 84), features.summary, features.patches, images)


@torch.no_grad()
@pytest.mark.parametrize(
    ("section", "size"),
    [(PLAIN, 32), ({"arch": "convnext_atto", "options": {"dims": [8, 12, 16, 24]}}, 64), ({"arch": "test_resnet"}, 64)],
)
def test_an_export_of_ours(tmp_path: Path, section: dict, size: int) -> None:
    described = sections.Student.model_validate(section)
    student = shaken(in_memory(build_student(described, sections.Ladder(hidden=4), {"a": 6}, size), "cpu"))
    native.write(tmp_path / "model.safetensors", Opened(student, size), native.Description(student=described))
    images = torch.randn(2, 3, size, size)
    features = load(tmp_path)(images)
    torch.testing.assert_close(features, student(images).features)
    assert_features(started(section, str(tmp_path), size), features.summary, features.patches, images)


@torch.no_grad()
def test_timms_own_weights_from_the_cache_and_a_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNICSCALE_CACHE", str(tmp_path))
    with pytest.raises(RecipeError, match=r"unicscale teachers fetch timm model=test_convnext\.r160_in1k"):
        started({"arch": "test_convnext"}, "timm:test_convnext.r160_in1k", 64)
    model = shaken(timm.create_model("test_convnext"))
    (tmp_path / "teachers").mkdir()
    save_file(dict(model.state_dict()), tmp_path / "teachers" / "timm--test_convnext.r160_in1k")
    images = torch.randn(2, 3, 64, 64)
    final = model.forward_features(images)
    student = started({"arch": "test_convnext"}, "timm:test_convnext.r160_in1k", 64)
    assert_features(student, model.forward_head(final, pre_logits=True), final.flatten(2).mT, images)
    section = TeacherSection(plugin="dino", weights="random", size=SHAPE | {"patch_size": 8, "img_size": 32})  # type: ignore[call-arg]
    features, images = open_frozen("one", section)(images[..., :32, :32]), images[..., :32, :32]
    student = started(PLAIN, "teacher:one", 32, {"one": section})
    assert_features(student, features.summary, features.patches, images)
    assert "mean" not in said_of(PLAIN, "teacher:one", {"one": section}), "both see ImageNet's"
    halves = TeacherSection(plugin="timm", weights="random", model="test_vit")  # type: ignore[call-arg]
    for source in ("timm:test_convnext.r160_in1k", "teacher:halves"):
        assert "trained on pixels of mean [0.5" in said_of({"arch": "test_convnext"}, source, {"halves": halves})
    with pytest.raises(RecipeError, match=r"'oen' is none of the recipe's teachers, one\..*one"):
        started(PLAIN, "teacher:oen", 32, {"one": section})


def test_another_architecture_is_refused_with_what_it_lacks_unless_told(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth")
    student = build_student(sections.Student.model_validate(PLAIN), sections.Ladder(), {"a": 6}, 32)
    start = start_of(str(tmp_path / "resnet.pth"), student.trunk, {})
    with pytest.raises(RecipeError, match=r"fits 0% of the student's parameters\.\n  start anew: cls_token, "):
        start.refuse_little("resnet.pth")
    (tmp_path / "nothing.safetensors").write_text(json.dumps({}))
    with pytest.raises(RecipeError, match=r"student.init: \S*nowhere is not here"):
        start_of(str(tmp_path / "nowhere"), student.trunk, {})


def test_names_in_a_row_are_one_name() -> None:
    assert few(["cls_token", *(f"blocks.{i}.attn.qkv.weight" for i in range(12))]) == (
        "cls_token, blocks.0-11.attn.qkv.weight"
    )
