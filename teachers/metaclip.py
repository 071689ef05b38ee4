"""MetaCLIP: CLIP on curated pairs, with QuickGELU; ViT-H/14 teaches UNIC-L (arXiv:2309.16671)."""

from __future__ import annotations

from typing import Any, Literal

from unicscale_teachers.family import TINY, ClipShape, Family, Text

from unicscale.contracts import CLIP_MEAN, CLIP_STD
from unicscale.errors import TeacherError
from unicscale.teacher import TeacherOptions, entry

TINY_CLIP = TINY | {
    "clip_embed_dim": 48,
    "text": {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 2, "layers": 2},
}


class Options(TeacherOptions):
    size: Literal["base", "large", "huge"] | ClipShape = "huge"
    """A released size, or a mapping of numbers for weights of your own."""
    text: bool = False
    """Keep the text tower too: zero-shot evaluation needs it, distillation does not."""


def clip(dim: int, depth: int, heads: int, patch: int, embed: int, width: int, layers: int) -> ClipShape:
    text = Text(width=width, heads=width // 64, layers=layers)
    arguments = {"embed_dim": dim, "depth": depth, "num_heads": heads, "patch_size": patch, "img_size": 224}
    return ClipShape(**arguments, head_width=dim // heads, clip_embed_dim=embed, text=text)


class MetaClip(Family):
    """MetaCLIP, images and their texts: tokens after ln_post; `embed` and `embed_text` give the space of zero-shot."""

    Options = Options
    licence = "CC-BY-NC-4.0"
    citation = "arXiv:2309.16671"
    small = {"size": TINY_CLIP, "text": True}
    mean, std = CLIP_MEAN, CLIP_STD
    sizes = {
        "base": clip(768, 12, 12, 16, 512, 512, 12),
        "large": clip(1024, 24, 16, 14, 768, 768, 12),
        "huge": clip(1280, 32, 16, 14, 1024, 1024, 24),
    }
    files = {
        "base": "https://dl.fbaipublicfiles.com/MMPT/metaclip/b16_fullcc2.5b.pt",
        "large": "https://dl.fbaipublicfiles.com/MMPT/metaclip/l14_fullcc2.5b.pt",
        "huge": "https://dl.fbaipublicfiles.com/MMPT/metaclip/h14_fullcc2.5b.pt",
    }

    def build(self, options: Options) -> Any:
        from unicscale_teachers.clip_towers import Clip

        return Clip(self.shape(options), quick_gelu=True, text=options.text)

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        held = {n.removeprefix("module."): t for n, t in entry(state).items()}
        return {n if n.startswith("visual.") else f"text.{n}": t for n, t in held.items() if n != "logit_scale"}

    def leaves_out(self, options: Options) -> tuple[str, ...]:
        return () if options.text else ("text.",)

    def embed(self, module: Any, summary: Any) -> Any:
        return summary @ module.visual.proj

    def embed_text(self, module: Any, tokens: Any) -> Any:
        if module.text is None:
            raise TeacherError("the text tower was not loaded: open this teacher with options={'text': True}.")
        return module.text(tokens)

    def tokenize(self, options: Options, texts: list[str]) -> Any:
        from open_clip import SimpleTokenizer

        return SimpleTokenizer()(texts, self.shape(options).text.context_length)
