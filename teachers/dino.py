"""DINO: self-supervised, ViT-B/16 in the paper (arXiv:2104.14294)."""

from __future__ import annotations

from typing import Any, Literal

from unicscale_teachers.family import TINY, Family, Shape, vit

from unicscale.teacher import TeacherOptions, entry


class Options(TeacherOptions):
    size: Literal["small", "base"] | Shape = "base"
    """A released size, or a mapping of numbers for weights of your own."""


class Dino(Family):
    """DINO, self-supervised: CLS and patches after the final norm; positions bicubic with DINO's offset of 0.1."""

    Options = Options
    licence = "Apache-2.0"
    citation = "arXiv:2104.14294"
    small = {"size": TINY}
    sizes = {"small": vit(384, 12, 6), "base": vit(768, 12, 12)}
    files = {
        "small": "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
        "base": "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    }

    def build(self, options: Options) -> Any:
        from unicscale_teachers.vit import build_vit

        return build_vit(self.shape(options), offset=0.1)

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        return entry(state)
