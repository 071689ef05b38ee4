"""Any ViT that timm knows, by its name; DINOv3 and SigLIP 2 are such."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, Features, TeacherSpec, Weights
from unicscale.errors import TeacherError
from unicscale.teacher import Teacher, TeacherOptions, entry


class Options(TeacherOptions):
    model: str = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
    """An architecture of timm, with or without the tag of its weights."""
    settings: dict[str, Any] = {}
    """Further arguments of timm.create_model."""


class Timm(Teacher):
    """A ViT of timm: positions are interpolated as timm does it; without a CLS the pooled token is the summary."""

    api_version = 1
    Options: ClassVar[type[TeacherOptions]] = Options
    licence = "as timm states it"
    small = {
        "model": "vit_tiny_patch16_224",
        "settings": {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8},
    }

    def model(self, options: Any) -> str:
        """timm's full name."""
        return options.model

    def spec(self, options: Any) -> TeacherSpec:
        """Asked of timm itself, so this imports it."""
        import torch
        from timm.models import get_pretrained_cfg

        known = get_pretrained_cfg(self.model(options))
        if known is None:
            raise TeacherError(
                f"timm knows no model '{self.model(options)}': `timm.list_models(pretrained=True)` does."
            )
        with torch.device("meta"):
            module = self.build(options)
        grid, patch = module.patch_embed.grid_size[0], module.patch_embed.patch_size[0]
        weights = Weights(f"timm:{self.model(options)}") if known.has_weights else None
        return TeacherSpec(
            module.embed_dim, patch, grid * patch, _three(known.mean), _three(known.std), known.license or self.licence,
            citation=", ".join(known.paper_ids or ()), weights=weights,
        )  # fmt: skip

    def build(self, options: Any) -> Any:
        import timm

        name = self.model(options).partition(".")[0]
        module = timm.create_model(name, num_classes=0, dynamic_img_size=True, **options.settings)
        if not hasattr(module, "num_prefix_tokens") or not hasattr(module, "patch_embed"):
            raise TeacherError(f"timm's '{name}' is no ViT: it has no tokens to learn from.")
        setattr(module, "forward", module.forward_features)  # noqa: B010  the one entry that sharded modules allow
        return module

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        return {name: t for name, t in entry(state).items() if not name.startswith("head.")}

    def forward(self, module: Any, images: Any) -> Features:
        tokens = module(images)  # (B, prefix + N, D)
        prefix = module.num_prefix_tokens
        summary = tokens[:, 0] if prefix else module.forward_head(tokens, pre_logits=True)
        return Features(summary, tokens[:, prefix:])


class SizedTimm(Timm):
    """Released sizes by name, described without asking timm."""

    models: ClassVar[dict[str, tuple[int, int, int]]] = {}  # size -> width, patch, native pixels
    citation: ClassVar[str] = ""
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def model(self, options: Any) -> str:
        return self.files[options.size].removeprefix("timm:")

    def spec(self, options: Any) -> TeacherSpec:
        width, patch, side = self.models[options.size]
        width, side = options.settings.get("embed_dim", width), options.settings.get("img_size", side)
        weights = None if options.settings else Weights(self.files[options.size])
        return TeacherSpec(width, patch, side, self.mean, self.std, self.licence, self.citation, weights)


class V3Options(TeacherOptions):
    size: Literal["small", "base", "large", "huge", "7b"] = "large"
    """A released size."""
    settings: dict[str, Any] = {}
    """Further arguments of timm.create_model."""


class DinoV3(SizedTimm):
    """DINOv3 (arXiv:2508.10104): rotary positions, so every size is native; from timm's copy of the files."""

    Options = V3Options
    licence = "dinov3-license"
    citation = "arXiv:2508.10104"
    small = {"size": "small", "settings": {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 64}}
    files = {
        "small": "timm:vit_small_patch16_dinov3.lvd1689m",
        "base": "timm:vit_base_patch16_dinov3.lvd1689m",
        "large": "timm:vit_large_patch16_dinov3.lvd1689m",
        "huge": "timm:vit_huge_plus_patch16_dinov3.lvd1689m",
        "7b": "timm:vit_7b_patch16_dinov3.lvd1689m",
    }
    models = {
        "small": (384, 16, 256), "base": (768, 16, 256), "large": (1024, 16, 256), "huge": (1280, 16, 256),
        "7b": (4096, 16, 256),
    }  # fmt: skip


class SigLip2Options(TeacherOptions):
    size: Literal["base", "large", "so400m", "giant"] = "so400m"
    """A released size."""
    settings: dict[str, Any] = {}
    """Further arguments of timm.create_model."""


class SigLip2(SizedTimm):
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


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
