"""Commands: check, plan, train, demo."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from unicscale.run.folder import RunFolder

RecipePath = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, for example recipes/unic_l.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[a.b=v]...", help="Changes to it: engine.kind=fsdp2 stages.0.epochs=1")
]


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command()(demo)
    app.command()(check)
    app.command()(plan)
    app.command()(train)


def check(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE")] = None,
    overrides: Overrides = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes and leave.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict only, no YAML.")] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Also build the models without weights and open the data: lengths, sizes, places. Seconds."
        ),
    ] = False,
) -> None:
    """Validate a recipe; print it resolved, and what each `auto` becomes.

    The last line, on stderr, is the verdict and what was not looked at.
    """
    from unicscale.commands.meant import autos, everything
    from unicscale.commands.seen import verdict
    from unicscale.errors import RecipeError
    from unicscale.ranks.terminal import tell
    from unicscale.recipe import Recipe, dump, load
    from unicscale.recipe.reading import said
    from unicscale.teacher.cards import introduce

    if schema:
        print(json.dumps(Recipe.model_json_schema(by_alias=True), indent=1))
        return
    if recipe is None:
        raise RecipeError("which recipe? `unicscale check recipes/unic_l.yaml`, or --schema for the JSON Schema.")
    resolved = load(recipe, overrides or [])
    places = said(recipe, overrides or [])
    teachers = [introduce(name, section, places.place) for name, section in resolved.teachers.items()]
    if resolved.projector.kind == "none":  # whether it fits, only the teachers' widths know
        from unicscale.cost.shapes import Shapes

        Shapes.of(resolved)
    told = verdict(resolved, full=full)
    meaning = [*(["what it comes to:"] if full else []), *(everything(resolved) if full else [])]
    if not quiet:
        lines = [*teachers, "auto:", *(f"  {line}" for line in autos(resolved))]
        print(dump(resolved), end="")
        print("\n".join(f"# {line}" for line in [*lines, *meaning]), flush=True)
    tell(told)


def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    gpus: Annotated[int | None, typer.Option(help="Ranks; as the recipe launches if left out.")] = None,
    gpu: Annotated[
        str | None, typer.Option(help="A100, H100, H200, B200, L40S or 4090: whose hours and memory.")
    ] = None,
    memory: Annotated[float | None, typer.Option(help="GiB on each; those of --gpu, or 80, if left out.")] = None,
) -> None:
    """Parameters, FLOPs, memory per rank, steps and GPU-hours of a recipe."""
    from unicscale import cost
    from unicscale.recipe import load
    from unicscale.teacher.cards import introduce

    resolved = load(recipe, overrides or [], unset="keep")
    kind = cost.named(gpu or "H200")
    print(cost.report(resolved, gpus, memory or (kind.gib if gpu else 80.0), kind))
    print("\n".join(introduce(name, section) for name, section in resolved.teachers.items()))


def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; an old run is set aside, not deleted.")] = False,
    max_steps: Annotated[
        int | None,
        typer.Option("--max-steps", min=1, help="Save and leave after this step of the run, with exit code 0."),
    ] = None,
) -> None:
    """Train in this process group; goes on by itself where it left off."""
    from unicscale.errors import ReachedLimit
    from unicscale.ranks.terminal import tell

    try:
        finished = run_rank(recipe, overrides or [], fresh=fresh, max_steps=max_steps)
    except ReachedLimit as reached:
        if rank_here() == 0:
            tell(reached)
        return
    if finished is not None:
        print(f"finished: {finished.root}", flush=True)
        tell(afterwards(finished))


def afterwards(run: RunFolder) -> str:
    """Where the student of a finished run lies, and what people do with it next."""
    from unicscale.run.launches import committed_step

    marked = (run.checkpoints / "BEST").is_file()
    best = f"  best     {run.root}@best, wherever a model is named\n" if marked else ""
    return (
        f"  student  {run.checkpoints}/step-{committed_step(run):08d}\n{best}"
        f"  next     unicscale evaluate {run.root}\n"
        f"           unicscale export {run.root} --to timm --out FOLDER\n"
        f"           unicscale look {run.root}\n"
        f"           unicscale report {run.root}"
    )


def rank_here() -> int:
    """Of this process, as its launcher says."""
    from unicscale.ranks.environment import whole
    from unicscale.ranks.scheduler import scheduler

    seat = scheduler().seat(os.environ)
    return whole("RANK", seat.rank if seat else 0)


def run_rank(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    fresh: bool = False,
    max_steps: int | None = None,
    begun: Callable[[RunFolder, int], object] | None = None,
) -> RunFolder | None:
    """One rank from its first breath to its last, whoever started it; rank 0 of a training gets its folder back.

    `begun` hears of the run's folder and of this rank's number before anything can go wrong with either.
    """
    from unicscale.ranks import rendezvous, stop
    from unicscale.recipe import load
    from unicscale.recipe.anchored import anchored
    from unicscale.recipe.secrets import refuse_secrets
    from unicscale.run.folder import RunFolder
    from unicscale.run.launches import refuse_early

    stop.listen()  # before the slow imports: a signal that comes during them is not lost
    resolved = anchored(load(recipe, overrides))
    run = RunFolder(Path(resolved.out))
    rank = rank_here()
    if begun is not None:
        begun(run, rank)
    refuse_secrets(resolved)
    if resolved.dry_run is None:  # which leaves the run folder alone
        refuse_early(resolved, main=rank == 0)
    rendezvous.prepare(run.launch)
    if resolved.dry_run is not None:
        from unicscale.dry_run import rehearse

        page = rehearse(resolved)
        if rank == 0:
            print(page, flush=True)
        return None
    from unicscale.train import train as run_whole

    run_whole(resolved, fresh=fresh, max_steps=max_steps)
    return run if rank == 0 else None


def demo(
    out: Annotated[Path, typer.Option(help="Where the run goes.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Another seed, other scenes.")] = 0,
) -> None:
    """Draw scenes, distil two small teachers in two stages, evaluate, print a table (CPU)."""
    from unicscale import demo as story

    story.run(out, seed)
