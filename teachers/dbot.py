"""dBOT, fine-tuned on ImageNet-1K, ViT-B/16 in the paper (arXiv:2209.03917)."""

from __future__ import annotations

from typing import Any, Literal

from unicscale_teachers.family import TINY, Family, Shape, vit

from unicscale.teacher import TeacherOptions, entry


class Options(TeacherOptions):
    size: Literal["base", "large"] | Shape = "base"
    """A released size, or a mapping of numbers for weights of your own."""


class DBot(Family):
    """dBOT, fine-tuned on ImageNet-1K: no CLS, fc_norm of the mean patch sums up; patches are not normed."""

    Options = Options
    licence = "Apache-2.0"
    citation = "arXiv:2209.03917"
    small = {"size": TINY | {"num_classes": 10}}
    sizes = {"base": vit(768, 12, 12, num_classes=1000), "large": vit(1024, 24, 16, num_classes=1000)}
    files = {
        "base": "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/mmodal/dbot/84.5_dbot_base_finetune.pth",
        "large": "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/mmodal/dbot/86.6_dbot_large_finetune.pth",
    }

    def build(self, options: Options) -> Any:
        from unicscale_teachers.vit import build_vit

        return build_vit(self.shape(options), global_pool="avg", fc_norm=True)

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        return entry(state)

    def classify(self, module: Any, summary: Any) -> Any:
        return module.head(summary)
