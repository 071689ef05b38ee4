"""What the contract test runs on every rank: a tiny student, a few steps, everything gathered."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils._python_dispatch import TorchDispatchMode

from unicscale.contracts import Features
from unicscale.engine import Engine, build_engine, piece_of, write
from unicscale.engine.base import gather
from unicscale.objective.loss import distil
from unicscale.ranks.world import World
from unicscale.recipe import sections
from unicscale.student.model import Student, build_student

IMAGES, SIZE, PATCH = 8, 16, 8
LR = 3e-4
DIMS = {"a": 10, "b": 14}
STRIDE = {"output_stride": PATCH, "depths": [1, 1, 1, 1]}
STUDENTS = {
    # widths that four ranks do not divide evenly
    "plain": {"arch": "vit_tiny", "patch": PATCH, "options": {"embed_dim": 36, "depth": 2, "num_heads": 2}},
    "rope": {
        "arch": "vit_tiny_patch16_dinov3_qkvb", "patch": PATCH,
        "options": {"embed_dim": 40, "depth": 2, "num_heads": 2, "init_values": 0.1},
    },
    "maps": {"arch": "convnext_atto", "options": STRIDE | {"dims": [10, 14, 18, 36], "ls_init_value": 0.1}},
    "batch_norm": {
        "arch": "resnet10t",
        "options": {"output_stride": PATCH, "channels": [10, 14, 18, 36], "stem_width": 8, "zero_init_last": False},
    },
}  # fmt: skip


class Case(NamedTuple):
    """One cell of the grid."""

    kind: str = "plain"
    dtype: str = "fp32"
    checkpointing: str = "none"
    accumulation: int = 1
    options: tuple[tuple[str, Any], ...] = ()
    student: str = "plain"

    def section(self) -> sections.EngineSection:
        return sections.EngineSection(
            kind=self.kind, dtype=self.dtype, checkpointing=self.checkpointing, device="cpu", **dict(self.options)
        )


class Trace(NamedTuple):
    """What a run leaves: whole tensors and numbers, the same on every rank."""

    losses: list[float]
    norms: list[float]
    first: dict[str, Tensor]  # exp_avg after one step: a tenth of the gradient
    last: dict[str, Tensor]  # all pieces after the last step


def student(kind: str = "plain", size: int = SIZE) -> Student:
    section = sections.Student.model_validate({"drop_path": 0.2} | STUDENTS[kind])
    return build_student(section, sections.Ladder(), DIMS, size)


def images(step: int, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, 256, (IMAGES, 3, size, size), generator=generator, dtype=torch.uint8)


def targets(step: int, size: int = SIZE) -> dict[str, Features]:
    generator = torch.Generator().manual_seed(1000 + step)
    patches = (size // PATCH) ** 2
    return {
        name: Features(
            torch.randn(IMAGES, dim, generator=generator), torch.randn(IMAGES, patches, dim, generator=generator)
        )
        for name, dim in DIMS.items()
    }


def one_step(
    engine: Engine,
    world: World,
    step: int,
    accumulation: int,
    size: int = SIZE,
    poison: bool = False,
    trunk_rests: bool = False,
) -> tuple:
    """The loop of train.py, on numbers that depend on the step alone."""
    share = IMAGES // world.size
    piece = share // accumulation
    weight, total = torch.zeros(()), torch.zeros(())
    for number, last in enumerate(engine.micro_steps()):
        own = slice(world.rank * share + number * piece, world.rank * share + (number + 1) * piece)
        index = torch.arange(IMAGES)[own]
        truth = {n: Features(f.summary[own], f.patches[own]) for n, f in targets(step, size).items()}
        engine.student.set_draws((7, step), index)
        guess = engine.student(images(step, size)[own])
        loss = distil(guess.answers, truth, key=(7, step), index=index)
        numerator = loss.sum
        if poison:
            numerator = numerator * torch.nan
        engine.backward(numerator, last=last)
        weight += loss.weight
        total += numerator.detach()
    norm = engine.step(LR, weight, trunk_rests=trunk_rests)
    sums = world.all_sum(torch.stack([total, weight]))
    return (sums[0] / sums[1]).item(), norm.item()


def whole(engine: Engine, world: World) -> dict[str, Tensor]:
    return {name: gather(piece, world).clone() for name, piece in engine.pieces().items()}


def open_engine(case: Case, world: World, seed: int = 3) -> Engine:
    model = student(case.student)
    return build_engine(case.section(), model, seed=seed, world=world, micro_batches=case.accumulation, size=SIZE)


def open_fused(case: Case, world: World) -> Engine:
    """With the ladder as one product, as on an accelerator."""
    model = student()
    model.projector.fused = True
    return build_engine(case.section(), model, seed=3, world=world, micro_batches=case.accumulation, size=SIZE)


def evaluated(world: World, case: Case, fused: bool) -> list[float]:
    """Losses of steps with a look at the student in between, whose gathered weights must not outlive it."""
    engine = open_fused(case, world) if fused else open_engine(case, world)
    losses = []
    for step in range(3):
        losses.append(one_step(engine, world, step, case.accumulation)[0])
        engine.student.eval()
        with torch.no_grad():
            engine.student(images(9))
        engine.student.train()
    return losses


def trace(case: Case, world: World, steps: int) -> Trace:
    engine = open_engine(case, world)
    engine.student.train()
    losses, norms, first = [], [], {}
    for step in range(steps):
        loss, norm = one_step(engine, world, step, case.accumulation)
        losses.append(loss), norms.append(norm)
        if step == 0:
            first = {n: t for n, t in whole(engine, world).items() if n.startswith("exp_avg/")}
    return Trace(losses, norms, first, whole(engine, world))


def in_group(function: Callable[..., Any], *arguments: Any) -> Any:
    """Inside a process group; what rank 0 found."""
    world = World.start(sections.EngineSection(kind="fsdp2", device="cpu"))  # any kind that wants a group
    found = function(world, *arguments)
    world.close()
    return found if world.main else None


def traces(world: World, cases: list[Case], steps: int) -> list[Trace]:
    """All cases one after the other in one process group."""
    return [trace(case, world, steps) for case in cases]


def poisoned(world: World, cases: list[Case]) -> list[dict[str, Any]]:
    """A step, a step whose loss is NaN on the last rank only, and a sound one again."""
    found = []
    for case in cases:
        engine = open_engine(case, world)
        one_step(engine, world, 0, case.accumulation)
        before = whole(engine, world)
        _, norm = one_step(engine, world, 1, case.accumulation, poison=world.rank == world.size - 1)
        after = whole(engine, world)
        one_step(engine, world, 1, case.accumulation)
        norms = world.gather_objects(norm)
        found.append({"before": before, "after": after, "norms": norms, "later": whole(engine, world)})
    return found


def rested(world: World, cases: list[Case]) -> list[list[dict[str, Tensor]]]:
    """What lies there before, after two steps in which the trunk rests, and after one more."""
    found = []
    for case in cases:
        engine = open_engine(case, world)
        seen = [whole(engine, world)]
        for step in range(3):
            one_step(engine, world, step, case.accumulation, trunk_rests=step < 2)
            if step > 0:
                seen.append(whole(engine, world))
        found.append(seen)
    return found


def watch_overlap(engine: Any) -> list[bool]:
    """Filled when the engine opens the next time: whether weights of before are still in memory then."""
    old, opens, found = weakref.ref(next(engine.student.trunk.parameters())), engine._open, []

    def opened(student: Student) -> None:
        found.append(old() is not None)
        opens(student)

    engine._open = opened
    return found


def resized(world: World, cases: list[Case], size: int) -> list[dict[str, Any]]:
    """Two steps, another size, one step there."""
    found = []
    for case in cases:
        engine = open_engine(case, world)
        for step in range(2):
            one_step(engine, world, step, case.accumulation)
        before = whole(engine, world)
        overlaps = watch_overlap(engine)
        engine.resize_positions(size)
        after = whole(engine, world)
        loss, _ = one_step(engine, world, 2, case.accumulation, size)
        found.append({"before": before, "after": after, "loss": loss, "overlaps": overlaps})
    return found


def exchanged(world: World, kinds: list[str]) -> list[dict[str, Any]]:
    """Two steps in one engine, its pieces copied into the next one, a step there; round the circle."""
    found = []
    for kind, following in zip(kinds, [*kinds[1:], kinds[0]], strict=True):
        giver, taker = open_engine(Case(kind), world), open_engine(Case(following), world, seed=4)
        for step in range(2):
            one_step(giver, world, step, 1)
        given = whole(giver, world)
        for name, piece in taker.pieces().items():
            piece.flat.copy_(piece.cut(given[name]))
        taker.restored()
        there = whole(taker, world)
        losses = [one_step(engine, world, 2, 1)[0] for engine in (giver, taker)]
        found.append({"given": given, "taken": there, "losses": losses})
    return found


def held_bytes(world: World, cases: list[Case]) -> list[float]:
    """Bytes of weights and moments on the fullest rank, as a share of the whole."""
    shares = []
    for case in cases:
        pieces = open_engine(case, world).pieces().values()
        own = sum(p.flat.numel() * p.flat.element_size() for p in pieces)
        every = sum(prod(p.shape) * p.flat.element_size() for p in pieces)
        shares.append(max(world.gather_objects(own)) / every)
    return shares


class TinyTeacher(nn.Module):
    """Blocks in a row, as every teacher has them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 30)
        self.blocks = nn.Sequential(*[nn.TransformerEncoderLayer(30, 2, 60, dropout=0.0) for _ in range(3)])
        self.norm = nn.LayerNorm(30)

    def forward(self, x: Tensor) -> Features:
        x = self.norm(self.blocks(self.stem(x)))
        return Features(x[:, 0], x[:, 1:])


def taught(world: World, kinds: list[str]) -> list[dict[str, Any]]:
    """A sharded teacher beside the student: its answers before it is filled, after, and what it holds between."""
    found = []
    torch.manual_seed(0)
    truth, x = TinyTeacher().eval(), torch.randn(3, 5, 12)
    for kind in kinds:
        engine = open_engine(Case(kind), world)
        with torch.device("meta"):
            teacher = TinyTeacher()
        teacher = engine.shard_teacher(teacher.eval(), "none" if kind == "plain" else "full")
        parameters = dict(teacher.named_parameters())
        with torch.no_grad():
            empty = teacher(x).summary
        for module in teacher.modules():
            if hasattr(module, "reshard"):
                module.reshard()
        for name, value in truth.named_parameters():
            write(parameters[name], value)
        one_step(engine, world, 0, 1)
        with torch.no_grad():
            answers = [teacher(x).patches for _ in range(2)]
        held = max(world.gather_objects(sum(piece_of(p).flat.numel() for p in parameters.values())))
        whole = sum(p.numel() for p in truth.parameters())
        found.append({"empty": empty, "answers": answers, "truth": truth(x).patches.detach(), "share": held / whole})
    return found


class Looks(TorchDispatchMode):
    """Counts the host's looks at the device: every .item(), bool() and int() of a tensor."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def looks(world: World, cases: list[Case]) -> list[int]:
    """How often the host waits for a number during one step."""
    found = []
    for case in cases:
        engine = open_engine(case, world)
        one_step(engine, world, 0, case.accumulation)
        own = IMAGES // world.size
        index = torch.arange(IMAGES)[world.rank * own : (world.rank + 1) * own]
        truth = {n: Features(f.summary[index], f.patches[index]) for n, f in targets(1).items()}
        pixels = images(1)[index]
        with Looks() as counter:
            engine.student.set_draws((7, 1), index)
            for last in engine.micro_steps():
                loss = distil(engine.student(pixels).answers, truth, key=(7, 1), index=index)
                engine.backward(loss.sum, last=last)
            engine.step(LR, loss.weight)
        found.append(counter.count)
    return found


def hurried(world: World, case: Case, early: bool) -> dict[str, Tensor]:
    """After three steps of FSDP2, whose gathers start ahead of their turn, or only when they are needed."""
    engine = open_fused(case, world)
    if not early:
        engine.whole = []  # type: ignore[attr-defined]
        for module in engine.student.modules():  # type: ignore[attr-defined]
            if isinstance(module, FSDPModule):
                module.set_modules_to_forward_prefetch([])
    for step in range(3):
        one_step(engine, world, step, case.accumulation)
    return whole(engine, world)
