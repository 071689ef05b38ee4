"""`engine:`, how the step runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unicscale.recipe.sections.base import BelowOne, Count, NonNegative, OneOf, Positive, Section, unless

# a new engine is a file and a line here
ENGINES = {
    "plain": "unicscale.engine.plain:PlainEngine",
    "fsdp2": "unicscale.engine.fsdp2:Fsdp2Engine",
    "zero3": "unicscale.engine.zero3:Zero3Engine",
}


class Offload(Section):
    """ZeRO-3 only: what lives in host memory."""

    optimizer: bool = False
    """Keep the optimiser's moments in host memory."""
    parameters: bool = False
    """Keep the parameters in host memory."""


class Shares(Section):
    """Of the stage's learning rate; weight decay goes with it."""

    trunk: NonNegative = 1.0
    """The trunk's share of the learning rate."""
    projector: NonNegative = 1.0
    """The projector's share of the learning rate."""


class EngineSection(Section):
    """How the step runs: which engine, in what precision, how much is recomputed."""

    kind: Annotated[str, OneOf(ENGINES)] = "plain"
    """Who holds the parameters: `plain` (every rank all of them), `fsdp2` or `zero3` (each rank a part). The numbers
    are the same.
    """
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of forward and backward; weights and moments stay in fp32. `auto`: `bf16` on GPUs that have it, `fp32`
    elsewhere; a run keeps what it began with. A CPU without instructions for bf16 imitates it, many times slower than
    fp32, and the run says so.
    """
    compile: bool | Literal["auto"] = "auto"
    """Compile student, teachers, loss and colour with torch.compile: faster steps on GPUs, after a slower start.
    `auto`: on GPUs, where a C compiler is.
    """
    checkpointing: Literal["none", "ladder", "blocks", "full"] = "none"
    """What is computed again in the backward pass instead of being kept: nothing, the `ladder`, the `blocks`, or
    both (`full`). Saves memory, costs time.
    """
    reshard: bool | Literal["auto"] = "auto"
    """With fsdp2: give the gathered parameters back after each forward; `auto` keeps them where the device has room."""
    replicate: Count = 1
    """With fsdp2: so many whole copies, each sharded over world / replicate ranks (HSDP); 1: one copy over all
    ranks.
    """
    offload: Offload = Offload()
    """With zero3: what lives in host memory."""
    weight_decay: NonNegative = 0.03
    """AdamW's weight decay; biases and one-dimensional parameters have none."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.99)
    """AdamW's two decay rates."""
    eps: Positive = 1e-8
    """AdamW's epsilon."""
    lr_scale: Shares = Shares()
    """The learning rates of trunk and projector, as shares of the stage's."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each block below the last learns by this factor less; 1: all alike."""
    clip: Positive | None = None
    """The largest allowed norm of the whole gradient; null: no clipping."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential average of the weights, which evaluation and export then use; null: no average."""
    remember: Annotated[Positive | None, unless(None)] = None
    """On CPUs: GiB of each host's disk for what teachers said of images that come again alike; null: nothing."""
    attention: Annotated[Literal["auto", "torch", "plain", "cudnn", "flash", "efficient"], unless("auto")] = "auto"
    """Which of torch's attention kernels is tried first; `plain`: none, `torch`: the order that torch has. `auto` on
    GPUs: the fastest for each model and size, measured as a run begins and kept in its folder; on CPUs `plain` in
    bf16, where that is two to four times as fast, else torch's. The others follow where one cannot.
    """
    cuda_graphs: Annotated[bool, unless(False)] = False
    """On GPUs: record each teacher's forward once for every size, and replay it: saves the host's time where a rank has
    few images, and takes memory for each recording. Not with sharded teachers.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU, where there is one; or say `cpu` or `cuda`."""
    deterministic: bool = False
    """On GPUs: only kernels that give the same bits every time, which are slower."""
    timeout_seconds: Positive = 600.0
    """How long ranks wait for one another before the watchdog names the missing one and ends the run."""

    @model_validator(mode="after")
    def _kernels_fit(self) -> EngineSection:
        if self.deterministic and self.attention not in ("auto", "torch", "plain"):
            raise ValueError(
                f"engine.attention: {self.attention}, and engine.deterministic leaves that to torch, which knows what "
                "gives the same bits every time. Leave one out."
            )
        if self.cuda_graphs and self.device == "cpu":
            raise ValueError("engine.cuda_graphs records what a GPU does, and engine.device is cpu. Leave one out.")
        if self.cuda_graphs and self.remember is not None:
            raise ValueError("engine.cuda_graphs is for GPUs, engine.remember for CPUs. Leave one out.")
        return self

    @property
    def grouped(self) -> bool:
        """Whether a process group is opened even around one rank: what shards wants one."""
        return self.kind != "plain"

    @property
    def regathers(self) -> bool:
        """Whether `reshard` is its affair: the others give gathered parameters back always, or never."""
        return self.kind == "fsdp2"

    @property
    def open(self) -> list[str]:
        """The keys that say `auto` and are settled when a run begins."""
        return [key for key in ("dtype", "compile") if getattr(self, key) == "auto"]

    def settled(self, *, bf16: bool, compiles: bool) -> EngineSection:
        """With these keys said, as a device can."""
        can = {"dtype": "bf16" if bf16 else "fp32", "compile": compiles}
        return self.model_copy(update={key: can[key] for key in self.open})

    @property
    def builds(self) -> str:
        """The path of the engine's class."""
        return ENGINES[self.kind]
