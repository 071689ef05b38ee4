"""DeiT-III: supervised on ImageNet-1K, ViT-B/16 in the paper (arXiv:2204.07118)."""

from __future__ import annotations

from typing import Any, Literal

from unicscale_teachers.family import TINY, Family, Shape, vit

from unicscale.teacher import TeacherOptions, entry


class Options(TeacherOptions):
    size: Literal["small", "base", "large"] | Shape = "base"
    """A released size, or a mapping of numbers for weights of your own."""


class DeiT3(Family):
    """DeiT-III, supervised on ImageNet-1K: its positions leave the CLS out; `classify` gives its own 1000 logits."""

    Options = Options
    licence = "Apache-2.0"
    citation = "arXiv:2204.07118"
    small = {"size": TINY | {"num_classes": 10}}
    sizes = {
        "small": vit(384, 12, 6, num_classes=1000),
        "base": vit(768, 12, 12, num_classes=1000),
        "large": vit(1024, 24, 16, num_classes=1000),
    }
    files = {
        "small": "https://dl.fbaipublicfiles.com/deit/deit_3_small_224_1k.pth",
        "base": "https://dl.fbaipublicfiles.com/deit/deit_3_base_224_1k.pth",
        "large": "https://dl.fbaipublicfiles.com/deit/deit_3_large_224_1k.pth",
    }

    def build(self, options: Options) -> Any:
        from unicscale_teachers.vit import build_vit

        return build_vit(self.shape(options), no_embed_class=True, init_values=1e-4)

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        held = entry(state)
        return {name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): t for name, t in held.items()}

    def classify(self, module: Any, summary: Any) -> Any:
        return module.head(summary)
