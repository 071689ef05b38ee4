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
    """vit_tiny, vit_small, vit_base, vit_large, or the name of any encoder of timm."""
    patch: Count | None = None
    """Side of a patch in pixels; null: what the arch says, 16 for the short names. Of encoders that make maps:
    pixels per cell of the grid.
    """
    init: str | None = None
    """Weights to begin with: timm:ID, teacher:NAME, or a file, a folder, a run or an export; null: random."""
    init_partial: bool = False
    """Take `init` also where less than half of the parameters fits."""
    freeze: list[Annotated[str, Field(pattern=PART)]] = []
    """Parts that are never trained: stem, blocks.3, blocks.0-5."""
    stem: Literal["patch", "convolutions"] = "patch"
    """How pixels become patches: one `patch` projection, or `convolutions`, behind which small students learn
    sooner.
    """
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of skipping a block in training, of the last block; it rises linearly from 0."""
    registers: Annotated[int, Field(ge=0)] = 0
    """Extra tokens that belong to no patch and are never matched with a teacher (arXiv:2309.16588)."""
    layer_scale: NonNegative = 0.0
    """Initial value of a learned factor on each block's output; 0: no such factor."""
    options: dict[str, Any] = {}
    """Further arguments of timm's model, for example embed_dim and depth."""

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

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    plugin: str | None = None
    """The plug-in, as `unicscale teachers list` names it, or `distribution:name`; null: the key of this section."""
    adapter: str | None = None
    """A class in a file of yours instead of a plug-in: ./mine.py:Mine."""
    weights: str = "auto"
    """`auto` (the plug-in's own, fetched before), a path, a URL, hf:REPO, timm:ID, or `random` for a trial."""
    shard: Literal["auto", "full", "none"] = "auto"
    """Whether ranks share this teacher's parameters: `full`, `none`, or `auto`, by its size."""
    dtype: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = "auto"
    """Precision of this teacher's forward; `auto`: the engine's."""
    compile: bool | None = None
    """Compile this teacher; null: as engine.compile says."""
    resolution: Literal["same_grid", "native", "student"] | Pixels | list[Pixels] = "same_grid"
    """The size at which it sees the images: `same_grid` (as many patches as the student has), `native` (its own),
    `student` (the student's), or pixels; a list is drawn from at every step.
    """
    tokens: list[Literal["summary", "patches"]] | None = None
    """Which of its tokens are matched: summary, patches; null: all that it has."""
    weight: TokenWeights | None = None
    """How much its summary and its patches count in the loss; null: 1 and 1."""
    loss: OwnLoss | None = None
    """Loss terms of its own; null: as `loss` says."""
    mosaic: Annotated[bool, unless(False)] = False
    """Show a teacher of one size several smaller images on one canvas, and cut its map apart."""
    channels: Annotated[list[Annotated[int, Field(ge=0)]] | None, unless(None)] = None
    """Which of the images' channels are its red, green and blue, from 0: [0, 0, 0] where there is one; null: the
    first three.
    """

    @field_validator("tokens", "resolution")
    @classmethod
    def _said_once(cls, value: Any) -> Any:
        if isinstance(value, list) and not value:
            raise ValueError("the list is empty")
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError("the list says something twice")
        return value

    @field_validator("channels")
    @classmethod
    def _three(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(value) != 3:
            raise ValueError(f"a teacher sees three channels, and {len(value)} are named. Name its red, green and blue")
        return value

    @property
    def options(self) -> dict[str, Any]:
        """What is meant for the plug-in."""
        return dict(self.__pydantic_extra__ or {})


class Ladder(Section):
    """An MLP per teacher, token type and block, summed over blocks (the paper's)."""

    builds: ClassVar = "unicscale.student.projector.ladder:Ladder"
    kind: Literal["ladder"] = "ladder"
    """`ladder`: the paper's projector."""
    hidden: Count | None = None
    """Width of each rung's hidden layer; null: the student's width."""
    last_hidden: Count | None = None
    """Width of the last block's hidden layer; null: four times the student's width."""
    blocks: list[int] | Literal["all"] = "all"
    """Blocks with a rung, from 0, negative from the end; or `all`."""
    pre_norm: bool = False
    """LayerNorm before each rung."""
    mid_norm: bool = False
    """LayerNorm inside each rung, before its activation."""
    shared: bool = False
    """One ladder for summary and patches instead of one each."""


class MLP(Section):
    """Top block only: a linear layer behind 0..3 hidden layers (AM-RADIO is one of these)."""

    builds: ClassVar = "unicscale.student.projector.mlp:TopMLP"
    kind: Literal["mlp"] = "mlp"
    """`mlp`: reads the last block only."""
    hidden: Count | None = None
    """Width of the hidden layers; null: four times the student's width."""
    layers: Annotated[int, Field(ge=0, le=3)] = 1
    """Hidden layers, 0 to 3; 0 is one linear layer."""
    shared: bool = False
    """One MLP for summary and patches instead of one each."""
    norm: Annotated[bool, unless(False)] = False
    """LayerNorm before each activation."""
    bias: Annotated[bool, unless(True)] = True
    """Biases in the linear layers."""


class TransformerProjector(Section):
    """One transformer block and a linear layer over [CLS | patches] (DUNE, arXiv:2503.14405)."""

    builds: ClassVar = "unicscale.student.projector.transformer:TransformerProjector"
    kind: Literal["transformer"] = "transformer"
    """`transformer`: DUNE's projector."""
    blocks: Count = 1
    """Transformer blocks of the projector."""
    heads: Count | None = None
    """Attention heads; null: as the student has."""


class NoProjector(Section):
    """None: the last block's tokens answer every teacher, whose widths must be the student's (Table H)."""

    builds: ClassVar[str] = "unicscale.student.projector.none:NoProjector"
    kind: Literal["none"] = "none"
    """`none`: no projector; teachers must be as wide as the student."""


# a new projector is a file, and a section here that names it
Projector = Annotated[Ladder | MLP | TransformerProjector | NoProjector, Field(discriminator="kind")]
