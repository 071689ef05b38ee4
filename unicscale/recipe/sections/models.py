"""`student:`, `teachers:` and `projector:`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from unicscale.recipe.sections.base import Count, NonNegative, Pixels, Section, unless
from unicscale.recipe.sections.objective import OwnLoss, TokenWeights

# width, depth, heads; every other name is timm's
SHORT_NAMES = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}


PART = r"^(stem|blocks\.\d+(-\d+)?)$"


class Student(Section):
    """The trunk: a short name (vit_tiny, vit_small, vit_base, vit_large) or any encoder of timm."""

    arch: str = "vit_base"
    patch: Count | None = (
        None  # None: what the arch says (16 for the short names); of maps: pixels per cell of the grid
    )
    init: str | None = None  # timm:ID, teacher:NAME, or a file or folder of weights; None: random
    init_partial: bool = False  # take `init` also where less than half of the parameters fits
    freeze: list[Annotated[str, Field(pattern=PART)]] = []  # stem, blocks.3, blocks.0-5: never trained
    stem: Literal["patch", "convolutions"] = "patch"  # convolutions: small students learn sooner behind them
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    registers: Annotated[int, Field(ge=0)] = 0
    layer_scale: NonNegative = 0.0
    options: dict[str, Any] = {}  # further arguments of timm's VisionTransformer, e.g. embed_dim and depth

    @property
    def bare(self) -> Student:
        """The architecture alone: where its weights came from is of no use to whoever has them."""
        return self.model_copy(update={"init": None, "init_partial": False, "freeze": []})

    @property
    def known_patch(self) -> int | None:
        """The patch, where nobody has to ask timm."""
        return self.patch or (16 if self.arch in SHORT_NAMES else None)

    @property
    def known_depth(self) -> int | None:
        """The number of blocks, where nobody has to ask timm."""
        said = self.options.get("depth")
        return said if type(said) is int else (SHORT_NAMES[self.arch][1] if self.arch in SHORT_NAMES else None)


class TeacherSection(BaseModel):
    """One teacher. Keys beyond these belong to its plug-in and are validated by the plug-in's own Options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    plugin: str | None = None  # entry-point name, or `distribution:name`; None: the key of this section
    adapter: str | None = None  # ./file.py:Class, for one-offs
    weights: str = "auto"  # auto | PATH | URL | hf:repo | timm:id | random
    shard: Literal["auto", "full", "none"] = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = "auto"  # auto: the engine's
    compile: bool | None = None  # None: the engine's
    resolution: Literal["same_grid", "native", "student"] | Pixels | list[Pixels] = (
        "same_grid"  # a list: drawn per step
    )
    tokens: list[Literal["summary", "patches"]] | None = None  # those that are matched; None: all that it has
    weight: TokenWeights | None = None  # of its summary and of its patches in the loss; None: 1 and 1
    loss: OwnLoss | None = None  # where it is answered by another loss than the other teachers
    # of a teacher that knows one size only: several smaller images on one canvas, its map cut apart
    mosaic: Annotated[bool, unless(False)] = False

    @field_validator("tokens", "resolution")
    @classmethod
    def _said_once(cls, value: Any) -> Any:
        if isinstance(value, list) and not value:
            raise ValueError("the list is empty")
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError("the list says something twice")
        return value

    @property
    def options(self) -> dict[str, Any]:
        """What is meant for the plug-in."""
        return dict(self.__pydantic_extra__ or {})


class Ladder(Section):
    """An MLP per teacher, token type and block, summed over blocks (the paper's)."""

    builds: ClassVar = "unicscale.student.projector.ladder:Ladder"
    kind: Literal["ladder"] = "ladder"
    hidden: Count | None = None  # None: the student's width
    last_hidden: Count | None = None  # None: four times the student's width
    blocks: list[int] | Literal["all"] = "all"  # 0-based; negative counts from the end
    pre_norm: bool = False
    mid_norm: bool = False
    shared: bool = False  # one ladder for CLS and patches ("dedicated projectors" off)


class MLP(Section):
    """Top block only: a linear layer behind 0..3 hidden layers (AM-RADIO is one of these)."""

    builds: ClassVar = "unicscale.student.projector.mlp:TopMLP"
    kind: Literal["mlp"] = "mlp"
    hidden: Count | None = None  # None: four times the student's width
    layers: Annotated[int, Field(ge=0, le=3)] = 1
    shared: bool = False
    norm: Annotated[bool, unless(False)] = False  # LayerNorm before each GELU
    bias: Annotated[bool, unless(True)] = True  # in the linear layers


class TransformerProjector(Section):
    """One transformer block and a linear layer over [CLS | patches] (DUNE, arXiv:2503.14405)."""

    builds: ClassVar = "unicscale.student.projector.transformer:TransformerProjector"
    kind: Literal["transformer"] = "transformer"
    blocks: Count = 1
    heads: Count | None = None


class NoProjector(Section):
    """None: the last block's tokens answer every teacher, whose widths must be the student's (Table H)."""

    builds: ClassVar[str] = "unicscale.student.projector.none:NoProjector"
    kind: Literal["none"] = "none"


# a new projector is a file, and a section here that names it
Projector = Annotated[Ladder | MLP | TransformerProjector | NoProjector, Field(discriminator="kind")]
