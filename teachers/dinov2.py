"""DINOv2: self-supervised at scale; ViT-g/14 teaches UNIC-L (arXiv:2304.07193, registers arXiv:2309.16588)."""

from __future__ import annotations

from typing import Any, Literal

from unicscale_teachers.family import TINY, Family, Shape, vit

from unicscale.teacher import TeacherOptions, entry


class Options(TeacherOptions):
    size: Literal["small", "base", "large", "giant"] | Shape = "giant"
    """A released size, or a mapping of numbers for weights of your own."""
    registers: bool = False
    """The variant with four register tokens (arXiv:2309.16588)."""


class DinoV2(Family):
    """DINOv2, self-supervised: SwiGLU in the giant; with registers, positions are interpolated in another way."""

    Options = Options
    licence = "Apache-2.0"
    citation = "arXiv:2304.07193"
    small = {"size": TINY | {"ffn": "swiglu"}, "registers": True}
    sizes = {
        "small": vit(384, 12, 6, 14, 518),
        "base": vit(768, 12, 12, 14, 518),
        "large": vit(1024, 24, 16, 14, 518),
        "giant": vit(1536, 40, 24, 14, 518, ffn="swiglu"),
    }
    files = {
        "small": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
        "base": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
        "large": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        "giant": "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitg14/dinov2_vitg14_pretrain.pth",
    }

    def shape(self, options: Options) -> Shape:
        shape = super().shape(options)
        return shape.model_copy(update={"reg_tokens": 4}) if options.registers else shape

    def url(self, options: Options) -> str | None:
        url = super().url(options)
        return url.replace("_pretrain.pth", "_reg4_pretrain.pth") if url and options.registers else url

    def build(self, options: Options) -> Any:
        from unicscale_teachers.vit import build_vit

        shape = self.shape(options)
        if shape.reg_tokens:
            return build_vit(shape, init_values=1e-5, no_embed_class=True, antialias=True)
        return build_vit(shape, init_values=1e-5, offset=0.1)

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        official = {name: t for name, t in entry(state).items() if name != "mask_token"}
        names = (("mlp.w12", "mlp.fc1"), ("mlp.w3", "mlp.fc2"), ("register_tokens", "reg_token"))
        held = official
        for old, new in names:
            held = {name.replace(old, new): t for name, t in held.items()}
        if "register_tokens" in official:  # as timm has it: the first position belongs to the CLS, so it moves into it
            held["cls_token"] = held["cls_token"] + held["pos_embed"][:, :1]
            held["pos_embed"] = held["pos_embed"][:, 1:]
        return held
