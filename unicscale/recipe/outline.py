"""A recipe to begin with, as text with comments: what `unicscale init` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from unicscale.recipe.sections import SHORT_NAMES

PEAK, FOR = 6.0e-4, 512  # UNIC's learning rate, and the images per step that it is for
LEAST_STEPS = 8  # of an epoch, if the images suffice: fewer make a coarse schedule
ON_CPU = 64  # images of a step at most: a trial, not a run


@dataclass(frozen=True, slots=True)
class Outline:
    """What somebody has said of the run that is to be."""

    file: str
    out: str
    train: str
    images: int | None  # None where nobody can look: a beton, or a path of another machine
    val: str | None = None
    labelled: bool = False  # the validation images have classes
    student: str = "vit_small"
    size: int = 224
    teachers: dict[str, dict[str, Any]] = field(default_factory=dict)
    gpus: int = 0
    nodes: int = 1
    epochs: float = 100

    @property
    def ranks(self) -> int:
        """One per GPU, or one."""
        return max(1, self.gpus * self.nodes)

    @property
    def images_per_step(self) -> int:
        """As UNIC's, or less where the images are few; every rank gets as many."""
        most = ON_CPU if not self.gpus else FOR
        while self.images is not None and most > 1 and most * LEAST_STEPS > self.images:
            most //= 2
        return max(self.ranks, most // self.ranks * self.ranks)

    @property
    def text(self) -> str:
        """The recipe."""
        return "\n".join([*self._head(), *self._data(), *self._models(), *self._stages(), *self._around()]) + "\n"

    def _head(self) -> list[str]:
        start = f"unicscale launch local {self.file}" if self.ranks > 1 else f"unicscale train {self.file}"
        return [
            "# Written by `unicscale init`; every line may be changed. `unicscale explain KEY` says what a key means.",
            f"#   unicscale check {self.file}            is it right?",
            f"#   unicscale teachers fetch {self.file}   bring the teachers' weights",
            f"#   unicscale plan {self.file}             how much memory, how many hours?",
            f"#   {start}",
            "schema: 1",
            f"out: {_quoted(self.out)}  # the run folder; the same command goes on with the run that lies there",
            "seed: 0",
        ]

    def _data(self) -> list[str]:
        held = f"{self.images:,} images" if self.images is not None else "not looked at"
        val = [f"  val: [{_quoted(self.val)}]  # measured on while training"] if self.val else []
        return [
            "",
            "data:",
            f"  train: [{_quoted(self.train)}]  # {held}; labels are not used. Large folders: `unicscale pack` first",
            *val,
            f"  images_per_step: {self.images_per_step}  # over all ranks together",
            "  # micro_batch: 32  # images per rank and backward pass, where the GPU's memory is too small",
        ]

    def _models(self) -> list[str]:
        named = ", ".join(SHORT_NAMES)
        teachers = [f"  {name}: {_flow(said)}" for name, said in self.teachers.items()]
        return [
            "",
            "student:",
            f"  arch: {self.student}  # {named}, or any encoder of timm",
            "  drop_path: 0.1  # larger students want more, small data too",
            "  # init: timm:ID  # weights to begin with, instead of random ones",
            "",
            "teachers:  # `unicscale teachers list` names those installed, `teachers show NAME` their options",
            *teachers,
            "",
            "projector: {kind: ladder}  # the paper's; it is thrown away after training",
            "loss: {cosine: 0.5, smooth_l1: 0.5, balance: {kind: teacher_dropping, p: 0.25}}",
        ]

    def _stages(self) -> list[str]:
        rate = PEAK * (self.images_per_step / FOR) ** 0.5  # with the root, as Adam wants it
        return [
            "",
            f"# UNIC's rate is {PEAK:g} for {FOR} images per step; here it goes with the root of that number.",
            "# A second stage at a higher resolution sharpens patches; it goes on from the first.",
            "stages:",
            f"  - {{name: low, size: {self.size}, epochs: {self.epochs:g}, warmup: 5%, lr: {{peak: {rate:.2g}}}}}",
            f"  # - {{name: high, size: {self.size * 3 // 2}, epochs: {max(1, self.epochs / 10):g}, warmup: 5%, "
            f"lr: {{peak: {rate / 6:.2g}}}}}",
        ]

    def _around(self) -> list[str]:
        engine = (
            "engine: {kind: plain, dtype: bf16, compile: true}  # fsdp2 or zero3 share the parameters between ranks"
            if self.gpus
            else "engine: {kind: plain}  # in fp32 on CPUs; on GPUs in bf16, and compiled"
        )
        evaluate = []
        if self.val:
            tasks = "[loss, knn]" if self.labelled else "[loss]"
            evaluate = [f"evaluate: {{every_epochs: {max(1, self.epochs / 10):g}, tasks: {tasks}}}"]
        return [
            "",
            engine,
            "track: {every_steps: 50}  # wandb: {project: NAME} mirrors the curves there",
            "save: {every_minutes: 30, keep: 3}",
            *evaluate,
            f"launch: {{nodes: {self.nodes}, gpus_per_node: {self.gpus}}}  # Slurm: also time: '24:00:00'",
        ]


def _quoted(text: str | None) -> str:
    return json.dumps(text, ensure_ascii=False)  # which YAML reads as it is meant, whatever the path holds


def _flow(said: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in said.items()) + "}"
