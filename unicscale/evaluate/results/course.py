"""A run's scores over its kept checkpoints, as a file that a figure can be drawn from; nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = "course"  # below evaluation/


def place(run: Path, suite: str) -> Path:
    """Where the course of a suite lies; each checkpoint's own results are in the folder of its name."""
    return run / "evaluation" / FOLDER / f"{suite}.json"


def course(run: str, points: Iterable[tuple[Mapping[str, Any], Iterable[Mapping[str, Any]]]]) -> dict[str, Any]:
    """One point per checkpoint, in order: where it stands (step, images, stage), and its scores by name."""
    held = []
    for at, results in points:
        scores = {score["name"]: score for result in results for score in result["scores"]}
        plain = {name: {k: v for k, v in score.items() if k != "name"} for name, score in scores.items()}
        held.append({**at, "scores": plain})
    return {"schema": 1, "course": run, "points": sorted(held, key=lambda point: point["step"])}


def read(evaluation: Path) -> dict[str, list[dict[str, Any]]]:
    """The courses of a run by suite: points with `step`, `images`, `stage` and `scores`; damaged files are left out."""
    found = {}
    for file in sorted((evaluation / FOLDER).glob("*.json")):
        try:
            points = json.loads(file.read_text())["points"]
            found[file.stem] = [point for point in points if {"step", "images", "scores"} <= set(point)]
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return found
