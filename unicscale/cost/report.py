"""All costs of a recipe, and the page that `unicscale plan` prints."""

from __future__ import annotations

from dataclasses import dataclass, field

from unicscale.cost import flops, memory
from unicscale.cost.gpus import GPUS, SHARE, Gpu
from unicscale.cost.shapes import Shapes, numbers, on_gpus
from unicscale.data.sets.images import open_images
from unicscale.data.stream.order import Order
from unicscale.engine import engine_of
from unicscale.errors import DataError, RecipeError
from unicscale.recipe import Recipe
from unicscale.recipe.plan import Plan, share
from unicscale.recipe.sections import Source
from unicscale.student.projector import refuse_idle_blocks
from unicscale.student.trunk.batch_norm import refuse_lone_images

IMAGENET = 1_281_167
BARELY = 0.9  # of the memory: plans of ZeRO-3 were 11 % below what was held (docs/train.md)
UNITS = (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9))
GIB = 2**30


@dataclass(frozen=True, slots=True)
class StageCosts:
    """One stage at its largest size."""

    name: str
    size: int
    steps: int
    images: int
    flops: dict[str, int]  # per image, by part: forward + backward of what is trained, forward of teachers
    memory: dict[str, int]  # bytes on a rank
    host: int  # bytes of decoded images on the host, per rank

    @property
    def total(self) -> int:
        """FLOPs of one image."""
        return sum(self.flops.values())


@dataclass(frozen=True, slots=True)
class Costs:
    """Everything that `plan` prints."""

    ranks: int
    device: float | None  # GiB of each
    micro: int  # images of one rank and backward
    parameters: dict[str, int]
    placement: dict[str, str]
    stages: list[StageCosts]
    notes: list[str] = field(default_factory=list)
    gpu: Gpu = GPUS["H200"]  # whose hours are counted

    @property
    def total(self) -> float:
        """FLOPs of the run."""
        return sum(stage.images * stage.total for stage in self.stages)

    @property
    def hours(self) -> float:
        """GPU-hours at SHARE of the peak."""
        return self.total / (self.gpu.flops * SHARE) / 3600


def costs(recipe: Recipe, gpus: int | None, device: float | None, gpu: Gpu = GPUS["H200"]) -> Costs:
    """Of the recipe on `gpus` ranks of `device` GiB each (None: they share a host); as it launches without `gpus`."""
    ranks = gpus or recipe.launch.ranks
    recipe = on_gpus(recipe)
    notes: list[str] = []
    plan = planned(recipe, notes)
    micro, micro_batches = share(recipe.data.images_per_step, ranks, recipe.data.micro_batch)
    shapes = Shapes.of(recipe)
    refuse_unfit(recipe, shapes, ranks)
    held = int(device * GIB) if device is not None and recipe.engine.device != "cpu" else None
    static = memory.weights(shapes, recipe.engine, ranks, held, accumulates=micro_batches > 1)
    late = memory.held_by(shapes, recipe.engine, ranks, held, accumulates=micro_batches > 1).late
    placement, beside = memory.teachers(shapes, recipe.teachers, recipe.engine, ranks, held)
    can_fuse = getattr(shapes.projector, "norms", None) is False  # a ladder, on a device that gathers it as one
    fused = can_fuse and held is not None and memory.gathers_all(shapes, recipe.engine, held)
    stages = []
    for stage in plan.stages:
        size = max(stage.sizes)
        own = memory.activations(shapes, size, recipe.engine.checkpointing, fused=fused)
        bytes_ = static | beside | {part: micro * number for part, number in own.items()}
        # backward frees activations as it makes gradients: the fewer of both are never there beside the others
        bytes_["room used twice"] = -min(late, micro * sum(own.values()))
        host = memory.loader(recipe.data, size, micro)
        images = stage.steps * recipe.data.images_per_step
        stages.append(StageCosts(stage.name, size, stage.steps, images, per_image(recipe, shapes, size), bytes_, host))
    parameters = {"student": numbers(shapes.trunk), "projector": numbers(shapes.projector)}
    parameters |= {f"teacher {name}": numbers(one) for name, one in shapes.teachers.items()}
    return Costs(ranks, device, micro, parameters, placement, stages, notes, gpu)


def refuse_unfit(recipe: Recipe, shapes: Shapes, ranks: int) -> None:
    """What `train` would refuse for its shapes or its ranks, in its words: a plan that holds is one that begins."""
    from unicscale.objective.pairs import refuse_unfit as refuse_loss
    from unicscale.teacher.grid import every_size
    from unicscale.teacher.mosaic import refuse_resizable

    refuse_loss(recipe.loss, recipe.standardize, recipe.teachers, {n: one.widths for n, one in shapes.teachers.items()})
    if said := recipe.too_few_patches(shapes.trunk.patch):
        raise RecipeError(said)
    refuse_idle_blocks(shapes.projector, shapes.trunk.depth)
    engine_of(recipe.engine).parts(recipe.engine, ranks)
    shapes.trunk.check_stages([stage.size_list for stage in recipe.stages])
    refuse_lone_images(shapes.trunk, share(recipe.data.images_per_step, ranks, recipe.data.micro_batch)[0])
    for size in sorted(recipe.sizes):
        for name, one in shapes.teachers.items():
            if recipe.teachers[name].mosaic:
                refuse_resizable(one.spec, name)
            every_size(one.spec, recipe.teachers[name].resolution, size, shapes.trunk.patch, name)
    for section in recipe.teachers.values():
        engine_of(recipe.engine).places(section.shard, 0, None)


def per_image(recipe: Recipe, shapes: Shapes, size: int) -> dict[str, int]:
    """FLOPs by part, of a teacher of several sizes on the average."""
    from unicscale.teacher.grid import every_size

    parts = flops.of_student(shapes, size)
    for name, one in shapes.teachers.items():
        sides = every_size(one.spec, recipe.teachers[name].resolution, size, shapes.trunk.patch, name)
        each = [flops.of_teacher(shapes, recipe.teachers[name], name, size, side) for side in sides]
        parts[f"teacher {name}"] = sum(each) // len(each)
    return parts


def planned(recipe: Recipe, notes: list[str]) -> Plan:
    """Stages in steps; without the data at hand, as long as they would be on ImageNet-1K."""
    sources = [s if isinstance(s, Source) else Source(path=s) for s in recipe.data.train]
    try:
        counts = [len(open_images(s.path, recipe.data.reader, recipe.data.max_resolution)) for s in sources]
    except DataError as problem:
        counts = [IMAGENET] * len(sources)
        notes.append(f"{str(problem).splitlines()[0]} Counted as ImageNet-1K's {IMAGENET:,} images.")
    order = Order(recipe.seed, counts, [s.weight for s in sources], recipe.data.images_per_step)
    plan = Plan.of(recipe.stages, images_per_epoch=order.images_per_epoch, images_per_step=recipe.data.images_per_step)
    notes += [stage.remark for stage in plan.stages if stage.remark]
    return plan


def report(recipe: Recipe, gpus: int | None, device: float, gpu: Gpu = GPUS["H200"]) -> str:
    """The page, 80 columns."""
    found = costs(recipe, gpus, device, gpu)
    assert found.device is not None
    names = [f"{stage.name}, {stage.size} px" for stage in found.stages]
    lines = [_row("parameters", ["millions"])]
    lines += [_row(f"  {part}", [_figure(number / 1e6)]) for part, number in found.parameters.items()]
    lines += ["", _row("GFLOP per image", names)]
    lines += _table(found.stages[0].flops, [{p: _figure(n / 1e9) for p, n in s.flops.items()} for s in found.stages])
    lines += [_row("  total", [_figure(s.total / 1e9) for s in found.stages])]
    at_once = f"{found.micro} image{'s' if found.micro > 1 else ''} at once"
    lines += [
        "",
        f"{found.ranks} rank{'s' * (found.ranks > 1)} of {found.device:g} GiB, {at_once} on each",
        _row("GiB per rank", names),
    ]
    lines += _table(
        found.stages[0].memory, [{p: _figure(n / GIB, 2) for p, n in s.memory.items()} for s in found.stages]
    )
    totals = [sum(s.memory.values()) / GIB for s in found.stages]
    lines += [_row("  total", [_figure(total, 2) for total in totals])]
    lines += [_row("  on the host: decoded images", [_figure(s.host / GIB, 2) for s in found.stages])]
    lines += ["", _row("run", names)]
    lines += [_row("  steps", [f"{s.steps:,}" for s in found.stages])]
    many = max(s.images for s in found.stages) >= 1e6
    lines += [
        _row("  images, millions", [_figure(s.images / 1e6) for s in found.stages])
        if many
        else _row("  images", [f"{s.images:,}" for s in found.stages])
    ]
    prefix, unit = next((p, u) for p, u in UNITS if found.total >= u / 100 or u == UNITS[-1][1])
    lines += [_row(f"  {prefix}FLOP", [_figure(s.images * s.total / unit, 3) for s in found.stages])]
    hours = f"{_time(found.hours, f'{gpu.name}-')} at {SHARE:.0%} of {gpu.flops / 1e12:,.0f} TFLOP/s"
    lines += ["", f"{_figure(found.total / unit, 2)} {prefix}FLOP, {hours}"]
    if found.ranks > 1:
        lines[-1] += ";"
        lines += [f"{_time(found.hours / found.ranks)} on {found.ranks} of them"]
    said = {"full": "sharded over all ranks", "none": "whole on every rank"}
    lines += [f"teacher {name}: {said[where]}" for name, where in found.placement.items()]
    if max(totals) > found.device:
        lines += [f"does not fit {found.device:g} GiB:", f"  {cure(recipe)}"]
    else:
        barely = ", barely: plans have been off by as much" if max(totals) > BARELY * found.device else ""
        lines += [f"fits: {_figure(max(totals), 1)} of {found.device:g} GiB{barely}"]
    return "\n".join([*lines, *found.notes])


def cure(recipe: Recipe) -> str:
    """What to change first when memory is short."""
    if not engine_of(recipe.engine).sharding:
        return "set engine.kind to fsdp2, or lower data.micro_batch."
    if recipe.engine.checkpointing == "none":
        return "set engine.checkpointing to ladder or full, or lower data.micro_batch."
    return "lower data.micro_batch, or take more ranks."


def _figure(number: float, digits: int = 1) -> str:
    """So many digits behind the point, or one that is not 0."""
    said = f"{number:,.{digits}f}"
    return f"{number:.1g}" if not said.strip("0.,") else said


def _time(hours: float, of: str = "") -> str:
    """Hours, or minutes where they are less than one."""
    if hours < 1:
        return f"{_figure(hours * 60)} {of}minutes"
    return f"{hours:,.{0 if hours >= 100 else 1}f} {of}hours"


def _row(label: str, cells: list[str]) -> str:
    return f"{label:<34}" + "".join(f"{cell:>15}" for cell in cells)


def _table(parts: dict[str, int], columns: list[dict[str, str]]) -> list[str]:
    return [_row(f"  {part}", [column[part] for column in columns]) for part in parts]
