"""Who repeats metrics.jsonl: the console, wandb, TensorBoard. A new one is a class here and its section in `track:`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from unicscale.ranks.voice import note
from unicscale.recipe.building import build
from unicscale.recipe.sections.around import TensorBoard, Track, Wandb
from unicscale.run.status import tail

LONG_AGO = 1 << 22  # bytes of metrics.jsonl in which the furthest step is looked for


class Shown(NamedTuple):
    """What was measured or seen once training was over."""

    name: str  # evaluation/quick, pictures/patches
    rows: Sequence[Sequence[str]] = ()  # a table, its heads first
    numbers: Mapping[str, float] = {}  # by score, of the run's own student
    pictures: Mapping[str, Any] = {}  # what it says -> PIL image


class Mirror(Protocol):
    """Anything that repeats what metrics.jsonl records."""

    def write(self, record: dict[str, Any]) -> None:
        """One record, already plain numbers."""
        ...

    def show(self, shown: Shown, step: int) -> None:
        """A table or pictures of the student of this step."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class Tracked(NamedTuple):
    """The run, as a tracker wants to know it."""

    folder: Path
    id: str
    recipe: dict[str, Any]
    heard: tuple[int, int] = (-1, -1)  # the furthest step that earlier launches told of, and the furthest measured one

    def is_news(self, record: dict[str, Any]) -> bool:
        """A step that is done again says what it said before: a tracker, which forgets nothing, hears it once."""
        return record["step"] > self.heard["loss" not in record]


def open_mirrors(track: Track, run: Tracked) -> list[Mirror]:
    """Those that the recipe asks for, besides the console."""
    told = tail(run.folder / "metrics.jsonl", LONG_AGO) if track.asked else []
    furthest = [max((r["step"] for r in told if ("loss" in r) == of), default=-1) for of in (True, False)]
    return [build(section, run._replace(heard=(furthest[0], furthest[1]))) for section in track.asked]


class Console:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, steps: int, done: int, teachers: list[str]) -> None:
        self.steps, self.teachers, self.bar = steps, teachers, None
        self.clock = time.monotonic()
        self.first, self.seen = done, done
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                MofNCompleteColumn(),
                BarColumn(bar_width=16),
                TimeRemainingColumn(),
                TextColumn("{task.fields[said]}"),
            )
            self.bar = Progress(*columns, transient=False)
            self.task = self.bar.add_task("", total=steps, completed=done, said="")
            self.bar.start()

    def write(self, record: dict[str, Any]) -> None:
        """Steps, images/s, ETA, share of the device's limit, loss per teacher."""
        if "loss" not in record:
            return
        self.seen = record["step"]
        rate = record.get("images_per_second")
        losses = " ".join(f"{name} {record[f'loss/{name}']:.3f}" for name in self.teachers if f"loss/{name}" in record)
        share = f"MFU {100 * record['mfu']:.0f} %  " if "mfu" in record else ""
        said = f"{f'{rate:.0f} img/s  ' if rate else ''}{share}loss {record['loss']:.3f}  {losses}"
        line = f"step {self.seen}/{self.steps}  {self._left()}{said}"
        if self.bar is not None:
            self.bar.update(self.task, completed=self.seen, said=said)
        else:
            print(line, file=sys.stderr, flush=True)
        note(line)  # for `unicscale logs`; under a front door the line above went there

    def _left(self) -> str:
        done = self.seen - self.first
        if done <= 0:
            return ""
        seconds = (time.monotonic() - self.clock) / done * (self.steps - self.seen)
        hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
        return f"{hours}:{minutes:02d}:{int(seconds % 60):02d} left  "

    def show(self, shown: Shown, step: int) -> None:
        """Whoever measures prints it."""

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()


class WandbMirror:
    """wandb hears what the JSONL records. Our own step is logged as a metric: wandb drops replayed steps otherwise."""

    def __init__(self, section: Wandb, run: Tracked) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.tracked = run
        assert section.mode != "off"  # whose mirror is none
        mode = section.mode
        if mode == "auto":
            mode = "online" if wandb.api.api_key else "offline"
        self.run = wandb.init(
            project=section.project, entity=section.entity, mode=mode, dir=str(run.folder), id=run.id,
            name=run.folder.name, resume="allow", config=run.recipe,
        )  # fmt: skip
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def write(self, record: dict[str, Any]) -> None:
        """As it stands in the file, each step once."""
        if self.tracked.is_news(record):
            self.run.log({k: v for k, v in record.items() if isinstance(v, int | float)})

    def show(self, shown: Shown, step: int) -> None:
        """A wandb.Table, wandb.Images, and numbers by which its page of runs can be sorted."""
        import wandb

        said: dict[str, Any] = {f"{shown.name}/{score}": value for score, value in shown.numbers.items()}
        if shown.rows:
            head, *rows = shown.rows
            said[shown.name] = wandb.Table(columns=[*head], data=[[*row] for row in rows])
        if shown.pictures:
            said[shown.name] = [wandb.Image(image, caption=says) for says, image in shown.pictures.items()]
        self.run.log({"step": step} | said)

    def close(self) -> None:
        """wandb sends what it still holds."""
        self.run.finish()


class TensorBoardMirror:
    """TensorBoard event files under events/."""

    def __init__(self, section: TensorBoard, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.tracked = run
        self.writer = SummaryWriter(str(run.folder / "events"))

    def write(self, record: dict[str, Any]) -> None:
        """Every number of the record."""
        for name, value in record.items() if self.tracked.is_news(record) else ():
            if isinstance(value, float):
                self.writer.add_scalar(name, value, record["step"])

    def show(self, shown: Shown, step: int) -> None:
        """Tables as text, in Markdown."""
        import numpy as np

        for score, value in shown.numbers.items():
            self.writer.add_scalar(f"{shown.name}/{score}", value, step)
        if shown.rows:
            head, *rows = shown.rows
            lines = [[*head], ["---"] * len(head), *rows]
            self.writer.add_text(shown.name, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)
        for number, (says, image) in enumerate(shown.pictures.items()):
            self.writer.add_image(f"{shown.name}/{number}", np.asarray(image), step, dataformats="HWC")
            self.writer.add_text(f"{shown.name}/{number}", says, step)

    def close(self) -> None:
        """The file is whole."""
        self.writer.close()
