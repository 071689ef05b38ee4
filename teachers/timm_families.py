"""Families that timm keeps: released sizes by name, over the plug-in that asks timm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from unicscale_teachers.timm_models import Timm

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, TeacherSpec, Weights
from unicscale.teacher import TeacherOptions

SATELLITE = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)
TINY_VIT = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 64}
TINY_CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [16, 16, 32, 64]}


class Settings(TeacherOptions):
    settings: dict[str, Any] = {}
    """Further arguments of timm.create_model."""


class Named(Timm):
    """Released sizes by name; widths, sizes and normalisation are asked of timm."""

    citation: ClassVar[str] = ""

    def model(self, options: Any) -> str:
        return self.files[options.size].removeprefix("timm:")

    def spec(self, options: Any) -> TeacherSpec:
        asked = super().spec(options)
        # a changed architecture has no official file
        weights = None if options.settings else Weights(self.files[options.size])
        return replace(asked, licence=self.licence, citation=self.citation, weights=weights)


class Sized(Named):
    """Described without asking timm, by a table that a test holds against it."""

    models: ClassVar[dict[str, tuple[int, int, int]]] = {}  # size -> width, stride, native pixels
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def spec(self, options: Any) -> TeacherSpec:
        if options.settings:
            return super().spec(options)
        width, patch, side = self.models[options.size]
        mean, std = SATELLITE if options.size.endswith("-satellite") else (self.mean, self.std)
        return TeacherSpec(
            width, patch, side, mean, std, self.licence, self.citation, Weights(self.files[options.size])
        )


class V3Options(Settings):
    size: Literal[
        "small", "base", "large", "huge", "7b", "large-satellite", "7b-satellite",
        "convnext-tiny", "convnext-small", "convnext-base", "convnext-large",
    ] = "large"  # fmt: skip
    """A released size; the satellite ones have a normalisation of their own."""


class DinoV3(Sized):
    """DINOv3 (arXiv:2508.10104): rotary positions, so every size is native; ConvNeXts norm their patches too."""

    Options = V3Options
    licence = "dinov3-license"
    citation = "arXiv:2508.10104"
    small = {"size": "small", "settings": TINY_VIT}
    head_norm = True
    files = {
        "small": "timm:vit_small_patch16_dinov3.lvd1689m",
        "base": "timm:vit_base_patch16_dinov3.lvd1689m",
        "large": "timm:vit_large_patch16_dinov3.lvd1689m",
        "huge": "timm:vit_huge_plus_patch16_dinov3.lvd1689m",
        "7b": "timm:vit_7b_patch16_dinov3.lvd1689m",
        "large-satellite": "timm:vit_large_patch16_dinov3.sat493m",
        "7b-satellite": "timm:vit_7b_patch16_dinov3.sat493m",
        "convnext-tiny": "timm:convnext_tiny.dinov3_lvd1689m",
        "convnext-small": "timm:convnext_small.dinov3_lvd1689m",
        "convnext-base": "timm:convnext_base.dinov3_lvd1689m",
        "convnext-large": "timm:convnext_large.dinov3_lvd1689m",
    }
    models = {
        "small": (384, 16, 256), "base": (768, 16, 256), "large": (1024, 16, 256), "huge": (1280, 16, 256),
        "7b": (4096, 16, 256), "large-satellite": (1024, 16, 256), "7b-satellite": (4096, 16, 256),
        "convnext-tiny": (768, 32, 224), "convnext-small": (768, 32, 224), "convnext-base": (1024, 32, 224),
        "convnext-large": (1536, 32, 224),
    }  # fmt: skip


class SigLip2Options(Settings):
    size: Literal["base", "large", "so400m", "giant"] = "so400m"
    """A released size."""


class SigLip2(Sized):
    """SigLIP 2's vision tower (arXiv:2502.14786): no CLS, the attention-pooled token is the summary."""

    Options = SigLip2Options
    licence = "Apache-2.0"
    citation = "arXiv:2502.14786"
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    small = {"size": "base", "settings": {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 48}}
    files = {
        "base": "timm:vit_base_patch16_siglip_224.v2_webli",
        "large": "timm:vit_large_patch16_siglip_256.v2_webli",
        "so400m": "timm:vit_so400m_patch14_siglip_224.v2_webli",
        "giant": "timm:vit_giantopt_patch16_siglip_256.v2_webli",
    }
    models = {"base": (768, 16, 224), "large": (1024, 16, 256), "so400m": (1152, 14, 224), "giant": (1536, 16, 256)}


class EupeOptions(Settings):
    size: Literal["tiny", "small", "base", "convnext-tiny", "convnext-small", "convnext-base"] = "base"
    """A released student of EUPE."""


class Eupe(Named):
    """EUPE's students (arXiv:2603.22387): built as DINOv3's are."""

    Options = EupeOptions
    licence = "fair-noncommercial-research-license"
    citation = "arXiv:2603.22387"
    small = {"size": "convnext-tiny", "settings": TINY_CONVNEXT}
    head_norm = True
    files = {
        "tiny": "timm:vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m",
        "small": "timm:vit_small_patch16_dinov3_qkvb.eupe_lvd1689m",
        "base": "timm:vit_base_patch16_dinov3_qkvb.eupe_lvd1689m",
        "convnext-tiny": "timm:convnext_tiny.eupe_lvd1689m",
        "convnext-small": "timm:convnext_small.eupe_lvd1689m",
        "convnext-base": "timm:convnext_base.eupe_lvd1689m",
    }


class RadioOptions(Settings):
    size: Literal["v3-base", "v3-large", "v3-huge", "v3-giant", "v4-so400m", "v4-huge"] = "v4-huge"
    """A released version and size."""


class Radio(Named):
    """C-RADIO (arXiv:2412.07679, arXiv:2601.17237): its first class token is the summary, registers are left out."""

    Options = RadioOptions
    licence = "nvidia-open-model-license"
    citation = "arXiv:2601.17237"
    small = {"size": "v3-base", "settings": TINY_VIT}
    files = {
        "v3-base": "timm:vit_base_patch16_radio_v3.c_radio",
        "v3-large": "timm:vit_large_patch16_radio_v3.c_radio",
        "v3-huge": "timm:vit_huge_patch16_radio_v3.c_radio",
        "v3-giant": "timm:vit_giant_patch16_radio_v3.c_radio",
        "v4-so400m": "timm:vit_so400m_patch16_radio_v4.c_radio",
        "v4-huge": "timm:vit_huge_patch16_radio_v4.c_radio",
    }


class TipsOptions(Settings):
    size: Literal["base", "large", "so400m", "giant"] = "large"
    """A released size."""


class TipsV2(Named):
    """TIPSv2: pixels in 0..1 as they are, a CLS and one register."""

    Options = TipsOptions
    licence = "Apache-2.0"
    small = {"size": "base", "settings": TINY_VIT | {"img_size": 56}}
    files = {
        "base": "timm:vit_base_patch14_reg1_tipsv2.webli",
        "large": "timm:vit_large_patch14_reg1_tipsv2.webli",
        "so400m": "timm:vit_so400m_patch14_reg1_tipsv2.webli",
        "giant": "timm:vit_giant_patch14_reg1_tipsv2.webli",
    }
