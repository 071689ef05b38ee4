"""What is to be seen in each figure, in a sentence: its caption, and all that a screen reader has of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from unicscale.report.curves import short
from unicscale.report.story import Story, measured
from unicscale.report.table import number

Stories = Sequence[Story]
Names = Sequence[str]


def nothing(stories: Stories, names: Names) -> str:
    """Where a figure has to speak for itself."""
    return ""


def loss(stories: Stories, names: Names) -> str:
    """How far it fell; of several runs, whose is the lowest."""
    if len(stories) > 1:
        return _extremes("loss at the end", _by_run(stories, names, lambda s: s.at_the_end("loss")), higher=False)
    [story] = stories
    first, last = (story.steps[0].get("loss"), story.at_the_end("loss")) if story.steps else (None, None)
    if first is None or last is None:
        return ""
    ends = {t: story.at_the_end(f"loss/{t}") for t in story.teachers}
    each = ", ".join(f"{name} {number(value)}" for name, value in ends.items() if value is not None)
    moved = "fell" if last < first else "rose"
    return f"The loss {moved} from {number(first)} to {number(last)} over {_images(story)} images" + (
        f"; at the end: {each}." if each else "."
    )


def parts(stories: Stories, names: Names) -> str:
    """Which tokens of which teacher are hardest."""
    if len(stories) > 1:
        return ""
    [story] = stories
    said = {"cls": "the summary", "patch": "the patches"}
    ends = {f"{word} of {t}": story.at_the_end(f"loss/{t}/{p}") for t in story.teachers for p, word in said.items()}
    return _extremes("loss at the end", _known(ends), higher=False)


def validation(stories: Stories, names: Names) -> str:
    """The last measurement of each kind, or who has the best."""
    found = []
    for term in measured(stories):
        label = term.removeprefix("val/")
        values = _by_run(stories, names, lambda s, term=term: s.validated(term))
        if len(stories) == 1 and values:
            found.append(f"{label} {number(next(iter(values.values())))}")
        elif len(values) > 1:
            found.append(_extremes(label, values, higher="loss" not in label).rstrip("."))
    return f"{'Last measured: ' if len(stories) == 1 else ''}{'; '.join(found)}." if found else ""


def keep(stories: Stories, names: Names) -> str:
    """How much each teacher taught on the average."""
    found = []
    for name, story in zip(names, stories, strict=True):
        shares = {t: [r[f"keep/{t}"] for r in story.steps if f"keep/{t}" in r] for t in story.teachers}
        means = {t: statistics.fmean(held) for t, held in shares.items() if held}
        if means and min(means.values()) < 1:
            each = ", ".join(f"{t} {100 * mean:.0f} %" for t, mean in means.items())
            found.append(f"{name}: {each}" if len(stories) > 1 else each)
    return f"Images taught on the average: {'; '.join(found[:4])}." if found else ""


def course(stories: Stories, names: Names) -> str:
    """Pace, and whether anything went wrong."""
    if len(stories) > 1:
        paces = _by_run(stories, names, lambda s: s.pace)
        return _extremes("pace in images/s", paces, higher=True)
    [story] = stories
    norms = [r["grad_norm"] for r in story.steps if "grad_norm" in r]
    said = [f"the median pace is {short(story.pace)} images/s"] if story.pace is not None else []
    if norms:
        said.append(f"the median gradient norm {number(statistics.median(norms))}, the largest {number(max(norms))}")
    said += [f"{story.skipped} steps were skipped"] if story.skipped else []
    return _sentence(", ".join(said))


def launches(stories: Stories, names: Names) -> str:
    """How many, and how long nobody was at work."""
    found = []
    for name, story in zip(names, stories, strict=True):
        count = len(story.facts.get("launches", []))
        times = [r["time"] for r in story.steps if "time" in r]
        if count > 1 and times:
            whole = (max(times) - min(times)) / 3600
            label = f"{name}: " if len(stories) > 1 else ""
            found.append(f"{label}{count} launches, {story.hours:.1f} hours of work in {whole:.1f} hours")
    return _sentence("; ".join(found[:4]))


def radar(stories: Stories, names: Names) -> str:
    """Where a student gains most, and where it loses most."""
    found = []
    for name, story in zip(names, stories, strict=True):
        over = {k: s["gain"] for k, s in story.scores.items() if "gain" in s}
        if over:
            best, least = max(over, key=lambda k: over[k]), min(over, key=lambda k: over[k])
            label = f"{name}: " if len(stories) > 1 else ""
            found.append(f"{label}best on {best} ({over[best]:+.1f} %), worst on {least} ({over[least]:+.1f} %)")
    return f"Against the best teacher of each task, {'; '.join(found[:4])}." if found else ""


def pairs(stories: Stories, names: Names) -> str:
    """How many runs there are to compare."""
    return f"{sum(bool(story.scores) for story in stories)} runs that were evaluated."


def spare(stories: Stories, names: Names) -> str:
    """What is left of the student when half of its weights are gone."""
    found = []
    for name, story in zip(names, stories, strict=True):
        change = story.scores.get("prune/50%/change")
        if change is not None:
            found.append(f"{name} {change['value']:+.1f} %")
    return f"With half of the weights pruned: {', '.join(found[:6])}." if found else ""


def time(stories: Stories, names: Names) -> str:
    """What takes most of a step."""
    found = []
    for name, story in zip(names, stories, strict=True):
        held: dict[str, float] = {}
        for record in story.steps[1:]:
            for term, value in record.items():
                if term.startswith("time/"):
                    held[term[5:]] = held.get(term[5:], 0.0) + value
        total = sum(held.values())
        if total > 0:
            top = sorted(held, key=lambda phase: -held[phase])[:3]
            each = ", ".join(f"{phase} {100 * held[phase] / total:.0f} %" for phase in top)
            found.append(f"{name}: {each}" if len(stories) > 1 else each)
    return f"Most of a step goes to {'; '.join(found[:4])}." if found else ""


def _by_run(stories: Stories, names: Names, value: object) -> dict[str, float]:
    read: dict[str, float | None] = {n: value(s) for n, s in zip(names, stories, strict=True)}  # type: ignore[operator]
    return _known(read)


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _extremes(what: str, values: Mapping[str, float], *, higher: bool) -> str:
    if len(set(values.values())) < 2:
        return ""
    best, last = (how(values, key=lambda n: values[n]) for how in ((max, min) if higher else (min, max)))
    first, second = ("Highest", "lowest") if higher else ("Lowest", "highest")
    return f"{first} {what}: {best} ({number(values[best])}); {second}: {last} ({number(values[last])})."


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _images(story: Story) -> str:
    return short(story.steps[-1]["images"])
