"""The page: index.html and its figures in one folder, to be opened, mailed or put on a server as it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from unicscale.errors import CheckpointError
from unicscale.ranks.terminal import plain
from unicscale.report.figures import draw_all
from unicscale.report.story import Story, differing, name_apart
from unicscale.report.table import Rows, comparison, results, said
from unicscale.run.folder import write_whole
from unicscale.run.states import State


def write(stories: Sequence[Story], out: Path) -> Path:
    """Figures first, then the page that shows them; returns the page."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        drawings = draw_all(stories, name_apart(stories), out)
        figures = [_figure(drawing.file, drawing.title, drawing.says) for drawing in drawings]
        write_whole(out / "index.html", _page(stories, figures))
    except OSError as problem:
        raise CheckpointError(f"{out} cannot be written: {problem.strerror}.\n  Choose another with --out.") from None
    return out / "index.html"


def _page(stories: Sequence[Story], figures: list[str]) -> str:
    names = name_apart(stories)
    title = names[0] if len(stories) == 1 else f"{len(stories)} runs"
    style = files("unicscale.report").joinpath("page.css").read_text()
    body = [
        f"<h1>{shown(title)}</h1>",
        f"<p class=quiet>As it stood on {time.strftime('%Y-%m-%d at %H:%M')}.</p>",
        *_remarks(stories, names),
        _table(comparison(stories)),
        "<p class=quiet>Loss: mean of the last five records of the last stage. Images/s: median of that stage. "
        "Dotted lines: the first record of a new stage.</p>",
        *_differences(stories, names),
        *_results(stories),
        *figures,
        *(
            part
            for story, name in zip(stories, names, strict=True)
            for part in _run(story, name, alone=len(stories) == 1)
        ),
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{shown(title)}</title>"
    return (
        f"<!doctype html>\n<html lang=en><head>{head}<style>\n{style}</style></head><body>\n" + "\n".join(body) + "\n"
    )


def shown(text: str) -> str:
    """Text of others on the page: neither tags nor characters that a terminal or an editor would obey."""
    return escape(plain(text))


def _remarks(stories: Sequence[Story], names: Sequence[str]) -> list[str]:
    """What a reader must know before believing a curve."""
    found = []
    for story, name in zip(stories, names, strict=True):
        found += [f"{name}: {line}" for line in story.left_out]
        if story.status.why and story.status.state in (State.FAILED, State.STOPPED):
            found.append(f"{name} {story.status.state}: {story.status.why}")
        if not story.steps:
            found.append(f"{name} has logged no step yet.")
        if story.skipped:
            found.append(f"{name}: {story.skipped} steps moved nothing, because a gradient was not finite.")
        if story.unmeasured:
            found.append(f"{name}: {story.unmeasured} evaluations were left out; the log says which image was damaged.")
        if story.course.replayed:
            found.append(
                f"{name}: {story.course.replayed} logged steps were done again by a later launch; the later are shown."
            )
        if story.course.torn:
            found.append(f"{name}: {story.course.torn} lines of metrics.jsonl cannot be read and are left out.")
    if _differ(stories, "standardize."):
        found.append("The runs standardise their targets differently: their losses measure different things.")
    elif _differ(stories, "loss.balance."):
        found.append(
            "The runs weigh their teachers differently, and so the sum of their losses: "
            "compare the loss of each teacher, or the validation."
        )
    return [f"<ul class=remarks>{''.join(f'<li>{shown(text)}</li>' for text in found)}</ul>"] if found else []


def _differ(stories: Sequence[Story], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in differing(stories))


def _differences(stories: Sequence[Story], names: Sequence[str]) -> Iterator[str]:
    changed = differing(stories)
    if changed:
        yield "<h2>What the recipes do differently</h2>"
        yield _table([["", *names], *([key, *map(said, values)] for key, values in changed.items())], numbers=False)


def _results(stories: Sequence[Story]) -> Iterator[str]:
    for title, rows in results(stories).items():
        yield f"<h2>Results: {shown(title)}</h2>"
        yield _table(rows)
        if any(story.results.get(title, {}).get("synthetic") for story in stories):
            yield "<p class=quiet>Synthetic scenes: drawn by a program, no photographs. Depth: lower is better.</p>"


def _figure(file: str, title: str, says: str) -> str:
    return (
        f"<figure><h2>{shown(title)}</h2><img src='{shown(file)}' alt='{shown(title)}'>"
        f"<figcaption>{shown(says)}</figcaption></figure>"
    )


def _run(story: Story, name: str, *, alone: bool) -> Iterator[str]:
    """Launches, versions and the recipe of one run."""
    if not alone:
        yield f"<h2>{shown(name)}</h2>"
    launches = story.facts.get("launches", [])
    rows = [["launch", "began", "from step", "ranks", "where", "job", "ended", "at step"]]
    for number, launch in enumerate(launches, start=1):
        ended = launch.get("ended", {})
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(launch.get("time", 0)))
        where = launch.get("nodes") or launch.get("host") or ""
        facts = (
            began,
            launch.get("step"),
            launch.get("ranks"),
            where,
            launch.get("job"),
            ended.get("reason"),
            ended.get("step"),
        )
        rows.append([str(number), *("" if fact is None else str(fact) for fact in facts)])
    if launches:
        yield "<h2>Launches</h2>" if alone else ""
        yield _table(rows)
    versions = story.facts.get("versions", {})
    if versions:
        yield f"<p class=quiet>{shown(', '.join(f'{package} {version}' for package, version in versions.items()))}</p>"
    if story.folder.recipe.exists():
        text = story.folder.recipe.read_text(errors="replace")
        yield f"<details><summary>recipe.yaml</summary><pre>{shown(text)}</pre></details>"


def _table(rows: Rows, *, numbers: bool = True) -> str:
    """Numbers to the right, words to the left; wide ones scroll by themselves."""
    head = "".join(f"<th>{shown(text)}</th>" for text in rows[0])
    lines = ["".join(f"<td{_side(text) if numbers else ''}>{shown(text)}</td>" for text in row) for row in rows[1:]]
    return f"<div class=scroll><table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>"


def _side(text: str) -> str:
    return " class=number" if text[:1].isdigit() or (text[:1] in "+-" and text[1:2].isdigit()) else ""
