"""Two small teachers of drawn scenes: `classes` names the nearest object, `dense` says what is where and how far.

Their weights travel with the package, so the demo fetches nothing; benchmarks/train_scenes.py made them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, Features, TeacherSpec
from unicscale.teacher import Teacher, TeacherOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

DIM, PATCH, SIZE, DEPTH, HEADS = 96, 8, 64, 4, 3


class Scenes(Teacher):
    """A ViT of half a million parameters, trained on 64-pixel scenes and at home at 48 too."""

    api_version = 1
    licence = "Apache-2.0"

    class Options(TeacherOptions):
        knows: Literal["classes", "dense"] = "classes"

    def spec(self, options: Options) -> TeacherSpec:
        return TeacherSpec(
            dim=DIM, patch=PATCH, size=SIZE, mean=IMAGENET_MEAN, std=IMAGENET_STD, licence=self.licence,
            citation="trained by benchmarks/train_scenes.py on synthetic scenes",
        )  # fmt: skip

    def build(self, options: Options) -> nn.Module:
        from timm.models.vision_transformer import Attention, VisionTransformer

        from unicscale.student.stem import ConvolutionStem

        module = VisionTransformer(
            img_size=SIZE, patch_size=PATCH, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=0, global_pool="",
            embed_layer=ConvolutionStem, dynamic_img_size=True,
        )  # fmt: skip
        for part in module.modules():
            if isinstance(part, Attention):
                # on a CPU the fused kernel takes twice as long at 65 tokens
                part.fused_attn = False  # pyright: ignore[reportAttributeAccessIssue]
        return module

    def forward(self, module: nn.Module, images: Tensor) -> Features:
        tokens = module(images)  # (B, 1 + N, D), after the final norm
        return Features(tokens[:, 0], tokens[:, 1:])

    def bundled(self, options: Options) -> Path:
        return Path(__file__).with_name(f"scenes_{options.knows}.safetensors")
