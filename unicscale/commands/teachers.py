"""Commands: teachers list|show|check|fetch|stats|compare|new."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unicscale.commands.compare import compare
from unicscale.run.columns import columns

if TYPE_CHECKING:
    from unicscale.teacher.described import Described

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="An installed teacher (`list` shows them), or ./file.py:Class.")
]
Settings = Annotated[list[str] | None, typer.Argument(metavar="[a=b]...", help="Its options: size=large text=true")]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", help="A path, a URL, hf:ORG/REPO or timm:ID, instead of the official file."),
]

commands = typer.Typer(help="The frozen encoders one can learn from.", no_args_is_help=True)
commands.command()(compare)


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.add_typer(commands, name="teachers")


@commands.command("list")
def list_() -> None:
    """Every installed teacher, and whether its weights are here; imports none of them."""
    from unicscale.teacher.cards import card
    from unicscale.teacher.finding import listing

    rows = [("NAME", "FROM", "SIZES", "LICENCE", "WEIGHTS HERE")]
    for listed in listing():
        known = card(listed)
        here = "in the package" if known.bundled else " ".join(known.present) or ("none" if known.files else "-")
        origin = f"{listed.distribution} {listed.version}"
        rows.append((listed.name, origin, " ".join(known.files) or "-", known.licence or "-", here))
    print("\n".join(columns(rows)))


@commands.command()
def show(name: Name, settings: Settings = None) -> None:
    """What a teacher is and which options it takes."""
    from unicscale.recipe.sections import TeacherSection
    from unicscale.teacher.described import describe
    from unicscale.teacher.finding import find, is_adapter, select

    plugin, listed = find(name), None if is_adapter(name) else select(name)
    fields = plugin.Options.model_fields
    print(f"{name}: {(type(plugin).__doc__ or 'a teacher').strip().splitlines()[0]}")
    origin = f"{listed.distribution} {listed.version} ({listed.target})" if listed else "that file"
    print(f"  {'from':<14} {origin}")
    asked = [key for key, field in fields.items() if field.is_required()]
    if asked and not settings:
        print(f"  {'the rest':<14} depends on what you say: `unicscale teachers show {name} {asked[0]}=...`")
    else:
        for label, value in _facts(describe(name, TeacherSection.model_validate(parse(settings)))).items():
            print(f"  {label:<14} {value}")
    print("options" if fields else "no options of its own")
    for key, field in fields.items():
        default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)}"
        print(f"  {key}: {_kinds(field.annotation)} ({default})")
        if field.description:
            print(f"      {field.description}")


def _facts(described: Described) -> dict[str, str]:
    spec = described.spec
    return {
        "tokens": f"{described.widths.said}, one per {spec.patch}×{spec.patch} pixels",
        "native size": f"{spec.size} pixels" + (", no other" if spec.fixed_size else ""),
        "normalisation": f"mean {_numbers(spec.mean)}, deviation {_numbers(spec.std)}"
        + (", blue first" if spec.blue_first else ""),
        "licence": spec.licence,
        "citation": spec.citation or "-",
        "weights": _weights(described),
    }


@commands.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME|RECIPE", help="One teacher, or all that a recipe names.")],
    settings: Settings = None,
    weights: WeightsOption = None,
) -> None:
    """Bring official weights into the cache ($UNICSCALE_CACHE); run it where there is a network."""
    from unicscale.recipe.secrets import without_secrets
    from unicscale.recipe.sections import TeacherSection
    from unicscale.teacher.described import describe
    from unicscale.teacher.fetch import fetch as bring

    if name.endswith((".yaml", ".yml")):
        from unicscale.recipe import load

        sections = load(name, settings or []).teachers
    else:
        sections = {name: TeacherSection.model_validate({**parse(settings), "weights": weights or "auto"})}
    for each, section in sections.items():
        described = describe(each, section)
        file = described.file
        if file is None or file.url is None:
            said = "its own" if described.brings_its_own else section.weights
            print(f"{each}: nothing to fetch (weights: {said})")
            continue
        state = "fetched" if bring(file, each) else "was here"
        print(f"{each}: {state}: {file.path}\n  {described.spec.licence}; from {without_secrets(file.url)}")


@commands.command()
def check(name: Name, settings: Settings = None, weights: WeightsOption = None) -> None:
    """Run the contract of unicscale.testing on a teacher, in a process of its own."""
    from unicscale.errors import TeacherError
    from unicscale.recipe.sections import TeacherSection
    from unicscale.teacher.described import describe
    from unicscale.teacher.finding import find, is_adapter

    name = _absolute(name) if is_adapter(name) else name
    given = parse(settings)
    plugin = find(name)  # what cannot even be imported, or described, is said and not drowned in a test log
    describe(name, TeacherSection.model_validate(given or plugin.small or {}))
    if importlib.util.find_spec("pytest") is None:
        raise TeacherError("the contract is a pytest class: `pip install pytest` first.")
    test = (
        "from unicscale.testing import TeacherContract\n\n\n"
        f"class TestContract(TeacherContract):\n"
        f"    teacher = {name!r}\n    options = {given or None!r}\n    weights = {weights and _absolute(weights)!r}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test_contract.py"
        file.write_text(test)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-v",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            str(file),
        ]
        ended = subprocess.run([*command, f"--rootdir={folder}"], cwd=folder)
    if ended.returncode:
        raise TeacherError(f"'{name}' breaks the contract: see above. docs/teacher.md says what each point asks for.")
    print(f"{name}: keeps the contract")


@commands.command()
def stats(
    name: Annotated[str, typer.Argument(metavar="NAME|RECIPE", help="One teacher, or all that a recipe names.")],
    images: Annotated[Path, typer.Argument(help="A folder of images or a .beton.")],
    settings: Settings = None,
    weights: WeightsOption = None,
    out: Annotated[Path | None, typer.Option(help="A safetensors file for `standardize: {kind: file}`.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels; by default each teacher's native size.")] = None,
    limit: Annotated[int | None, typer.Option(help="No more images than this.")] = None,
    batch: Annotated[int, typer.Option(help="Images per forward.")] = 32,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Mean norm and deviations of a teacher's tokens on a data set; --out saves what standardises by them."""
    from unicscale.data.once import open_eval
    from unicscale.objective import statistics
    from unicscale.recipe.sections import TeacherSection
    from unicscale.teacher.frozen import open_frozen

    if name.endswith((".yaml", ".yml")):
        from unicscale.recipe import load

        sections = load(name, settings or []).teachers
    else:
        sections = {name: TeacherSection.model_validate({**parse(settings), "weights": weights or "auto"})}
    found = {}
    for each, section in sections.items():
        teacher = open_frozen(each, section, device)
        pixels = open_eval(str(images), size=size or teacher.spec.size, device=device, batch=batch, limit=limit)
        found[each] = statistics.estimate(teacher(part) for part, _, _ in pixels)
    print(statistics.table(found))
    if out is not None:
        statistics.save(out, found)
        print(f"{out}: write `standardize: {{kind: file, path: {out}}}` into the recipe")


@commands.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As recipes will call it, for example my_teacher.")],
    out: Annotated[Path, typer.Option(help="The folder in which its distribution is laid down.")] = Path("."),
) -> None:
    """Lay down the distribution of a new teacher: adapter, contract test, pyproject, README."""
    from unicscale.teacher.scaffold import scaffold

    folder = scaffold(name, out)
    print(f"{folder}\n  pip install -e {folder} && python -m pytest {folder}")


def parse(settings: list[str] | None) -> dict[str, Any]:
    """`size=large text=true` as the recipe would say it."""
    import yaml

    from unicscale.errors import RecipeError

    given: dict[str, Any] = {}
    for text in settings or []:
        key, equals, raw = text.partition("=")
        if not equals or not key:
            raise RecipeError(f"'{text}' is not an option. Write KEY=VALUE, for example size=large.")
        given[key] = yaml.safe_load(raw)
    return given


def _absolute(weights: str) -> str:
    from unicscale.teacher.files import REMOTE

    elsewhere = weights.startswith(REMOTE) or weights == "random"
    return weights if elsewhere else str(Path(os.path.expanduser(weights)).resolve())


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _kinds(annotation: Any) -> str:
    """What an option takes, as a person would write it."""
    from typing import get_args, get_origin

    from pydantic import BaseModel

    from unicscale.teacher.options import literals

    if literals(annotation):
        others = [part for part in get_args(annotation) if get_origin(part) is None and isinstance(part, type)]
        return " | ".join([*literals(annotation), *(_kinds(part) for part in others)])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "{" + ", ".join(annotation.model_fields) + "}"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _weights(described: Described) -> str:
    from unicscale.errors import TeacherError
    from unicscale.recipe.secrets import without_secrets

    try:
        file = described.file
    except TeacherError:
        return "no official file in this form: say `weights: PATH`"
    if file is None:
        return "its own"
    if file.url is None:
        return f"in the package: {file.path.name}"
    here = (
        f"here: {file.path}" if file.present else f"not here; `unicscale teachers fetch {described.name}` brings them"
    )
    return f"{here} (from {without_secrets(file.url)})"
