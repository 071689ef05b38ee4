"""iBOT: self-supervised with masked tokens, ViT-B/16 in the paper (arXiv:2111.07832)."""

from __future__ import annotations

from typing import Any, Literal

from unicscale_teachers.family import TINY, Family, Shape, vit

from unicscale.teacher import TeacherOptions, entry


class Options(TeacherOptions):
    size: Literal["small", "base", "large"] | Shape = "base"
    """A released size, or a mapping of numbers for weights of your own."""


class IBot(Family):
    """iBOT, self-supervised with masked tokens: DINO's architecture and positions, other weights."""

    Options = Options
    licence = "Apache-2.0"
    citation = "arXiv:2111.07832"
    small = {"size": TINY}
    sizes = {"small": vit(384, 12, 6), "base": vit(768, 12, 12), "large": vit(1024, 24, 16)}
    files = {
        "small": "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/vits_16/checkpoint_teacher.pth",
        "base": "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/vitb_16/checkpoint_teacher.pth",
        "large": "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/vitl_16/checkpoint_teacher.pth",
    }

    def build(self, options: Options) -> Any:
        from unicscale_teachers.vit import build_vit

        return build_vit(self.shape(options), offset=0.1)

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        return entry(state)
