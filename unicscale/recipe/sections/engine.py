"""`engine:`, how the step runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unicscale.recipe.sections.base import BelowOne, Count, NonNegative, OneOf, Positive, Section

# a new engine is a file and a line here
ENGINES = {
    "plain": "unicscale.engine.plain:PlainEngine",
    "fsdp2": "unicscale.engine.fsdp2:Fsdp2Engine",
    "zero3": "unicscale.engine.zero3:Zero3Engine",
}


class Offload(Section):
    """ZeRO-3 only: what lives in host memory."""

    optimizer: bool = False
    parameters: bool = False


class Shares(Section):
    """Of the stage's learning rate; weight decay goes with it."""

    trunk: NonNegative = 1.0
    projector: NonNegative = 1.0


class EngineSection(Section):
    """How the step runs: which engine, in what precision, how much is recomputed."""

    kind: Annotated[str, OneOf(ENGINES)] = "plain"
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    checkpointing: Literal["none", "ladder", "blocks", "full"] = "none"  # full: ladder and blocks
    reshard: bool | Literal["auto"] = "auto"
    replicate: Count = 1  # HSDP: whole copies, each sharded over world/replicate ranks
    offload: Offload = Offload()
    weight_decay: NonNegative = 0.03
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.99)
    eps: Positive = 1e-8
    lr_scale: Shares = Shares()
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # each block below the last learns by this factor less
    clip: Positive | None = None  # global gradient norm
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of the averaged weights, for evaluation and export
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = False  # on CUDA: only kernels that give the same bits every time, which are slower
    timeout_seconds: Positive = 600.0  # how long a collective may wait before the watchdog names the missing rank

    @property
    def grouped(self) -> bool:
        """Whether a process group is opened even around one rank: what shards wants one."""
        return self.kind != "plain"

    @property
    def builds(self) -> str:
        """The path of the engine's class."""
        return ENGINES[self.kind]
