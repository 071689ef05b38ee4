"""CLIP as OpenAI trained it, with QuickGELU, and as LAION did, with GELU (arXiv:2103.00020, arXiv:2210.08402)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator
from unicscale_teachers.family import ClipShape
from unicscale_teachers.metaclip import TINY_CLIP, MetaClip, clip

from unicscale.contracts import CLIP_MEAN, CLIP_STD, TeacherSpec
from unicscale.teacher import TeacherOptions


class Options(TeacherOptions):
    size: (
        Literal["openai-b32", "openai-b16", "openai-l14", "laion-b32", "laion-b16", "laion-l14", "laion-h14"]
        | ClipShape
    ) = "openai-l14"
    """Who trained it, and its size; or a mapping of numbers for weights of your own."""
    activation: Literal["auto", "gelu", "quick_gelu"] = "auto"
    """Stated for a mapping, known for the released ones: no file says it, and the wrong one only gives wrong tokens."""
    text: bool = False
    """Keep the text tower too: zero-shot evaluation needs it, distillation does not."""

    @model_validator(mode="after")
    def _its_own_activation(self) -> Options:
        if not isinstance(self.size, str):
            if self.activation == "auto":
                raise ValueError("say which activation these weights were trained with: gelu or quick_gelu")
            return self
        trained = "quick_gelu" if self.size.startswith("openai") else "gelu"
        if self.activation not in ("auto", trained):
            raise ValueError(f"'{self.size}' was trained with {trained}; with {self.activation} its tokens are wrong")
        return self


class Clip(MetaClip):
    """CLIP, of OpenAI and LAION: tokens after ln_post; `embed` and `embed_text` give the space of zero-shot."""

    Options = Options
    licence = "MIT"
    citation = "arXiv:2103.00020"
    small = {"size": TINY_CLIP, "activation": "gelu", "text": True}
    sizes = {
        "openai-b32": clip(768, 12, 12, 32, 512, 512, 12),
        "openai-b16": clip(768, 12, 12, 16, 512, 512, 12),
        "openai-l14": clip(1024, 24, 16, 14, 768, 768, 12),
        "laion-b32": clip(768, 12, 12, 32, 512, 512, 12),
        "laion-b16": clip(768, 12, 12, 16, 512, 512, 12),
        "laion-l14": clip(1024, 24, 16, 14, 768, 768, 12),
        "laion-h14": clip(1280, 32, 16, 14, 1024, 1024, 24),
    }
    files = {
        "openai-b32": "hf:timm/vit_base_patch32_clip_224.openai/open_clip_model.safetensors",
        "openai-b16": "hf:timm/vit_base_patch16_clip_224.openai/open_clip_model.safetensors",
        "openai-l14": "hf:timm/vit_large_patch14_clip_224.openai/open_clip_model.safetensors",
        "laion-b32": "hf:laion/CLIP-ViT-B-32-laion2B-s34B-b79K/open_clip_pytorch_model.bin",
        "laion-b16": "hf:laion/CLIP-ViT-B-16-laion2B-s34B-b88K/open_clip_pytorch_model.bin",
        "laion-l14": "hf:laion/CLIP-ViT-L-14-laion2B-s32B-b82K/open_clip_pytorch_model.bin",
        "laion-h14": "hf:laion/CLIP-ViT-H-14-laion2B-s32B-b79K/open_clip_pytorch_model.bin",
    }

    def spec(self, options: Options) -> TeacherSpec:
        # LAION's L/14 alone was trained on pixels in -1..1
        halves = options.size == "laion-l14"
        self.mean, self.std = ((0.5, 0.5, 0.5),) * 2 if halves else (CLIP_MEAN, CLIP_STD)
        return super().spec(options)

    def build(self, options: Options) -> Any:
        from unicscale_teachers.clip_towers import Clip as Towers

        quick = options.activation == "quick_gelu" or str(options.size).startswith("openai")
        return Towers(self.shape(options), quick_gelu=quick, text=options.text)
