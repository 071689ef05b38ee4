"""Any image encoder of transformers teaches: published configs as they are, and refusals in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unicscale.contracts import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN
from unicscale.errors import TeacherError
from unicscale.teacher.finding import find
from unicscale.teacher.frozen import open_teacher
from unicscale.teacher.targets import _pixels

transformers = pytest.importorskip("transformers")

BLOCKS = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 64,
    "patch_size": 8,
}  # fmt: skip
CLIP = {"model_type": "clip", "vision_config": BLOCKS}


def spec_of(config: Any, **more: Any) -> Any:
    plugin = find("hf")
    return plugin.spec(plugin.Options(config=config, **more))


def refusal(config: Any, **more: Any) -> str:
    with pytest.raises(TeacherError) as caught:
        spec_of(config, **more)
    return str(caught.value)


def assert_close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=5e-6)


def test_a_published_config_leaves_its_defaults_out() -> None:
    spec = spec_of({"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model"}})
    assert (spec.widths, spec.patch, spec.size, spec.mean) == ((768, 768), 16, 224, (0.5, 0.5, 0.5))
    assert spec_of({"vision_config": {"model_type": "siglip_vision_model"}}) == spec


def test_a_clip_without_a_preprocessor_has_clips_normalisation() -> None:
    spec = spec_of(CLIP)
    assert (spec.mean, spec.std) == (CLIP_MEAN, CLIP_STD)
    assert spec_of({"model_type": "dinov2", **BLOCKS}).mean == IMAGENET_MEAN


def test_a_family_whose_pixels_nobody_knows_is_asked_for_them() -> None:
    unknown = {"model_type": "textnet"}
    assert "nothing says how images for 'textnet' are normalised" in refusal(unknown)
    assert spec_of(unknown, mean=(0.1, 0.2, 0.3), std=(1, 1, 1)).mean == (0.1, 0.2, 0.3)


def test_the_preprocessor_beside_a_config_is_read_and_held_to_what_it_may_say(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CLIP))
    beside = tmp_path / "preprocessor_config.json"
    beside.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}))
    assert spec_of(str(tmp_path)).std == (0.4, 0.5, 0.6)
    beside.write_text(json.dumps({"image_mean": None, "image_std": [0.4, 0.5, 0.6]}))
    assert "preprocessor_config.json: `image_mean: None` is no triple of numbers" in refusal(str(tmp_path))


MOBILE = {
    "model_type": "mobilevit", "image_size": 64, "hidden_sizes": [24, 32, 40], "num_attention_heads": 2,
    "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 40],
}  # fmt: skip
PROCESSORS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "as most": (CLIP, "CLIPImageProcessor", {}),
    "blue first, not normalised": (MOBILE, "MobileViTImageProcessor", {}),
    "divided twice": (CLIP, "EfficientNetImageProcessor", {"image_std": [0.4, 0.5, 0.6]}),
    "divided once": (CLIP, "EfficientNetImageProcessor", {"include_top": False}),
    "less one": (CLIP, "EfficientNetImageProcessor", {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
    "to 0..2": (CLIP, "CLIPImageProcessor", {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1]}),
    "bytes": (CLIP, "CLIPImageProcessor", {"do_rescale": False, "image_mean": [120, 110, 9], "image_std": [50, 6, 70]}),
    "not normalised": (CLIP, "CLIPImageProcessor", {"do_normalize": False}),
}


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_pixels_are_what_the_processor_beside_the_config_makes_of_them(tmp_path: Path, kind: str, file: str) -> None:
    config, name, options = PROCESSORS[kind]
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = getattr(transformers, name)(**options)
    said = json.loads(processor.to_json_string())
    (tmp_path / file).write_text(json.dumps(said if file.startswith("pre") else {"image_processor": said}))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    teacher = open_teacher("hf", options={"config": str(tmp_path), "weights": "random"})
    entry = next(part for part in teacher.module.modules() if isinstance(part, torch.nn.Conv2d))
    entry.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    teacher(images)
    theirs = processor(list(images), return_tensors="pt", do_resize=False, do_center_crop=False)["pixel_values"]
    torch.testing.assert_close(seen[0], theirs, rtol=1e-5, atol=2e-6)


def test_teachers_of_one_normalisation_and_two_orders_of_colours_see_pixels_of_their_own() -> None:
    zero = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    blue, red = (open_teacher("hf", options={"config": c, "weights": "random", **zero}) for c in (MOBILE, CLIP))
    images, prepared = torch.arange(3, dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 64, 64), {}
    assert torch.equal(_pixels(images, blue, 64, prepared), _pixels(images, red, 64, prepared).flip(1))
    assert torch.equal(_pixels(images, blue, 32, prepared), _pixels(images, red, 32, prepared).flip(1))
    blue.channels = [0, 0, 1]
    assert blue.colours(images)[0, :, 0, 0].tolist() == [1, 0, 0]
    with torch.no_grad():  # what is normalised already is in its order
        torch.testing.assert_close(blue(images / 255).summary, blue.module(images / 255).summary)


def test_a_mean_of_bytes_is_refused() -> None:
    """123 taken for a mean of 0..1 would make every image nearly the same."""
    with pytest.raises(
        TeacherError, match=r"teacher 'hf': mean \(123\.7, .* are of values from 0 to 255\.\n .*divide them"
    ):
        open_teacher("hf", options={"config": CLIP, "mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)})


def test_a_hub_id_is_read_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = refusal("some/clip")
    assert "not in the cache of Hugging Face" in said
    assert "hf download some/clip config.json preprocessor_config.json" in said
    snapshot = tmp_path / "models--some--clip" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--some--clip" / "refs").mkdir()
    (tmp_path / "models--some--clip" / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text(json.dumps(CLIP))
    spec = spec_of("some/clip")
    assert spec.widths.summary == 32
    assert spec.weights is not None and spec.weights.url == "hf:some/clip"


HOSTILE = [
    {"image_size": "big"}, {"image_size": None}, {"image_size": [224, "x"]}, {"image_size": 1e30}, {"patch_size": 0},
    {"patch_size": []}, {"hidden_size": 0.5}, {"hidden_act": "boom"}, {"num_hidden_layers": 10**6},
    {"num_attention_heads": 7}, {"num_channels": 1},
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_hostile_values_are_refused_or_left_to_their_default(change: dict[str, Any]) -> None:
    assert refusal({"model_type": "clip_vision_model", **BLOCKS, **change})


def test_files_that_are_no_config_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("[1, 2]")
    assert "holds a list, not a mapping" in refusal(str(tmp_path))
    file.write_text("{")
    assert "not a JSON file" in refusal(str(tmp_path))
    assert "has no `model_type`" in refusal({"hidden_size": 3})
    assert "knows no model_type 'nope'" in refusal({"model_type": "nope"})
    assert "sees films and not images" in refusal({"model_type": "videomae", **BLOCKS})


@torch.no_grad()
def test_the_image_tower_is_found_in_the_file_of_a_whole_model(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = {**CLIP, "text_config": text, "projection_dim": 8}
    theirs = transformers.CLIPModel(transformers.CLIPConfig(**config)).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    torch.save(theirs.state_dict(), tmp_path / "clip.bin")
    ours = open_teacher("hf", str(tmp_path / "clip.bin"), {"config": config})
    images = torch.randn(2, 3, 64, 64)
    expected = theirs.vision_model(pixel_values=images).last_hidden_state
    assert_close(ours(images).summary, expected[:, 0])
    assert_close(ours(images).patches, expected[:, 1:])


@torch.no_grad()
def test_a_masked_autoencoder_sees_the_whole_image_in_order() -> None:
    config = {"model_type": "vit_mae", **BLOCKS}
    ours = open_teacher("hf", "random", {"config": config})
    images = torch.randn(1, 3, 64, 64)
    assert ours(images).patches.shape == (1, 64, 32)
    changed = images.clone()
    changed[:, :, :8, -8:] *= -2  # the last cell of the first row
    moved = (ours(changed).patches - ours(images).patches)[0].norm(dim=1)
    assert int(moved.argmax()) == 7


@torch.no_grad()
def test_siglip2_is_fed_patches_in_the_order_that_its_processor_gives_them() -> None:
    from transformers.models.siglip2.image_processing_siglip2 import Siglip2ImageProcessor

    ours = open_teacher("hf", "random", {"config": {"model_type": "siglip2_vision_model", **BLOCKS, "num_patches": 64}})
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=64, do_resize=False)
    batch = processor(image, return_tensors="pt")
    own = type(ours.module).forward(ours.module, **batch)
    assert_close(ours(image[None]).patches, own.last_hidden_state)
    assert_close(ours(image[None]).summary, own.pooler_output)


@torch.no_grad()
def test_maps_are_read_whichever_way_they_lie() -> None:
    for kind, stride in (("resnet", 32), ("swinv2", 32), ("dinov3_convnext", 32)):
        spec = spec_of({"model_type": kind})
        assert (spec.patch, spec.fixed_size) == (stride, False), kind
