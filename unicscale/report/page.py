"""The page: one file that asks nobody for anything, to be opened, mailed or put on a server as it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from html import escape
from importlib.resources import files
from pathlib import Path

from unicscale.errors import CheckpointError
from unicscale.ranks.terminal import plain
from unicscale.report import pictures
from unicscale.report.figures import Drawn, draw_all
from unicscale.report.story import Story, differing, name_apart
from unicscale.report.table import Rows, best_of, comparison, licences, results, said
from unicscale.run.folder import write_whole
from unicscale.run.states import State

RECIPES = 60  # that are written out; of more runs, what they do differently is told
LAUNCHES = 200  # of a run, the last ones


def write(stories: Sequence[Story], out: Path) -> Path:
    """Figures first, then the page that shows them; returns the page."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        drawings = draw_all(stories, name_apart(stories), out)
        pictures.write(stories, out)
        write_whole(out / "index.html", _page(stories, drawings))
    except OSError as problem:
        raise CheckpointError(f"{out} cannot be written: {problem.strerror}.\n  Choose another with --out.") from None
    return out / "index.html"


def _page(stories: Sequence[Story], drawings: Sequence[Drawn]) -> str:
    names = name_apart(stories)
    title = names[0] if len(stories) == 1 else f"{len(stories)} runs"
    style = files("unicscale.report").joinpath("page.css").read_text()
    sections = [
        ("Results", [*_differences(stories, names), *_results(stories)]),
        ("Pictures", [*pictures.shown(stories, names)]),
        ("Curves", [_figure(drawn) for drawn in drawings]),
        (
            "Runs" if len(stories) > 1 else "The run",
            [part for story, name in zip(stories, names, strict=True) for part in _run(story, name, len(stories))],
        ),
    ]
    sections = [(name, parts) for name, parts in sections if any(parts)]
    stand = comparison(stories)
    links = "".join(f"<a href='#{_anchor(name)}'>{name}</a>" for name, _ in sections)
    body = [
        f"<h1>{shown(title)}</h1>",
        f"<p class=quiet>As it stood on {time.strftime('%Y-%m-%d at %H:%M')}.</p>",
        f"<nav aria-label='On this page'>{links}</nav>",
        *_remarks(stories, names),
        _table(stand, "Where the runs stand" if len(stories) > 1 else "The run", best=best_of(stand, stories)),
        "<p class=quiet>Loss: mean of the last five records of the last stage. Images/s: median of that stage. "
        "Dotted lines: the first record of a new stage.</p>",
        *(f"<section id='{_anchor(name)}'>\n" + "\n".join(parts) + "\n</section>" for name, parts in sections),
        "<p class=quiet>The figures lie beside this page as PNG and SVG.</p>",
    ]
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<link rel=icon href='data:,'><title>{shown(title)}</title>"
    )
    return (
        f"<!doctype html>\n<html lang=en><head>{head}<style>\n{style}</style></head><body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


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
        rows = [["", *names], *([key, *map(said, values)] for key, values in changed.items())]
        if len(names) > len(changed):  # many runs, few keys: a row each is easier to read
            rows = [list(row) for row in zip(*rows, strict=True)]
        yield _table(rows, "What the recipes do differently", numbers=False)


def _results(stories: Sequence[Story]) -> Iterator[str]:
    for title, measured in results(stories).items():
        yield f"<h2>Results: {shown(title)}</h2>"
        if len(stories) == 1:
            yield "".join(f"<p>{shown(text)}</p>" for text in stories[0].results[title].get("story", []))
        yield _table(measured.rows, f"Results: {title}", best=measured.best)
        remarks = ["The best of each row is marked."] if measured.best else []
        if any(story.results.get(title, {}).get("synthetic") for story in stories):
            remarks.append("Synthetic scenes: drawn by a program, no photographs. Depth: lower is better.")
        yield f"<p class=quiet>{' '.join(remarks)}</p>" if remarks else ""
        for one in stories[0].results[title].get("beside", []) if len(stories) == 1 else ():
            yield f"<h2>{shown(one['title'])}</h2>{_table(one['rows'], one['title'])}"
            yield f"<p class=quiet>{shown(one.get('says', ''))}</p>"


def _figure(drawn: Drawn) -> str:
    kind, finding = drawn.kind, drawn.finding
    said = f"{kind.title}. {finding or kind.says}"
    both = "".join(
        f"<div class={size}>{picture.replace('<svg ', f'<svg role=img aria-label={_quoted(said)} ', 1)}</div>"
        for size, picture in (("wide", drawn.wide), ("narrow", drawn.narrow))
    )
    caption = f"<b>{shown(finding)}</b> {shown(kind.says)}" if finding else shown(kind.says)
    return f"<figure class={kind.file}><h2>{shown(kind.title)}</h2>{both}<figcaption>{caption}</figcaption></figure>"


def _quoted(text: str) -> str:
    return f'"{shown(text)}"'


def _run(story: Story, name: str, count: int) -> Iterator[str]:
    """Launches, teachers, versions and the recipe of one run of so many."""
    alone = count == 1
    if not alone:
        yield f"<h2>{shown(name)}</h2>"
    launches = story.facts.get("launches", [])
    rows = [["launch", "began", "from step", "ranks", "where", "job", "ended", "at step"]]
    for number, launch in list(enumerate(launches, start=1))[-LAUNCHES:]:
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
        yield _table(rows, f"Launches of {name}")
    if alone and story.teachers:
        yield "<h2>Teachers</h2>"
        yield _table([["teacher", "plug-in", "licence"], *licences(story)], "Teachers", numbers=False)
    versions = story.facts.get("versions", {})
    if versions:
        yield f"<p class=quiet>{shown(', '.join(f'{package} {version}' for package, version in versions.items()))}</p>"
    if story.folder.recipe.exists() and count <= RECIPES:
        text = story.folder.recipe.read_text(errors="replace")
        yield f"<details><summary>recipe.yaml</summary><pre tabindex=0>{shown(text)}</pre></details>"


def _table(rows: Rows, says: str, *, numbers: bool = True, best: Set[tuple[int, int]] = frozenset()) -> str:
    """Numbers to the right, words to the left; wide ones scroll by themselves, by keyboard too."""
    right = [
        numbers and len(rows) > 1 and all(_is_number(row[n]) for row in rows[1:] if row[n]) for n in range(len(rows[0]))
    ]
    head = "".join(f"<th scope=col{_classes(right[n])}>{shown(text)}</th>" for n, text in enumerate(rows[0]))
    lines = []
    for place, row in enumerate(rows[1:], start=1):
        first, *rest = row
        cells = [f"<th scope=row>{shown(first)}</th>"]
        for n, text in enumerate(rest, start=1):
            classes = _classes(numbers and _is_number(text), (place, n) in best)
            cells.append(f"<td{classes}>{shown(text)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f"<div class=scroll tabindex=0 role=region aria-label={_quoted(says)}>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _classes(number: bool, best: bool = False) -> str:
    held = ["number"] * number + ["best"] * best
    return f" class='{' '.join(held)}'" if held else ""


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or (text[:1] in "+-" and text[1:2].isdigit()) or text == "-"
