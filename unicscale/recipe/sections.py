"""What a recipe may say: one frozen model per section, unknown keys refused.

Every other room receives its own section; only train, the commands and launch see a whole Recipe.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """The base of every section: frozen, strict about keys, lenient about `3e-4` (which YAML reads as text)."""

    model_config = ConfigDict(frozen=True, extra="forbid")


DURATION = re.compile(r"\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*(steps?|epochs?|images?|%)?\s*", re.IGNORECASE)
DURATIONS = "say '500 steps', '2 epochs', '1e6 images' or '5%'"

Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def one_line(text: str) -> str:
    """The text, which goes into a batch script: what follows a line break would be a command there."""
    if not text.isprintable():
        raise ValueError(f"{text!r} holds a line break or another character that cannot be printed")
    return text


# --- data -----------------------------------------------------------------------------------------


class Source(Section):
    """One data set of a mixture."""

    path: str
    weight: Positive = 1.0  # how often its images come, relative to its size: 2 shows each twice per epoch
    teachers: list[str] | None = None  # own-data balancing: which teachers answer for it


class Augment(Section):
    """The paper's augmentation; the same image goes to student and teachers."""

    scale: tuple[Positive, Positive] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    flip: Unit = 0.5
    jitter: Unit = 0.8
    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    saturation: NonNegative = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    grey: Unit = 0.2
    blur: Unit = 0.2
    blur_sigma: tuple[Positive, Positive] = (0.1, 5.0)
    blur_kernel: Count = 9
    solarize: Unit = 0.2
    solarize_threshold: Unit = 0.5


class Data(Section):
    """Which images, read how, and how many per step over all ranks."""

    train: list[str | Source] = Field(min_length=1)
    val: list[str] = []
    images_per_step: Count
    micro_batch: Count | None = None  # images per rank and backward; less than its share accumulates gradients
    reader: Literal["auto", "ffcv", "beton", "folder"] = "auto"
    resize: Literal["auto", "area", "bicubic"] = "auto"
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    ahead: Count = 3  # batches decoded before they are asked for
    max_resolution: Count = 512  # the largest stored side a reader must hold
    max_bad: Unit = 1e-4  # share of undecodable images that is replaced instead of stopping the run
    augment: Augment = Augment()


# --- models ---------------------------------------------------------------------------------------


# width, depth, heads; every other name is timm's
SHORT_NAMES = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}


class Student(Section):
    """The trunk: a short name (vit_tiny, vit_small, vit_base, vit_large) or any timm ViT."""

    arch: str = "vit_base"
    patch: Count | None = None  # None: what the arch says (16 for the short names)
    stem: Literal["patch", "convolutions"] = "patch"  # convolutions: small students learn sooner behind them
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    registers: Annotated[int, Field(ge=0)] = 0
    layer_scale: NonNegative = 0.0
    options: dict[str, Any] = {}  # further arguments of timm's VisionTransformer, e.g. embed_dim and depth

    @property
    def known_patch(self) -> int | None:
        """The patch, where nobody has to ask timm."""
        return self.patch or (16 if self.arch in SHORT_NAMES else None)

    @property
    def known_depth(self) -> int | None:
        """The number of blocks, where nobody has to ask timm."""
        return self.options.get("depth") or (SHORT_NAMES[self.arch][1] if self.arch in SHORT_NAMES else None)


class TeacherSection(BaseModel):
    """One teacher. Keys beyond these belong to its plug-in and are validated by the plug-in's own Options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    plugin: str | None = None  # entry-point name, or `distribution:name`; None: the key of this section
    adapter: str | None = None  # ./file.py:Class, for one-offs
    weights: str = "auto"  # auto | PATH | URL | hf:repo | timm:id | random
    shard: Literal["auto", "full", "none"] = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = "auto"  # auto: the engine's
    compile: bool | None = None  # None: the engine's
    resolution: Literal["same_grid", "native", "student"] | int = "same_grid"

    @property
    def options(self) -> dict[str, Any]:
        """What is meant for the plug-in."""
        return dict(self.__pydantic_extra__ or {})


class Ladder(Section):
    """An MLP per teacher, token type and block, summed over blocks (the paper's)."""

    kind: Literal["ladder"] = "ladder"
    hidden: Count | None = None  # None: the student's width
    last_hidden: Count | None = None  # None: four times the student's width
    blocks: list[int] | Literal["all"] = "all"  # 0-based; negative counts from the end
    pre_norm: bool = False
    mid_norm: bool = False
    shared: bool = False  # one ladder for CLS and patches ("dedicated projectors" off)


class MLP(Section):
    """Top block only: a linear layer behind 0..3 hidden layers (AM-RADIO is one of these)."""

    kind: Literal["mlp"] = "mlp"
    hidden: Count | None = None  # None: four times the student's width
    layers: Annotated[int, Field(ge=0, le=3)] = 1
    shared: bool = False


class TransformerProjector(Section):
    """One transformer block and a linear layer over [CLS | patches] (DUNE, arXiv:2503.14405)."""

    kind: Literal["transformer"] = "transformer"
    blocks: Count = 1
    heads: Count | None = None


Projector = Annotated[Ladder | MLP | TransformerProjector, Field(discriminator="kind")]


# --- objective ------------------------------------------------------------------------------------


class Standardize(Section):
    """How teacher tokens come to zero mean and unit deviation."""

    kind: Literal["running", "frozen", "file", "none", "phi_s"] = "running"
    momentum_start: Unit = 1.0
    momentum_end: Unit = 0.001
    freeze_after: str | int | None = None  # a duration; for `frozen` and `phi_s`
    path: str | None = None  # for `file`

    @model_validator(mode="after")
    def _complete(self) -> Standardize:
        if self.kind == "file" and not self.path:
            raise ValueError("kind 'file' needs a 'path'; `unicscale teachers stats` writes such a file")
        if self.freeze_after is not None and not DURATION.fullmatch(str(self.freeze_after)):
            raise ValueError(f"freeze_after '{self.freeze_after}' is no duration: {DURATIONS}")
        return self


class TeacherDropping(Section):
    """The worst-answered teacher always teaches; every other is dropped with probability p."""

    kind: Literal["teacher_dropping"] = "teacher_dropping"
    p: Unit = 0.5
    per: Literal["image", "patch"] = "image"


class NoBalance(Section):
    """All teachers weigh the same."""

    kind: Literal["none"] = "none"


class ManualWeights(Section):
    """Fixed weights (Table K)."""

    kind: Literal["manual"] = "manual"
    weights: dict[str, NonNegative]


class RandomTeacher(Section):
    """One teacher per batch, drawn uniformly (Fukuda et al.)."""

    kind: Literal["random"] = "random"


class AdaLoss(Section):
    """Weights inversely proportional to each loss's running mean."""

    kind: Literal["adaloss"] = "adaloss"
    momentum: Unit = 0.01


class OwnData(Section):
    """A data set names its teachers (DUNE): `data.train[].teachers`."""

    kind: Literal["own_data"] = "own_data"


Balance = Annotated[
    TeacherDropping | NoBalance | ManualWeights | RandomTeacher | AdaLoss | OwnData, Field(discriminator="kind")
]


class LossSection(Section):
    """Cosine and smooth-L1, and who teaches which image."""

    cosine: NonNegative = 0.5
    smooth_l1: NonNegative = 0.5
    balance: Balance = TeacherDropping()

    @model_validator(mode="after")
    def _something_to_minimise(self) -> LossSection:
        if self.cosine == 0 and self.smooth_l1 == 0:
            raise ValueError("cosine and smooth_l1 are both 0: nothing is left to minimise")
        return self

    def arguments(self) -> dict[str, Any]:
        """What `distil` takes beside the balance, which may have a state."""
        return {"cosine": self.cosine, "smooth_l1": self.smooth_l1}


# --- optimisation ---------------------------------------------------------------------------------


class LearningRate(Section):
    """Stated for `data.images_per_step` and never rescaled."""

    peak: Positive
    end: NonNegative = 1e-6


class Stage(Section):
    """One resolution and schedule; exactly one of epochs, steps and images says how long."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    size: Count | list[Count]  # pixels; a list is visited as `sizes` says
    sizes: Literal["cycle", "random"] = "cycle"
    epochs: Positive | None = None
    steps: Count | None = None
    images: Count | None = None
    warmup_epochs: NonNegative | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    warmup: str | None = None  # a duration; "5%" is of the stage
    lr: LearningRate
    start_from: str = "weights"  # weights | checkpoint:PATH | scratch; of the stage before for `weights`
    optimizer: Literal["fresh", "keep"] = "fresh"

    @model_validator(mode="after")
    def _one_length(self) -> Stage:
        if sum(x is not None for x in (self.epochs, self.steps, self.images)) != 1:
            raise ValueError("say how long: exactly one of epochs, steps, images")
        if self.warmup is not None and not DURATION.fullmatch(self.warmup):
            raise ValueError(f"warmup '{self.warmup}' is no duration: {DURATIONS}")
        if sum(x is not None for x in (self.warmup_epochs, self.warmup_steps, self.warmup)) > 1:
            raise ValueError("say the warm-up once: warmup_epochs, warmup_steps or warmup")
        return self

    @field_validator("start_from")
    @classmethod
    def _known_start(cls, value: str) -> str:
        if value not in ("weights", "scratch") and not (value.startswith("checkpoint:") and value[11:].strip()):
            raise ValueError(f"'{value}' is none of weights, scratch and checkpoint:PATH")
        return value

    @property
    def size_list(self) -> list[int]:
        """The sizes, also where only one is given."""
        return [self.size] if isinstance(self.size, int) else list(self.size)


class Offload(Section):
    """ZeRO-3 only: what lives in host memory."""

    optimizer: bool = False
    parameters: bool = False


class EngineSection(Section):
    """How the step runs: which engine, in what precision, how much is recomputed."""

    kind: Literal["plain", "fsdp2", "zero3"] = "plain"
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    checkpointing: Literal["none", "ladder", "blocks", "full"] = "none"  # full: ladder and blocks
    reshard: bool | Literal["auto"] = "auto"
    replicate: Count = 1  # HSDP: whole copies, each sharded over world/replicate ranks
    offload: Offload = Offload()
    weight_decay: NonNegative = 0.03
    betas: tuple[Unit, Unit] = (0.9, 0.99)
    eps: Positive = 1e-8
    clip: Positive | None = None  # global gradient norm
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of the averaged weights, for evaluation and export
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = False  # on CUDA: only kernels that give the same bits every time, which are slower
    timeout_seconds: Positive = 600.0  # how long a collective may wait before the watchdog names the missing rank


# --- around the loop ------------------------------------------------------------------------------


class Wandb(Section):
    """Mirrors metrics.jsonl; `auto` is online with an account, offline without."""

    project: str = "unicscale"
    entity: str | None = None
    mode: Literal["auto", "online", "offline", "off"] = "auto"


class Track(Section):
    """Who else hears what metrics.jsonl records."""

    every_steps: Count = 50
    wandb: Wandb | None = None
    tensorboard: bool = False


class Save(Section):
    """When checkpoints are written and which are kept."""

    every_minutes: Positive | None = 30
    every_steps: Count | None = None
    keep: Count = 3
    keep_every_steps: Count | None = None
    asynchronous: bool = True


class Evaluate(Section):
    """What is measured while training; `unicscale evaluate` measures everything else."""

    every_epochs: Positive | None = None
    tasks: list[str] = []
    data: str | None = None  # labelled images; None: data.val
    max_images: Count | None = None


class Launch(Section):
    """What the cluster is asked for; the command line and site presets may say otherwise."""

    nodes: Count = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 1
    tasks_per_node: Count | None = None  # None: one per GPU, or one
    cpus_per_task: Count | None = None
    memory: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    comment: str | None = None
    array: Count | None = None  # of a sweep: how many of its runs may run at the same time
    site: str | None = None  # a preset: launch/sites/NAME.yaml or ~/.config/unicscale/sites/NAME.yaml
    gpu_gib: Positive = 80.0  # memory of one GPU: what cannot fit is refused before it queues
    gpus_as: Literal["gpus-per-node", "gres"] = "gpus-per-node"  # what this cluster calls them
    warn_seconds: Count = 120  # before the time limit Slurm sends SIGUSR2
    max_requeues: Annotated[int, Field(ge=0)] = 50
    setup: list[str] = []  # shell lines before srun: `module load cuda`
    extra: list[str] = []  # further sbatch options, as written: "--mail-type=END"

    @field_validator("time", "memory", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @field_validator("time")
    @classmethod
    def _a_duration(cls, value: str | None) -> str | None:
        shape = r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}"
        if value is not None and not re.fullmatch(shape, value):
            raise ValueError(f"'{value}' is no time limit: minutes, HH:MM:SS or D-HH:MM:SS (in quotes)")
        return value

    @field_validator("memory")
    @classmethod
    def _a_size(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d+[KMGT]?B?", value):
            raise ValueError(f"'{value}' is no amount of memory: 200G, 800000M, or 0 for all of the node")
        return value

    @field_validator("partition", "account", "qos", "constraint", "exclude", "comment", "site")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        return None if value is None else one_line(value.strip())

    @field_validator("extra")
    @classmethod
    def _options(cls, value: list[str]) -> list[str]:
        value = [one_line(line.strip()) for line in value]
        for line in value:
            if not line.removeprefix("#SBATCH").strip().startswith("-"):
                raise ValueError(f"'{line}' is no sbatch option: write it as '--mail-type=END'")
        return value

    @property
    def tasks(self) -> int:
        """Ranks on each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Ranks altogether."""
        return self.nodes * self.tasks


class DryRun(Section):
    """Real shapes, random weights, synthetic pixels: proves a recipe before a cluster sees it."""

    steps: Count = 1
    images_per_step: Count | None = None  # None: one per rank


class Recipe(Section):
    """A whole run, complete before anyone reads it."""

    schema_: Literal[1] = Field(alias="schema")
    out: str
    seed: Annotated[int, Field(ge=0)] = 0
    data: Data
    student: Student = Student()
    teachers: dict[str, TeacherSection] = Field(min_length=1)
    projector: Projector = Ladder()
    standardize: Standardize = Standardize()
    loss: LossSection = LossSection()
    stages: list[Stage] = Field(min_length=1)
    engine: EngineSection = EngineSection()
    track: Track = Track()
    save: Save = Save()
    evaluate: Evaluate = Evaluate()
    launch: Launch = Launch()
    dry_run: DryRun | None = None

    @field_validator("out")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return one_line(value)

    @field_validator("teachers")
    @classmethod
    def _plain_names(cls, teachers: dict[str, TeacherSection]) -> dict[str, TeacherSection]:
        for name in teachers:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"'{name}' names a teacher: letters, digits, '_' and '-' only")
        return teachers

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        balance = self.loss.balance
        if isinstance(balance, ManualWeights):
            unknown = set(balance.weights) - set(self.teachers)
            if unknown:
                raise ValueError(f"loss.balance.weights names {sorted(unknown)}, which are not among the teachers")
        if len({s.name for s in self.stages}) != len(self.stages):
            raise ValueError("two stages share a name")
        self._sizes_fit()
        self._blocks_exist()
        self._own_data_is_said()
        return self

    def _sizes_fit(self) -> None:
        patch = self.student.known_patch
        for number, stage in enumerate(self.stages):
            for size in stage.size_list:
                if patch and size % patch:
                    below = size // patch * patch
                    near = f"{below} or {below + patch}" if below else str(patch)
                    raise ValueError(
                        f"stages.{number}.size: {size} is not a multiple of the student's patch, {patch}. "
                        f"The nearest sizes are {near}."
                    )

    def _blocks_exist(self) -> None:
        depth = self.student.known_depth
        blocks = self.projector.blocks if isinstance(self.projector, Ladder) else "all"
        unknown = [b for b in blocks if not -depth <= b < depth] if depth and not isinstance(blocks, str) else []
        if unknown:
            raise ValueError(f"projector.blocks: there is no block {unknown[0]}; the student has {depth}, from 0.")

    def _own_data_is_said(self) -> None:
        named = [s.teachers for s in self.data.train if isinstance(s, Source) and s.teachers is not None]
        unknown = sorted({name for names in named for name in names} - set(self.teachers))
        if unknown:
            raise ValueError(f"data.train: '{unknown[0]}' is not one of the teachers {', '.join(self.teachers)}.")
        if isinstance(self.loss.balance, OwnData) and not named:
            raise ValueError(
                "loss.balance.kind: own_data, and no data set names its teachers. "
                "Write data.train: [{path: ..., teachers: [...]}]."
            )
