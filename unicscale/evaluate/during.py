"""Evaluation inside a run: bounded, sharded, and without a trace in weights, modes, randomness or data position."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unicscale.contracts import Seen
from unicscale.data.once import Once
from unicscale.data.sets.images import Images, open_images
from unicscale.errors import DataError, RecipeError, nearest
from unicscale.evaluate import suites
from unicscale.evaluate.losses import Mean, losses_of
from unicscale.evaluate.score import Score
from unicscale.evaluate.sets.subset import thin
from unicscale.evaluate.task import Probe
from unicscale.evaluate.tasks.classify import Knn
from unicscale.evaluate.terms import Labelled, Settings
from unicscale.ranks.voice import say
from unicscale.ranks.world import World

if TYPE_CHECKING:
    from unicscale.recipe.sections import Evaluate
    from unicscale.teacher.targets import Teachers

MAX_IMAGES = 10_000  # without `max_images` in the recipe: seconds on a GPU
SETTINGS = Settings()  # its seed chooses the images: the same at every evaluation of every run


def during(
    section: Evaluate,
    student: Callable[[Tensor], Seen],
    world: World,
    *,
    val: Sequence[str],
    size: int,
    batch: int = 64,
    teachers: Teachers | None = None,
    loss: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """What the recipe asks for, by name, the same on all ranks: `val/loss...` without dropping, `val/knn`.

    Tasks leave each image out of what they learn from, so that one labelled set is both. A damaged image is a
    DataError on all ranks.
    """
    start = time.perf_counter()
    wanted = asked_for(section, val)
    images = _Shared(section.data or val[0], size, batch, section.max_images or MAX_IMAGES, world)
    _refuse_unlabelled(images.once.images, wanted)
    # without a relation: between the images of a batch it would depend on how many each rank has
    loss_of = {**(loss or {}), "spread": getattr(teachers, "spread", dict)(), "relation": None}
    losses, scores = Mean(), Mean()
    summaries, labels = [], []
    with frozen(student), torch.no_grad():
        for pixels, truth, real in images:
            seen = student(pixels)  # every rank calls as often as every other: sharded students need that
            if teachers is not None and "loss" in wanted:
                targets = teachers(pixels, observe=False)
                losses.add(losses_of(seen, targets, loss_of, real), int(real.sum()))
            assert seen.features.summary is not None
            summaries.append(seen.features.summary[real].float())
            labels.append(truth[real])
    world.together(images.complain)
    if tasks := {name: task for name, task in while_training().items() if name in wanted}:
        everybody, mine = leave_one_out(torch.cat(summaries), torch.cat(labels), world)
        for task in tasks.values():
            found = {score.name: score.value for score in task.measure(everybody, mine, SETTINGS, world.device)}
            scores.add(found, len(mine.labels))
    measured = {f"val/{name}": value for name, value in (losses.over(world) | scores.over(world)).items()}
    shown = {name: value for name, value in measured.items() if name.count("/") < 3}
    say.info("evaluated: %s", "  ".join(f"{name.removeprefix('val/')} {value:.4g}" for name, value in shown.items()))
    return measured | {"val/seconds": time.perf_counter() - start}


def while_training() -> dict[str, Probe]:
    """The tasks that can be measured while training: those that one labelled set is enough for."""
    return {name: task.headline() for name, task in suites.tasks().items() if isinstance(task, Knn)}


def score_of(task: str, measured: Mapping[str, float]) -> Score | None:
    """What ranks checkpoints by a task: one number and which way is better; None where it could not be measured."""
    if f"val/{task}" not in measured:
        return None
    return Score(task, measured[f"val/{task}"], higher_is_better=task != "loss")


def asked_for(section: Evaluate, val: Sequence[str]) -> list[str]:
    """The tasks of a recipe; a wrong one is an error before the run begins."""
    known = ("loss", *while_training())
    for task in section.tasks:
        if task not in known:
            raise RecipeError(
                f"evaluate.tasks: '{task}' cannot be measured while training.{nearest(task, known)}\n"
                f"  known: {', '.join(known)}; `unicscale evaluate` measures everything else"
            )
    if not section.data and not val:
        raise RecipeError("evaluate: no images to measure on: name evaluate.data or data.val, or drop evaluate")
    return list(section.tasks) or ["loss"]


def refuse_unfit(section: Evaluate, val: Sequence[str], channels: int | None = None) -> None:
    """What an evaluation after days of training would find wrong with its images or tasks."""
    wanted = asked_for(section, val)
    _refuse_unlabelled(open_images(section.data or val[0], channels=channels), wanted)


def _refuse_unlabelled(images: Images, wanted: Sequence[str]) -> None:
    """Asked of the whole set, so that all ranks get the same answer."""
    task = next((name for name in wanted if name != "loss"), None)
    if task and (images.labels is None or (images.labels < 0).any()):
        raise DataError(f"evaluate.tasks: {task} needs labels, one folder per class; these images have none")
    if task and len(images) < 2:
        raise DataError(f"evaluate.tasks: {task} needs at least two images")


@contextmanager
def frozen(student: Any) -> Iterator[None]:
    """Eval mode inside, every module's own mode afterwards."""
    modules = list(student.modules()) if isinstance(student, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False  # not eval(): engines' wrappers do more there
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


class _Shared:
    """This rank's batches of a set, padded so that all ranks have as many: (pixels, labels, which are real)."""

    def __init__(self, path: str, size: int, batch: int, limit: int, world: World) -> None:
        images = thin(open_images(path), limit, SETTINGS.seed)
        self.batch = batch = min(batch, -(-len(images) // world.size))
        self.problem: DataError | None = None
        part = range(world.rank * len(images) // world.size, (world.rank + 1) * len(images) // world.size)
        self.once = Once(images, part, size, batch, world.device, crop=True)
        self.size, self.world = size, world
        self.rounds = max(world.gather_objects(len(self.once)))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        device, rounds, channels = self.world.device, 0, self.once.images.channels
        for pixels, labels in self._mine():
            rounds += 1
            real = torch.arange(self.batch, device=device) < len(pixels)
            # all batches have one shape: a compiled student would be compiled anew for another
            yield _padded(pixels, self.batch), _padded(labels, self.batch), real
        for _ in range(rounds, self.rounds):
            pixels = torch.zeros(self.batch, channels, self.size, self.size, dtype=torch.uint8, device=device)
            label = torch.zeros(self.batch, dtype=torch.int64, device=device)
            yield pixels, label, torch.zeros(self.batch, dtype=torch.bool, device=device)

    def _mine(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Until something cannot be read: the other ranks still count on this one's rounds."""
        try:
            for pixels, labels, _ in self.once:
                yield pixels, labels
        except DataError as problem:
            self.problem = problem

    def complain(self) -> None:
        """What could not be read, once all rounds are over."""
        if self.problem is not None:
            raise self.problem


def _padded(tensor: Tensor, length: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])])


def leave_one_out(mine: Tensor, labels: Tensor, world: World) -> tuple[Labelled, Labelled]:
    """What all ranks hold, and this rank's share of it, each of which knows where it stands among them."""
    everybody, truth = _everybody(mine, world), _everybody(labels, world)
    first = sum(world.gather_objects(len(mine))[: world.rank])
    classes = int(truth.max()) + 1
    own = torch.arange(first, first + len(mine))
    return Labelled(everybody, truth, classes), Labelled(mine, labels, classes, own)


def _everybody(tensor: Tensor, world: World) -> Tensor:
    """All ranks' rows, in rank order; padded for the collective, because ranks may hold one more or less."""
    if world.size == 1:
        return tensor
    lengths = world.gather_objects(len(tensor))
    padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded, group=None if padded.is_cuda else world.control)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
