"""Commands: features, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unicscale.errors import DataError, RecipeError

if TYPE_CHECKING:
    from unicscale.evaluate.runner import Outcome
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
    images: Annotated[Path, typer.Argument(help="A folder of images or a .beton.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    patches: Annotated[bool, typer.Option(help="Patch tokens too, not only the summary.")] = True,
    size: Annotated[int | None, typer.Option(help="Pixels; by default the model's own size.")] = None,
    dtype: Dtype = "auto",
    batch: Annotated[int, typer.Option(help="Images per forward and rank.")] = 64,
    device: Device = "auto",
    weights: Weights = [],  # noqa: B006  (typer copies it)
    option: Options = [],  # noqa: B006
) -> None:
    """Write the tokens of MODEL for every image, in the sorted order of the files.

    The file holds summary (N, D), patches (N, P, D), labels (N,) (-1 where there are none) and index (N,).
    """
    from unicscale.data.sets.images import open_images
    from unicscale.evaluate.features import shelf as shelves
    from unicscale.evaluate.opening import open_subject

    world, settings = _world(device), _settings(size=size, dtype=dtype, batch=batch)
    found = open_images(str(images))
    subject = open_subject(model, world.device, _given(weights, option))
    shelf = shelves.Shelf(Path("."), Path("."), settings, world)
    shelf.write(subject, found, out, patches=patches)
    if world.main:
        typer.echo(f"{out}: {len(found):,} images of {images}, {subject.name}, {size or subject.size} pixels")
    world.close()


def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL + "; LABEL=MODEL names its column.")],
    data: Annotated[Path, typer.Option(help="The folder that holds the data sets.")],
    suite: Annotated[
        list[str], typer.Option(help="quick, dense, transfer, paper, or tasks such as knn,ade20k; repeatable.")
    ] = ["quick"],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Summary JSON; a folder of its name gets one JSON per task.")] = None,
    teachers: Annotated[bool, typer.Option("--teachers", help="Measure the teachers of each run too.")] = False,
    weights: Weights = [],  # noqa: B006
    option: Options = [],  # noqa: B006
    cache: Annotated[Path | None, typer.Option(help="Folder of extracted features.")] = None,
    beside: Annotated[str | None, typer.Option(help="Show a published model beside: unic_b, unic_l, ...")] = None,
    detail: Annotated[bool, typer.Option("--detail", help="Print every score, not only the headlines.")] = False,
    seed: Annotated[int, typer.Option(help="Of splits, searches and resampling.")] = 22,
    limit: Annotated[int | None, typer.Option(help="Images per split, evenly over classes.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of classification; by default the model's own.")] = None,
    dense_size: Annotated[int, typer.Option(help="Pixels of segmentation and (at most 480) depth.")] = 512,
    dense_steps: Annotated[int, typer.Option(help="Steps of a dense head, 16 crops each.")] = 40_000,
    epochs: Annotated[int, typer.Option(help="Of SGD on large sets.")] = 100,
    search: Annotated[str, typer.Option(help="Hyper-parameters: grid or optuna.")] = "grid",
    trials: Annotated[int, typer.Option(help="Of Optuna.")] = 40,
    dtype: Dtype = "auto",
    batch: Annotated[int, typer.Option(help="Images per forward and rank.")] = 128,
    device: Device = "auto",
) -> None:
    """Measure models on the paper's tasks, with intervals, beside their teachers.

    Models written teacher:NAME count as teachers: the table ends with the relative gain over the best of them. What is
    already measured with the same weights, protocol and images is not measured again.
    """
    from unicscale.evaluate import opening, runner, suites
    from unicscale.evaluate.features.shelf import Shelf
    from unicscale.evaluate.results import compare

    settings = _settings(
        seed=seed, size=size, dtype=dtype, batch=batch, limit=limit, search=search, trials=trials, epochs=epochs,
        dense_size=dense_size, dense_steps=dense_steps,
    )  # fmt: skip
    tasks, named, settings = suites.select(suite, settings)
    if beside:
        compare.paper(beside)
    if not data.is_dir():
        raise DataError(f"--data {data}: no such folder.")
    world, given = _world(device), _given(weights, option)
    if teachers:
        models, given = opening.with_teachers(models, given)
    out = out or _default_out(models[0], suite)
    subjects = [opening.open_subject(model, world.device, given) for model in models]
    names = [one.name for one in subjects]
    if len(set(names)) < len(names):
        raise RecipeError(f"two models would share a column: {', '.join(names)}. Name them: LABEL=MODEL")
    shelf = Shelf(data, cache or out.parent / "features", settings, world)
    outcome = runner.run_all(subjects, tasks, shelf, out.with_suffix(""))
    if world.main:
        runner.finish(outcome, out, beside=beside)
        _show(outcome, out, beside, detail)
    world.close()
    runner.complain(outcome, tasks, named, data)


def _show(outcome: Outcome, out: Path, beside: str | None, detail: bool) -> None:
    from unicscale.evaluate.results import compare

    if outcome.results:
        whole = compare.summary(outcome.results.values(), beside)
        typer.echo(compare.text_table(whole, detail=detail))
    for place, why in outcome.left_out.items():
        typer.echo(f"not asked: {place}: {why}")
    if outcome.missing:
        typer.echo("\nmissing data sets:")
        for text in outcome.missing.values():
            typer.echo("\n".join(f"  {line}" for line in text.splitlines()))
    if outcome.results:
        typer.echo(f"\n{out}")


def _world(device: str) -> World:
    from unicscale.ranks.voice import open_voice
    from unicscale.ranks.world import World
    from unicscale.recipe.sections import EngineSection

    if device not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"--device {device}: auto, cpu or cuda")
    world = World.start(EngineSection.model_validate({"device": device}))
    open_voice(None, world.rank, speaks=world.main)
    return world


def _settings(**values: Any) -> Any:
    from unicscale.evaluate.terms import Settings

    choices = {"dtype": ("auto", "fp32", "bf16", "fp16"), "search": ("grid", "optuna")}
    for name, allowed in choices.items():
        if name in values and values[name] not in allowed:
            raise RecipeError(f"--{name} {values[name]}: one of {', '.join(allowed)}")
    for name in ("size", "batch", "limit", "trials", "epochs", "dense_size", "dense_steps"):
        if values.get(name) is not None and values.get(name, 1) < 1:
            raise RecipeError(f"--{name.replace('_', '-')} {values[name]}: at least 1")
    return Settings(**values)


def _given(weights: list[str], options: list[str]) -> dict[str, dict[str, Any]]:
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


def _default_out(model: str, suite: list[str]) -> Path:
    name = "+".join(suite).replace(",", "+") + ".json"
    run = Path(model.partition("=")[2] or model)
    run = run if run.exists() else Path(str(run).rpartition("@")[0])  # RUN@STAGE
    return run / "evaluation" / name if (run / "recipe.yaml").is_file() else Path("evaluation") / name
