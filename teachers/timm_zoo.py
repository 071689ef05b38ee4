"""More families that timm keeps: what segments, what reads, and what convolves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from unicscale_teachers.timm_families import TINY_CONVNEXT, TINY_VIT, Named, Settings

from unicscale.contracts import TeacherSpec


class SamOptions(Settings):
    size: Literal["base", "large", "huge"] = "huge"
    """A released size."""


class Sam(Named):
    """SAM's encoder (arXiv:2304.02643): patches alone, before its neck; it knows its 1024 pixels and no other size."""

    Options = SamOptions
    licence = "Apache-2.0"
    citation = "arXiv:2304.02643"
    norm, summary = False, False
    small = {
        "size": "base",
        "settings": {
            "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64, "global_attn_indexes": [1], "window_size": 2,
        },
    }  # fmt: skip
    files = {
        "base": "timm:samvit_base_patch16.sa1b",
        "large": "timm:samvit_large_patch16.sa1b",
        "huge": "timm:samvit_huge_patch16.sa1b",
    }

    def spec(self, options: Any) -> TeacherSpec:
        # timm would stretch its positions, which nobody trained
        return replace(super().spec(options), fixed_size=True, multiple=None)


class Sam2Options(Settings):
    size: Literal["tiny", "small", "base", "large"] = "large"
    """A released size of SAM 2.1."""
    layer: int | list[int] = -1
    """Which stage, counted from the end where negative; several go onto the finest grid, side by side."""


class Sam2(Named):
    """SAM 2.1's Hiera (arXiv:2408.00714): the map of its last stage, and no summary."""

    Options = Sam2Options
    licence = "Apache-2.0"
    citation = "arXiv:2408.00714"
    summary = False
    small = {
        "size": "tiny",
        "settings": {"embed_dim": 16, "num_heads": 1, "stages": [1, 1, 2, 1], "global_att_blocks": [3]},
    }
    files = {
        "tiny": "timm:sam2_hiera_tiny.fb_r896_2pt1",
        "small": "timm:sam2_hiera_small.fb_r896_2pt1",
        "base": "timm:sam2_hiera_base_plus.fb_r896_2pt1",
        "large": "timm:sam2_hiera_large.fb_r1024_2pt1",
    }


class PeOptions(Settings):
    size: Literal[
        "core-tiny", "core-small", "core-base", "core-large", "core-gigantic", "lang-large", "lang-gigantic",
        "spatial-tiny", "spatial-small", "spatial-base", "spatial-large", "spatial-gigantic",
    ] = "core-large"  # fmt: skip
    """What it was aligned to, and its size."""


class Pe(Named):
    """Perception Encoder (arXiv:2504.13181): its own pooled token is the summary, attention-pooled in the core ones."""

    Options = PeOptions
    licence = "Apache-2.0"
    citation = "arXiv:2504.13181"
    pooled = True
    small = {"size": "core-base", "settings": TINY_VIT}
    files = {
        "core-tiny": "timm:vit_pe_core_tiny_patch16_384.fb",
        "core-small": "timm:vit_pe_core_small_patch16_384.fb",
        "core-base": "timm:vit_pe_core_base_patch16_224.fb",
        "core-large": "timm:vit_pe_core_large_patch14_336.fb",
        "core-gigantic": "timm:vit_pe_core_gigantic_patch14_448.fb",
        "lang-large": "timm:vit_pe_lang_large_patch14_448.fb",
        "lang-gigantic": "timm:vit_pe_lang_gigantic_patch14_448.fb",
        "spatial-tiny": "timm:vit_pe_spatial_tiny_patch16_512.fb",
        "spatial-small": "timm:vit_pe_spatial_small_patch16_512.fb",
        "spatial-base": "timm:vit_pe_spatial_base_patch16_512.fb",
        "spatial-large": "timm:vit_pe_spatial_large_patch14_448.fb",
        "spatial-gigantic": "timm:vit_pe_spatial_gigantic_patch14_448.fb",
    }


class AimOptions(Settings):
    size: Literal["large", "huge", "1b", "3b"] = "large"
    """A released size, at 224 pixels."""


class AimV2(Named):
    """AIMv2 (arXiv:2411.14402): no CLS, the mean of its patches is the summary."""

    Options = AimOptions
    licence = "apple-ascl"
    citation = "arXiv:2411.14402"
    small = {"size": "large", "settings": TINY_VIT | {"img_size": 56}}
    files = {
        "large": "timm:aimv2_large_patch14_224.apple_pt",
        "huge": "timm:aimv2_huge_patch14_224.apple_pt",
        "1b": "timm:aimv2_1b_patch14_224.apple_pt",
        "3b": "timm:aimv2_3b_patch14_224.apple_pt",
    }


class MobileClipOptions(Settings):
    size: Literal["v1-s0", "v1-s1", "v1-s2", "v1-b", "v2-s0", "v2-s2", "v2-s3", "v2-s4", "v2-b"] = "v2-s2"
    """A released version and size; `open_clip` has their text towers."""


class MobileClip(Named):
    """MobileCLIP's image towers (arXiv:2311.17049, arXiv:2508.20691), before the projection."""

    Options = MobileClipOptions
    licence = "apple-amlr"
    citation = "arXiv:2508.20691"
    small = {"size": "v1-s0", "settings": {"layers": [1, 1, 1, 1]}}
    files = {
        "v1-s0": "timm:fastvit_mci0.apple_mclip",
        "v1-s1": "timm:fastvit_mci1.apple_mclip",
        "v1-s2": "timm:fastvit_mci2.apple_mclip",
        "v1-b": "timm:vit_base_mci_224.apple_mclip",
        "v2-s0": "timm:fastvit_mci0.apple_mclip2_dfndr2b",
        "v2-s2": "timm:fastvit_mci2.apple_mclip2_dfndr2b",
        "v2-s3": "timm:fastvit_mci3.apple_mclip2_dfndr2b",
        "v2-s4": "timm:fastvit_mci4.apple_mclip2_dfndr2b",
        "v2-b": "timm:vit_base_mci_224.apple_mclip2_dfndr2b",
    }


class ConvNextOptions(Settings):
    size: Literal["tiny", "small", "base", "large", "xlarge"] = "base"
    """A released size, supervised on ImageNet-22K."""


class ConvNext(Named):
    """ConvNeXt, supervised on ImageNet-22K (arXiv:2201.03545): the map of its last stage, its normed mean above."""

    Options = ConvNextOptions
    licence = "Apache-2.0"
    citation = "arXiv:2201.03545"
    small = {"size": "tiny", "settings": TINY_CONVNEXT}
    files = {
        "tiny": "timm:convnext_tiny.fb_in22k",
        "small": "timm:convnext_small.fb_in22k",
        "base": "timm:convnext_base.fb_in22k",
        "large": "timm:convnext_large.fb_in22k",
        "xlarge": "timm:convnext_xlarge.fb_in22k",
    }


class EfficientNetOptions(Settings):
    size: Literal["b0", "v2-b3", "v2-s", "v2-m", "v2-l", "v2-xl"] = "v2-m"
    """A released size: b0 of ImageNet-1K, the others of ImageNet-21K."""


class EfficientNet(Named):
    """EfficientNet (arXiv:1905.11946, arXiv:2104.00298): its last map, narrower than the pooled vector above it."""

    Options = EfficientNetOptions
    licence = "Apache-2.0"
    citation = "arXiv:2104.00298"
    small = {"size": "b0"}
    files = {
        "b0": "timm:efficientnet_b0.ra_in1k",
        "v2-b3": "timm:tf_efficientnetv2_b3.in21k",
        "v2-s": "timm:tf_efficientnetv2_s.in21k",
        "v2-m": "timm:tf_efficientnetv2_m.in21k",
        "v2-l": "timm:tf_efficientnetv2_l.in21k",
        "v2-xl": "timm:tf_efficientnetv2_xl.in21k",
    }
