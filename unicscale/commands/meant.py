"""What a recipe comes to: what each `auto` becomes, and with `check --full` everything else that it means."""

from __future__ import annotations

import os

from unicscale.recipe import Recipe
from unicscale.recipe.plan import PlannedStage
from unicscale.recipe.sections import Source
from unicscale.run.columns import columns

WIDE = 80.0  # GiB of the device for which `auto` of shards is told, where nobody says another: as `plan`


def autos(recipe: Recipe) -> list[str]:
    """`data.reader: folder` for every `auto` of the recipe that can be told without torch."""
    data, engine = recipe.data, recipe.engine
    found = []
    if data.reader == "auto":
        found += [("data.reader", _reader(recipe))]
    if data.resize == "auto":
        found += [("data.resize", "area")]
    if data.workers == "auto":
        from unicscale.data.stream.workers import cores

        found += [("data.workers", f"{cores()} here, the cores of a rank")]
    own = {name: section.dtype for name, section in recipe.teachers.items() if section.dtype == "auto"}
    found += [(f"teachers.{name}.dtype", f"engine.dtype, {engine.dtype}".removesuffix(", auto")) for name in own]
    for name, section in recipe.teachers.items():
        if section.shard == "auto":
            said = "by its size, which --full and `plan` weigh" if engine.grouped else f"none ({engine.kind})"
            found += [(f"teachers.{name}.shard", said)]
    if engine.dtype == "auto":
        found += [("engine.dtype", "bf16 on GPUs that have it, fp32 elsewhere; a run keeps what it began with")]
    if engine.compile == "auto":
        found += [("engine.compile", "true on GPUs with a C compiler, false elsewhere")]
    if engine.reshard == "auto" and engine.regathers:
        found += [("engine.reshard", "kept where the device has room, given back elsewhere")]
    if engine.device == "auto":
        found += [("engine.device", "the GPU of the rank where there is one, else the CPU")]
    if recipe.track.wandb is not None and recipe.track.wandb.mode == "auto":
        found += [("track.wandb.mode", "online where an account is known, else offline")]
    for number, stage in enumerate(recipe.stages):
        if not stage.says_warmup:
            found += [(f"stages.{number}.warmup", f"{stage.warmup}, as nobody said another")]
    return columns(found)


def _reader(recipe: Recipe) -> str:
    paths = [one.path if isinstance(one, Source) else one for one in recipe.data.train]
    kinds = ["folder" if os.path.isdir(path) else "ffcv where it is installed, else beton" for path in paths]
    return ", ".join(dict.fromkeys(kinds))


def _rates(stage: PlannedStage) -> str:
    return " to ".join(f"{rate:g}" for rate in ([0] * bool(stage.warmup) + [stage.peak, stage.end]))


def everything(recipe: Recipe) -> list[str]:
    """The stages in steps, the models and where they lie, what is kept: built on meta, as `plan` builds them."""
    from unicscale import cost
    from unicscale.cost.report import planned
    from unicscale.ranks.device import called, device_of, settled

    found = cost.costs(recipe, None, WIDE)
    notes: list[str] = []
    plan = planned(recipe, notes)
    device = device_of("cpu" if recipe.engine.device == "cpu" else "auto", 0)
    engine = settled(recipe.engine, device)
    images = recipe.data.images_per_step
    per_rank = f"{found.micro} at once" if found.micro * found.ranks == images else f"{found.micro} at a time"
    million = {name: f"{number / 1e6:.1f} M" for name, number in found.parameters.items()}
    said = [
        ("this machine", f"{called(device)}: {engine.dtype}, {'compiled' if engine.compile else 'not compiled'}"),
        ("an epoch", f"{plan.pace.images_per_epoch:,} images, {plan.pace.steps_per_epoch:,.0f} steps of {images}"),
        ("ranks", f"{found.ranks}, {per_rank} on each"),
        *[(f"stage {stage.name}", f"{stage.said.partition(': ')[2]}, rate {_rates(stage)}") for stage in plan.stages],
        ("in all", f"{plan.steps:,} steps, {plan.steps * images:,} images"),
        ("student", f"{million['student']} parameters"),
        ("projector", f"{million['projector']} parameters, not exported"),
    ]
    places = {"full": f"sharded, on devices of {WIDE:g} GiB", "none": "whole on every rank"}
    said += [
        (f"teacher {name}", f"{million[f'teacher {name}']} parameters, {places[where]}")
        for name, where in found.placement.items()
    ]
    return [*columns(said), *notes, *[stage.remark for stage in plan.stages if stage.remark]]
