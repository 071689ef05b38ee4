"""torchvision's ViT with SWAG weights as a teacher (arXiv:2201.08371)."""

from functools import partial
from typing import Any, Literal

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, Features, TeacherSpec, Weights
from unicscale.teacher import Teacher, TeacherOptions

# width, depth, heads
SIZES = {"tiny": (64, 2, 2), "base": (768, 12, 12), "large": (1024, 24, 16)}


class Options(TeacherOptions):
    size: Literal["tiny", "base", "large"] = "base"
    """base and large were released; tiny is for tests."""


class Swag(Teacher):
    """SWAG, weakly supervised by hashtags: a ViT that takes 224 pixels and no other size."""

    api_version = 1
    Options = Options
    licence = "CC-BY-NC-4.0"
    files = {
        "base": "https://download.pytorch.org/models/vit_b_16_lc_swag-4e70ced5.pth",
        "large": "https://download.pytorch.org/models/vit_l_16_lc_swag-4d563306.pth",
    }
    small = {"size": "tiny"}  # what tests can afford

    def spec(self, options: Options) -> TeacherSpec:
        url = self.files.get(options.size)
        return TeacherSpec(
            dim=SIZES[options.size][0],
            patch=16,
            size=224,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            licence=self.licence,
            citation="arXiv:2201.08371",
            weights=Weights(url) if url else None,
            fixed_size=True,
        )

    def build(self, options: Options) -> Any:
        from torchvision.models import VisionTransformer

        width, depth, heads = SIZES[options.size]
        module = VisionTransformer(224, 16, depth, heads, width, 4 * width)
        del module.heads
        module.forward = partial(tokens, module)
        return module

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        return {name: tensor for name, tensor in state.items() if not name.startswith("heads.")}

    def forward(self, module: Any, images: Any) -> Features:
        said = module(images)  # (B, 1 + N, D)
        return Features(summary=said[:, 0], patches=said[:, 1:])


def tokens(module: Any, images: Any) -> Any:
    """All tokens after the final norm: (B, 1 + N, D)."""
    import torch

    patches = module._process_input(images)  # (B, N, D)
    first = module.class_token.expand(len(patches), -1, -1)
    return module.encoder(torch.cat([first, patches], dim=1))
