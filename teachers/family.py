"""What the families share: released sizes by name, or a shape said number by number."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, TeacherSpec, Weights
from unicscale.teacher import Teacher

# the numbers of a ViT that tests can afford
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}


class Shape(BaseModel):
    """What one needs to know to build a ViT."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    img_size: int
    num_classes: int = 0
    reg_tokens: int = 0
    ffn: Literal["mlp", "swiglu"] = "mlp"


class Text(BaseModel):
    """The text tower of a CLIP."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    context_length: int = 77
    vocab_size: int = 49408
    width: int
    heads: int
    layers: int


class ClipShape(Shape):
    """A CLIP: both towers, and the width of the space where they meet."""

    head_width: int = 64
    clip_embed_dim: int
    text: Text


def vit(embed_dim: int, depth: int, num_heads: int, patch_size: int = 16, img_size: int = 224, **more: Any) -> Shape:
    """The line of a table of sizes."""
    arguments = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
    return Shape(**arguments, patch_size=patch_size, img_size=img_size, **more)


class Family(Teacher):
    """A plug-in whose option `size` is a released name or a Shape."""

    api_version = 1
    sizes: ClassVar[dict[str, Any]]
    citation: ClassVar[str]
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def shape(self, options: Any) -> Any:
        """The numbers behind the option `size`."""
        return self.sizes[options.size] if isinstance(options.size, str) else options.size

    def spec(self, options: Any) -> TeacherSpec:
        shape, url = self.shape(options), self.url(options)
        return TeacherSpec(
            shape.embed_dim, shape.patch_size, shape.img_size, self.mean, self.std, self.licence, self.citation,
            weights=Weights(url) if url else None,
        )  # fmt: skip

    def url(self, options: Any) -> str | None:
        """The official file of these options."""
        return self.files.get(options.size) if isinstance(options.size, str) else None
