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
from unicscale.evaluate.metrics.knn import vote
from unicscale.evaluate.metrics.nearest import nearest as nearest_rows
from unicscale.evaluate.sets.subset import thin
from unicscale.objective.loss import distil
from unicscale.ranks.voice import say
from unicscale.ranks.world import World

if TYPE_CHECKING:
    from unicscale.recipe.sections import Evaluate
    from unicscale.teacher.targets import Teachers

TASKS = ("loss", "knn")
MAX_IMAGES = 10_000  # without `max_images` in the recipe: seconds on a GPU
SEED = 22  # of the choice of images: the same at every evaluation of every run
K, TEMPERATURE = 20, 0.07


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

    k-NN leaves each image out of its own neighbours, so that one labelled set is both bank and queries. A damaged image
    is a DataError on all ranks.
    """
    start = time.perf_counter()
    wanted = asked_for(section, val)
    images = _Shared(section.data or val[0], size, batch, section.max_images or MAX_IMAGES, world)
    _refuse_unlabelled(images.once.images, wanted)
    loss_of = {**(loss or {}), "spread": getattr(teachers, "spread", dict)()}
    terms: dict[str, Tensor] = {}
    summaries, labels = [], []
    with frozen(student), torch.no_grad():
        for pixels, truth, real in images:
            seen = student(pixels)  # every rank calls as often as every other: sharded students need that
            if teachers is not None and "loss" in wanted:
                _add(terms, _losses(seen, teachers(pixels, observe=False), loss_of, real), int(real.sum()))
            summaries.append(seen.features.summary[real].float())
            labels.append(truth[real])
    world.together(images.complain)
    measured = _mean(terms, world)
    if "knn" in wanted:
        measured["val/knn"] = _knn(torch.cat(summaries), torch.cat(labels), world)
    shown = {name: value for name, value in measured.items() if name.count("/") < 3}
    say.info("evaluated: %s", "  ".join(f"{name.removeprefix('val/')} {value:.4g}" for name, value in shown.items()))
    return measured | {"val/seconds": time.perf_counter() - start}


def asked_for(section: Evaluate, val: Sequence[str]) -> list[str]:
    """The tasks of a recipe; a wrong one is an error before the run begins."""
    for task in section.tasks:
        if task not in TASKS:
            raise RecipeError(
                f"evaluate.tasks: '{task}' cannot be measured while training.{nearest(task, TASKS)}\n"
                f"  known: {', '.join(TASKS)}; `unicscale evaluate` measures everything else"
            )
    if not section.data and not val:
        raise RecipeError("evaluate: no images to measure on: name evaluate.data or data.val, or drop evaluate")
    return list(section.tasks) or ["loss"]


def refuse_unfit(section: Evaluate, val: Sequence[str]) -> None:
    """What an evaluation after days of training would find wrong with its images or tasks."""
    wanted = asked_for(section, val)
    _refuse_unlabelled(open_images(section.data or val[0]), wanted)


def _refuse_unlabelled(images: Images, wanted: Sequence[str]) -> None:
    """Asked of the whole set, so that all ranks get the same answer."""
    if "knn" in wanted and (images.labels is None or (images.labels < 0).any()):
        raise DataError("evaluate.tasks: knn needs labels, one folder per class; these images have none")
    if "knn" in wanted and len(images) < 2:
        raise DataError("evaluate.tasks: knn needs at least two images")


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
        images = thin(open_images(path), limit, SEED)
        self.batch = batch = min(batch, -(-len(images) // world.size))
        self.problem: DataError | None = None
        part = range(world.rank * len(images) // world.size, (world.rank + 1) * len(images) // world.size)
        self.once = Once(images, part, size, batch, world.device, crop=True)
        self.size, self.world = size, world
        self.rounds = max(world.gather_objects(len(self.once)))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        device, rounds = self.world.device, 0
        for pixels, labels in self._mine():
            rounds += 1
            real = torch.arange(self.batch, device=device) < len(pixels)
            # all batches have one shape: a compiled student would be compiled anew for another
            yield _padded(pixels, self.batch), _padded(labels, self.batch), real
        for _ in range(rounds, self.rounds):
            pixels = torch.zeros(self.batch, 3, self.size, self.size, dtype=torch.uint8, device=device)
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


def _losses(seen: Seen, targets: dict[str, Any], loss: Mapping[str, Any], real: Tensor) -> dict[str, Tensor]:
    shown = real if real.any() else ~real  # of padding alone the numbers count for nothing, but there must be some
    answers, targets = (
        {n: features.each(lambda t: t[shown]) for n, features in given.items()} for given in (seen.answers, targets)
    )
    terms = distil(answers, targets, balance="none", **loss).terms
    kept = {name: value for name, value in terms.items() if name.startswith("loss")}
    return {name: value * real.any() for name, value in kept.items()}


def _add(total: dict[str, Tensor], terms: dict[str, Tensor], count: int) -> None:
    for name, value in ({"images": torch.ones(())} | terms).items():
        weighted = value.detach().double().cpu() * count
        total[name] = total[name] + weighted if name in total else weighted


def _mean(total: dict[str, Tensor], world: World) -> dict[str, float]:
    """Over all images of all ranks."""
    if not total:
        return {}
    names = sorted(total)
    sums = world.all_sum(torch.stack([total[name] for name in names]))
    mean = dict(zip(names, (sums / sums[names.index("images")]).tolist(), strict=True))
    return {f"val/{name}": value for name, value in mean.items() if name != "images"}


def _knn(mine: Tensor, labels: Tensor, world: World) -> float:
    """Leave-one-out: all ranks hold the bank, each asks for its own images."""
    bank, bank_labels, first = _everybody(mine, world), _everybody(labels, world), 0
    if world.size > 1:
        first = sum(world.gather_objects(len(mine))[: world.rank])
    k = min(K, len(bank) - 1)
    cosines, rows = nearest_rows(bank, mine, k + 1, device=world.device)
    own = rows == torch.arange(first, first + len(mine))[:, None]
    own[:, -1] |= ~own.any(dim=1)  # hidden behind exact copies of itself: drop the furthest instead
    cosines, rows = cosines[~own].view(-1, k), rows[~own].view(-1, k)
    guess = vote(cosines, bank_labels.cpu()[rows], int(bank_labels.max()) + 1, TEMPERATURE)
    counts = world.all_sum(torch.tensor([float((guess == labels.cpu()).sum()), float(len(mine))], dtype=torch.float64))
    return 100.0 * float(counts[0] / counts[1])


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
