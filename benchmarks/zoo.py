"""The methods of recipes/zoo on drawn scenes: the same two teachers, student, images and schedule for all of them.

    python benchmarks/zoo.py --out runs/zoo                        all cells, seed by seed; started again it goes on
    python benchmarks/zoo.py --out runs/zoo --minutes 5            ... and leaves after the cell that ends then
    python benchmarks/zoo.py --out runs/zoo --write docs/zoo.md    the tables into the page, the numbers beside it
    python benchmarks/zoo.py --out runs/two --first 2 --seeds 1    one seed elsewhere; `--add runs/two` counts it in

Synthetic, and minutes long: it shows that the recipes do what they say and how far seeds lie apart, no more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unicscale import cost, demo, interop
from unicscale.data import scenes
from unicscale.evaluate.metrics.probe import QUICK
from unicscale.recipe import Recipe, load
from unicscale.run.folder import write_whole
from unicscale.train import train

RESULTS = Path(__file__).parent / "results" / "zoo.json"
STEPS = (600, 80)  # at 32 and at 64 px, 16 images each
LR = 2e-3  # of the first stage, half of it in the second; --lr chose it for all methods alike: docs/zoo.md
SIZES = demo.Sizes(train=4096, bank=1024, test=1024, probe_steps=60)
# per image small batches cost the same and learn more steps; scenes that look the same each time are asked about once
CHEAP = [
    "student.options={embed_dim: 96, depth: 4, num_heads: 3}",
    "data.images_per_step=16",
    "data.augment.flip=0",
    "engine.remember=1",
    "stages.0.size=32",
    "stages.1.size=64",
]
AXES = ("k-NN class", "mIoU", "depth RMSE")

EUPE = ["loss.summary={cosine: 1}", "loss.patches={cosine: 0.9, smooth_l1: 0.1}", "loss.grid=larger",
        "loss.resize=bicubic", "standardize={kind: frozen, freeze_after: 10%}"]  # fmt: skip
PHI_S = ["standardize={kind: phi_s, summary: none, freeze_after: 10%, restart: stage}", "loss.patches={mse: 1}"]
SIDES = (32, 64)
DRAW = str([*SIDES])
DRAWN = ["loss.grid=larger", *(f"stages.{n}.{key}" for n in (0, 1) for key in (f"size={DRAW}", "sizes=random"))]
BOTH_DRAWN = [*DRAWN, *(f"teachers.{name}.resolution={DRAW}" for name in ("classes", "dense"))]
LADDER = "projector={kind: ladder}"
DROPPING = "loss.balance={kind: teacher_dropping, p: 0.25}"
PROXY = "teachers={{proxy: {{plugin: unicscale, run: {out}/eupe_proxy, resolution: {sizes}}}}}"
FRESH = "engine.remember=null"  # where no scene looks the same twice
RAW_SUMMARY = "standardize={kind: running, summary: none, freeze_after: 10%}"

METHODS = {
    "unic": [LADDER, DROPPING],
    "amradio": ["standardize={kind: none}", *EUPE[:3]],
    "phi_s_radio": [*PHI_S, "loss.summary={cosine: 1}"],
    "cradio_v4": [*PHI_S, "loss.summary={angle: 1}", "data.shift=0.5", FRESH],
    "siglino": ["standardize={kind: phi_s, freeze_after: 10%}", "loss.summary={mse: 1}", "loss.patches={mse: 1}",
                "loss.relation={kind: arkd}"],
    "direct": EUPE,
    "direct_multi": [*EUPE, *BOTH_DRAWN],
    "eupe_proxy": [*EUPE, "student.options={embed_dim: 128, depth: 5, num_heads: 4}"],
    "eupe": [*EUPE, PROXY],
    "eupe_multi": [*EUPE, PROXY, *DRAWN],
}  # fmt: skip
KEYS = {  # one key each, over the same plain base
    "base": [],
    "ladder": [LADDER],
    "teacher dropping": [DROPPING],
    "raw targets": ["standardize={kind: none}"],
    "phi_s": ["standardize={kind: phi_s, freeze_after: 10%}"],
    "mse": ["loss.summary={mse: 1}", "loss.patches={mse: 1}"],
    "raw summaries, cosine": [RAW_SUMMARY, "loss.summary={cosine: 1}"],
    "raw summaries, angle": [RAW_SUMMARY, "loss.summary={angle: 1}"],
    "shift": ["data.shift=0.5", FRESH],
    "crops": [
        "data.augment.scale=[0.44, 0.64]",
        FRESH,
    ],  # of the areas that windows have in the larger images of `shift`
    "arkd": ["loss.relation={kind: arkd}"],
    "drawn sizes": BOTH_DRAWN,
}
Cell = tuple[str, int]  # name, seed


def changes(name: str, folder: Path, seed: int, images: Path, how: Mapping[str, Any]) -> list[str]:
    """What a cell says to the demo's recipe."""
    own = METHODS[name] if name in METHODS else KEYS[name.removeprefix("key: ")]
    sizes = DRAW if name.endswith("multi") else "same_grid"
    (low, high), lr = how["steps"], how["lr"]
    return [
        *CHEAP,
        f"out={folder / name.replace(' ', '_')}", f"seed={seed}", f"data.train.0={images}",
        "projector={kind: mlp, layers: 1, norm: true}", "loss.balance={kind: none}",
        f"stages.0.steps={low}", f"stages.1.steps={high}", "stages.0.warmup=10%", "stages.1.warmup=10%",
        f"stages.0.lr.peak={lr}", f"stages.1.lr.peak={lr / 2}",
        "save.keep=1",
        *(change.format(out=folder, sizes=sizes) if change == PROXY else change for change in own),
    ]  # fmt: skip


def cells(seeds: Sequence[int]) -> list[Cell]:
    """Methods before single keys, seed by seed, so that whatever stops them leaves whole seeds."""
    return [
        (name, seed) for names in (list(METHODS), [f"key: {key}" for key in KEYS]) for seed in seeds for name in names
    ]


def measured(name: str, seed: int, out: Path, how: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: trained, and its frozen features on scenes that nobody has seen."""
    images, folder = out / "scenes" / f"seed-{seed}", out / f"seed-{seed}"
    if not images.exists():
        part = images.with_name(f"{images.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        scenes.write(part, SIZES.train, seed=seed)
        part.rename(images)
    said = changes(name, folder, seed, images, how)
    recipe = load(demo.RECIPE, said)
    began = time.monotonic()
    train(recipe)
    trained = time.monotonic() - began
    return {"seed": seed, "scores": scores_of(recipe, seed), "gflop": gflop(said), "seconds": round(trained, 1)}


def scores_of(recipe: Recipe, seed: int) -> dict[str, float]:
    """By the demo's own probes."""
    model = interop.load(recipe.out)
    bank = demo.see(model, scenes.draw(SIZES.bank, seed=seed, first=SIZES.train))
    test = demo.see(model, scenes.draw(SIZES.test, seed=seed, first=SIZES.train + SIZES.bank))
    schedule = QUICK._replace(steps=SIZES.probe_steps, batch=16)
    return {axis.name: axis.score(bank, test, schedule) for axis in demo.AXES if axis.name in AXES}


def gflop(said: Sequence[str]) -> float:
    """Of one image, student and teachers, as an average over the run; every look counts, also a remembered one."""
    each = []
    for size in SIDES:  # what is drawn is each of them equally often, and costs add up
        fixed = [change.replace(DRAW, str(size)) for change in said if not change.endswith("sizes=random")]
        found = cost.costs(load(demo.RECIPE, fixed), 1, None)
        each.append(found.total / sum(stage.images for stage in found.stages) / 1e9)
    return float(np.mean(each))


def tables(rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """Whole methods and each key alone, and how far each is from the first of its table on the same seeds."""
    parts = []
    for title, names in (("method", list(METHODS)), ("over the plain base", [f"key: {key}" for key in KEYS])):
        found = {name: {row["seed"]: row for row in rows[name]} for name in names if name in rows}
        if not found:
            continue
        first, most = next(iter(found.items())), max(len(each) for each in found.values())
        scores, apart = [f"| {title} | {' | '.join(AXES)} | GFLOP per image |", "|---" * (len(AXES) + 2) + "|"], [
            f"| minus {first[0].removeprefix('key: ')} | {' | '.join(AXES)} |", "|---" * (len(AXES) + 1) + "|",
        ]  # fmt: skip
        for name, each in found.items():
            label = name.removeprefix("key: ") + (f" ({len(each)} of {most} seeds)" if len(each) < most else "")
            here = [interval([row["scores"][axis] for row in each.values()], axis) for axis in AXES]
            flops = np.mean([row["gflop"] for row in each.values()])
            scores.append(f"| {label} | {' | '.join(here)} | {flops:.3f} |")
            both = sorted(each.keys() & first[1].keys())
            if name != first[0] and both:
                told = [difference(*([of[seed]["scores"][axis] for seed in both] for of in (each, first[1])), axis)
                        for axis in AXES]  # fmt: skip
                apart.append(f"| {label} | {' | '.join(told)} |")
        parts.append("\n".join([*scores, "", *apart, "", f"{most} seed{'s' * (most > 1)}."]))
    return "\n\n".join(parts)


def difference(ours: Sequence[float], theirs: Sequence[float], axis: str) -> str:
    """Seed by seed, with its interval; in bold where that leaves out 0."""
    apart = [one - other for one, other in zip(ours, theirs, strict=True)]
    said = interval(apart, axis, sign="+")
    return f"**{said}**" if len(apart) > 1 and abs(np.mean(apart)) > half(apart) else said


def interval(values: Sequence[float], axis: str, sign: str = "") -> str:
    """Mean, and the 95 % interval of it."""
    digits = 4 if "RMSE" in axis else 1
    said = f"{np.mean(values):{sign}.{digits}f}"
    return said if len(values) < 2 else f"{said} ± {half(values):.{digits}f}"


def half(values: Sequence[float]) -> float:
    """Half of that interval, by Student's t over the seeds."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def add(held: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Seeds of another folder, which must have been trained alike."""
    assert held["how"] == other["how"], f"{held['how']} and {other['how']} are no one table"
    for name, found in other["rows"].items():
        rows = held["rows"].setdefault(name, [])
        rows += [row for row in found if all(row["seed"] != mine["seed"] for mine in rows)]


def main() -> None:
    """Whatever is missing, until the time is over; then what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/zoo"), help="where scenes, runs and numbers go")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them: another --out may take others")
    parser.add_argument("--steps", type=int, nargs=2, default=STEPS, help="at 32 and at 64 px, of 16 images each")
    parser.add_argument("--lr", type=float, default=LR, help="the peak of the first stage; the second has half of it")
    parser.add_argument("--names", nargs="*", default=None, help="these cells alone, as `unic` or `key: base`")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after them")
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="folders whose seeds are counted in")
    parser.add_argument("--write", type=Path, help="a page whose part between <!-- zoo --> marks becomes the tables")
    given = parser.parse_args()
    os.environ.update(demo.SMALL_STEPS)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    given.out.mkdir(parents=True, exist_ok=True)
    how = {"steps": list(given.steps), "lr": given.lr}
    kept, began = given.out / "zoo.json", time.monotonic()
    held = json.loads(kept.read_text()) if kept.exists() else {"synthetic": True, "how": how, "rows": {}}
    rows: dict[str, list[dict[str, Any]]] = held["rows"]
    for folder in given.add:
        add(held, json.loads((folder / "zoo.json").read_text()))
    for name, seed in cells(range(given.first, given.first + given.seeds)):
        if given.write or time.monotonic() - began > 60 * given.minutes:
            break
        if name in (given.names or [name]) and all(row["seed"] != seed for row in rows.get(name, [])):
            rows.setdefault(name, []).append(measured(name, seed, given.out, held["how"]))
            write_whole(kept, json.dumps(held, indent=1) + "\n")
    print(tables(rows))
    if given.write:
        page = given.write.read_text()
        write_whole(RESULTS, json.dumps(held, indent=1) + "\n")
        marked = re.compile(r"(<!-- zoo -->\n).*(<!-- /zoo -->)", re.DOTALL)
        given.write.write_text(marked.sub(lambda m: f"{m[1]}{tables(rows)}\n{m[2]}", page))


if __name__ == "__main__":
    main()
