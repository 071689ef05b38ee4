"""Any model of timm teaches: its own tokens, its own widths, the sizes that it takes, refusals in words."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from unicscale.errors import TeacherError
from unicscale.teacher.finding import find
from unicscale.teacher.frozen import Frozen, open_teacher

CONVNEXT = {"model": "convnext_tiny", "settings": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}}
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def spec_of(**options: Any) -> Any:
    plugin = find("timm")
    return plugin.spec(plugin.Options(**options))


def refusal(**options: Any) -> str:
    with pytest.raises(TeacherError) as caught:
        spec_of(**options)
    return str(caught.value)


def pair(options: dict[str, Any]) -> tuple[Frozen, Any]:
    """The teacher, and timm's own model with the same weights."""
    teacher = open_teacher("timm", "random", options)
    settings = options.get("settings", {})
    theirs = timm.create_model(options["model"].partition(".")[0], num_classes=0, **settings).eval()
    theirs.load_state_dict(teacher.module.state_dict())
    return teacher, theirs


def assert_close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_convolutional_teacher_gives_its_last_map_and_its_pooled_vector() -> None:
    teacher, theirs = pair(CONVNEXT)
    for side in (224, 96):
        images = torch.randn(2, 3, side, side)
        found, last = teacher(images), theirs.forward_features(images)
        assert_close(found.summary, theirs(images))
        assert_close(found.patches, last.flatten(2).transpose(1, 2))
    assert (teacher.spec.patch, teacher.spec.size, teacher.spec.fixed_size) == (32, 224, False)


def test_summary_and_patches_may_have_widths_of_their_own() -> None:
    assert spec_of(model="test_efficientnet").widths == (256, 64)


@torch.no_grad()
def test_registers_without_a_cls_are_no_summary() -> None:
    settings = TINY | {"img_size": 64}
    teacher, theirs = pair({"model": "vit_medium_patch16_reg4_gap_256", "settings": settings})
    images = torch.randn(2, 3, 64, 64)
    assert_close(teacher(images).summary, theirs(images))
    assert_close(teacher(images).patches, theirs.forward_features(images)[:, 4:])


def test_the_stride_is_measured_and_not_the_patch_of_a_hybrid() -> None:
    assert spec_of(model="vit_tiny_r_s16_p8_224").patch == 32


@torch.no_grad()
@pytest.mark.parametrize("model", ["swinv2_tiny_window8_256", "swinv2_cr_tiny_224"])
def test_tables_that_are_computed_where_the_parameters_are_keep_their_values(model: str) -> None:
    """They would be without values where parameters have none; a state dict does not hold them all."""
    small = {"img_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
    teacher, theirs = pair({"model": model, "settings": small})
    images = torch.randn(1, 3, 64, 64)
    assert_close(teacher(images).summary, theirs(images))


def test_sizes_are_asked_of_the_module() -> None:
    assert spec_of(model="test_vit_relpos").fixed_size
    halo = spec_of(model="halonet_h1")
    assert (halo.patch, halo.multiple, halo.size, halo.fixed_size) == (32, 256, 256, False)


@torch.no_grad()
def test_layers_are_put_side_by_side_or_averaged() -> None:
    options = {"model": "vit_tiny_patch16_224", "settings": TINY | {"img_size": 64}, "layer": [0, 1]}
    teacher, theirs = pair(options)
    images = torch.randn(2, 3, 64, 64)
    layers = theirs.forward_intermediates(images, norm=True, output_fmt="NLC", intermediates_only=True)
    assert_close(teacher(images).patches, torch.cat(layers, dim=-1))
    assert teacher.spec.widths == (64, 64)
    mean = open_teacher("timm", "random", {**options, "combine": "mean"})
    assert_close(mean(images).patches, torch.stack(layers).mean(0))


def test_stages_of_a_pyramid_meet_on_the_finest_grid() -> None:
    spec = spec_of(**CONVNEXT, layer=[-2, -1])
    assert (spec.patch, spec.widths.patches) == (16, 24 + 32)
    assert "layers 24, 32 wide cannot be averaged" in refusal(**CONVNEXT, layer=[-2, -1], combine="mean")


def test_what_cannot_teach_is_refused_in_words() -> None:
    assert "has recurrent layers, which cannot be described without running them" in refusal(model="sequencer2d_s")
    assert "timm knows no model 'resnet51'" in refusal(model="resnet51")
    assert 'timm cannot build \'test_vit\' with settings {"depth": "x"}' in refusal(
        model="test_vit", settings={"depth": "x"}
    )
    assert "give one number" in refusal(model="test_vit", settings={"img_size": [64, 32]})


@torch.no_grad()
def test_the_patches_of_dinov3s_convolutions_pass_the_norm_of_the_head() -> None:
    settings = CONVNEXT["settings"]
    teacher = open_teacher("dinov3", "random", {"size": "convnext-tiny", "settings": settings})
    theirs = timm.create_model("convnext_tiny", num_classes=0, **settings).eval()
    theirs.load_state_dict(teacher.module.state_dict())
    images = torch.randn(2, 3, 64, 64)
    normed = theirs.head.norm(theirs.forward_features(images))
    assert_close(teacher(images).patches, normed.flatten(2).transpose(1, 2))
    assert_close(teacher(images).summary, theirs(images))


@torch.no_grad()
def test_sam_teaches_its_patches_before_the_neck_and_no_summary() -> None:
    settings = TINY | {"img_size": 64, "global_attn_indexes": [1], "window_size": 2}
    teacher = open_teacher("sam", "random", {"size": "base", "settings": settings})
    assert teacher.spec.tokens == ("patches",) and teacher.spec.fixed_size
    theirs = timm.create_model("samvit_base_patch16", num_classes=0, **settings).eval()
    theirs.load_state_dict(teacher.module.state_dict())
    images = torch.randn(1, 3, 64, 64)
    found = teacher(images)
    assert found.summary is None
    assert_close(theirs.neck(found.patches.transpose(1, 2).unflatten(2, (4, 4))), theirs.forward_features(images))


def test_satellite_weights_have_their_own_normalisation() -> None:
    plugin = find("dinov3")
    for size in ("large-satellite", "7b-satellite"):
        known = timm.get_pretrained_cfg(plugin.files[size].removeprefix("timm:"))
        spec = plugin.spec(plugin.Options(size=size))
        assert (spec.mean, spec.std) == (known.mean, known.std)
