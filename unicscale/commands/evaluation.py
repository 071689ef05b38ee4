"""Commands: features, evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unicscale.errors import DataError, Interrupted, RecipeError

if TYPE_CHECKING:
    from unicscale.evaluate.runner import Outcome
    from unicscale.evaluate.terms import Settings
    from unicscale.ranks.world import World

MODEL = "RUN, RUN@STAGE, a checkpoint, an export, a .safetensors, an official UNIC .pth, teacher:NAME or timm:ID"
Weights = Annotated[
    list[str], typer.Option("--weights", metavar="NAME=FILE", help="Where a teacher's weights are; repeatable.")
]
Options = Annotated[
    list[str], typer.Option("--option", metavar="NAME.KEY=VALUE", help="An option of a teacher, as in a recipe.")
]
Dtype = Annotated[str, typer.Option(help="fp32, bf16, fp16; auto: bf16 on CUDA, fp32 elsewhere.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command()(features)
    app.command()(evaluate)


def features(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL + ".")],
    images: Annotated[Path, typer.Argument(help="A folder, a .beton, a tar or a folder of tars, a list, one image.")],
    out: Annotated[Path, typer.Option(help="The file to write: .safetensors, .npy or .parquet.")],
    patches: Annotated[bool, typer.Option(help="Patch tokens too, not only the summary.")] = True,
    size: Annotated[int | None, typer.Option(help="Pixels; by default the model's own size.")] = None,
    dtype: Dtype = "auto",
    batch: Annotated[int, typer.Option(help="Images of one forward, on each rank.")] = 64,
    device: Device = "auto",
    weights: Weights = [],  # noqa: B006  (typer copies it)
    option: Options = [],  # noqa: B006
) -> None:
    """Write the tokens of MODEL for every image, in the sorted order of the files; started again, it goes on.

    The file holds summary (N, D), patches (N, P, D), labels (N,) (-1 where there are none), index (N,) and names: the
    bytes of the files' names, a zero between two. An .npy holds the summary; F.patches.npy, F.labels.npy and
    F.names.json lie beside it. A .parquet has a row for each image.
    """
    from unicscale.evaluate import keeping
    from unicscale.evaluate.features import forms
    from unicscale.evaluate.features.shelf import Shelf
    from unicscale.evaluate.opening import open_subject
    from unicscale.evaluate.sets.loose import open_pictures

    keeping.refuse_unfit(out, *forms.SUFFIXES)
    forms.refuse_missing(out)
    settings, found = settings_of(size=size, dtype=dtype, batch=batch), open_pictures(images)
    with joined_on(device) as world:
        subject = open_subject(model, world.device, said_of_teachers(weights, option))
        Shelf(Path("."), Path("."), settings, world).write(subject, found, out, patches=patches)
        if world.main:
            typer.echo(f"{out}: {len(found):,} images of {images}, {subject.name}, {size or subject.size} pixels")


def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL + "; LABEL=MODEL names its column.")],
    data: Annotated[Path, typer.Option(help="The folder that holds the data sets.")],
    suite: Annotated[
        list[str],
        typer.Option(help="quick, dense, transfer, paper, zoo, own, or tasks: knn,ade20k,knn:FOLDER; repeatable."),
    ] = ["quick"],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Summary JSON; a folder of its name gets one JSON per task.")] = None,
    teachers: Annotated[bool, typer.Option("--teachers", help="Measure the teachers of each run too.")] = False,
    weights: Weights = [],  # noqa: B006
    option: Options = [],  # noqa: B006
    cache: Annotated[Path | None, typer.Option(help="Folder of extracted features.")] = None,
    beside: Annotated[str | None, typer.Option(help="Show a published model beside: unic_b, unic_l, ...")] = None,
    detail: Annotated[bool, typer.Option("--detail", help="Print every score, not only the headlines.")] = False,
    seed: Annotated[
        int, typer.Option(help="Draws splits, searches and resampling; the same number gives the same result.")
    ] = 22,
    limit: Annotated[int | None, typer.Option(help="Images per split, evenly over classes.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of classification; by default the model's own.")] = None,
    dense_size: Annotated[int, typer.Option(help="Pixels of segmentation and (at most 480) depth.")] = 512,
    dense_steps: Annotated[int, typer.Option(help="Steps of a dense head, 16 crops each.")] = 40_000,
    dense_lr: Annotated[float, typer.Option(help="Its learning rate; fewer steps want a higher one.")] = 1e-3,
    epochs: Annotated[int, typer.Option(help="Passes over the features, where SGD is used (large sets).")] = 100,
    search: Annotated[str, typer.Option(help="Hyper-parameters: grid or optuna.")] = "grid",
    trials: Annotated[int, typer.Option(help="Trials of Optuna, with --search optuna.")] = 40,
    dtype: Dtype = "auto",
    batch: Annotated[int, typer.Option(help="Images of one forward, on each rank.")] = 128,
    device: Device = "auto",
    over_checkpoints: Annotated[
        bool, typer.Option("--over-checkpoints", help="Every checkpoint that the RUN has kept: how the scores grew.")
    ] = False,
) -> None:
    """Measure models on the paper's tasks, with intervals, beside their teachers.

    Models written teacher:NAME count as teachers: the table ends with the relative gain over the best of them. What is
    already measured with the same weights, protocol and images is not measured again.
    """
    from unicscale.evaluate import keeping, opening, runner, session, suites
    from unicscale.evaluate.results import compare, course

    settings = settings_of(
        seed=seed, size=size, dtype=dtype, batch=batch, limit=limit, search=search, trials=trials, epochs=epochs,
        dense_size=dense_size, dense_steps=dense_steps, dense_lr=dense_lr,
    )  # fmt: skip
    if not data.is_dir():
        raise DataError(f"--data {data}: no such folder.")
    tasks, named, settings = suites.select(suite, settings, data)
    if beside:
        compare.paper(beside)
    given, title = said_of_teachers(weights, option), keeping.slug("+".join(suite).replace(",", "+"))
    outs = [out] if out else session.default_outs(models, title)
    if over_checkpoints and (len(models) > 1 or out or teachers):
        raise RecipeError("--over-checkpoints: one RUN, without --out and --teachers")
    if teachers:
        models, given = opening.with_teachers(models, given)
    asked = session.Asked(tasks, named, settings, data, cache, given)
    for each in [course.place(Path(models[0]), title)] if over_checkpoints else outs:
        keeping.refuse_unfit(each, ".json")
    with joined_on(device) as world:
        if over_checkpoints:
            outcome, place = session.over_checkpoints(models[0], asked, title, world)
            whole, outs = {}, [place]
        else:
            outcome, whole = session.measure(models, asked, outs, world, beside)
        if world.main:
            _show(outcome, whole, outs, detail)
            _tell(whole, outs)
        if outcome.stopped:
            kept = f"{len(outcome.results)} of its results"
            raise Interrupted(f"stopped ({outcome.stopped}): {kept} are kept; the same command measures the rest.")
    runner.complain(outcome, tasks, named, data)


def _show(outcome: Outcome, whole: dict[str, Any], outs: list[Path], detail: bool) -> None:
    from unicscale.evaluate.results import compare

    if whole:
        typer.echo(compare.text_table(whole, detail=detail))
    for place, why in outcome.left_out.items():
        typer.echo(f"not asked: {place}: {why}")
    if outcome.missing:
        typer.echo("\nmissing data sets:")
        for text in outcome.missing.values():
            typer.echo("\n".join(f"  {line}" for line in text.splitlines()))
    if outcome.results:
        typer.echo("\n" + "\n".join(map(str, outs)))


def _tell(whole: dict[str, Any], outs: list[Path]) -> None:
    """Whoever heard of the training hears of this too, where it was written into the run."""
    from unicscale.evaluate.results import compare
    from unicscale.report.story import scores_of
    from unicscale.run.folder import RunFolder
    from unicscale.run.mirrors import Shown
    from unicscale.run.showing import show

    for out in outs if whole else ():
        run = RunFolder(out.parent.parent)
        if out.parent == run.evaluation and run.facts.exists():
            (_, *heads), *rows = compare.rows_of(whole)
            own = scores_of({out.stem: whole}, run.root.resolve().name)
            numbers = {score: row["value"] for score, row in own.items()}
            show(run, [Shown(f"evaluation/{out.stem}", [["score", *heads], *rows], numbers)])


@contextmanager
def joined_on(device: str) -> Iterator[World]:
    """The process group, if there is one, for as long as the measuring lasts; rank 0 speaks."""
    from unicscale.ranks.stop import Now
    from unicscale.ranks.voice import close_voice, open_voice
    from unicscale.ranks.world import joined
    from unicscale.recipe.sections import EngineSection

    if device not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"--device {device}: auto, cpu or cuda")
    with joined(EngineSection.model_validate({"device": device})) as world:
        open_voice(None, world.rank, speaks=world.main)
        world.stop.at_once = True
        try:
            yield world
        except Now as asked:
            raise Interrupted(f"stopped ({asked}); the same command goes on from what is kept.") from None
        finally:
            close_voice()


def settings_of(**values: Any) -> Settings:
    """Checked as a recipe's section would be; the message names the option."""
    from pydantic import ValidationError

    from unicscale.evaluate.terms import Settings

    try:
        return Settings(**values)
    except ValidationError as problem:
        wrong = problem.errors()[0]
        option = str(wrong["loc"][0]).replace("_", "-")
        raise RecipeError(f"--{option} {wrong['input']}: {wrong['msg'].lower()}") from None


def said_of_teachers(weights: list[str], options: list[str]) -> dict[str, dict[str, Any]]:
    """What the command line says of teachers, as sections of a recipe."""
    import yaml

    given: dict[str, dict[str, Any]] = {}
    for text in weights:
        name, found, file = text.partition("=")
        if not found:
            raise RecipeError(f"--weights {text}: NAME=FILE")
        given.setdefault(name, {})["weights"] = file
    for text in options:
        where, found, value = text.partition("=")
        name, dot, key = where.rpartition(".")
        if not (found and dot):
            raise RecipeError(f"--option {text}: NAME.KEY=VALUE")
        given.setdefault(name, {})[key] = yaml.safe_load(value)
    return given
