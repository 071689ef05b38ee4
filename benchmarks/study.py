"""Tables 1, H, I, J and K of the paper on drawn scenes, several seeds each: what is told apart, and what is noise.

    python benchmarks/study.py --minutes 60                     seed by seed, row by row; the next call goes on
    python benchmarks/study.py --tables 1 K --seeds 0 1 2
    python benchmarks/study.py --write docs/study.md            the tables that there are, into the page

Synthetic: two small teachers stand for the paper's (DINO and iBOT for the dense one, DeiT-III and dBOT for the one of
classes), and --steps of 64 images for its 200 epochs; rows that take 100 epochs there take half. As rows with
dropping take 200, what they are held against is also run for as long. One process of one thread per cell, several of
them side by side on other --seeds; teachers' answers are remembered, which changes no bit.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"TIMM_FUSED_ATTN": "0", "OMP_NUM_THREADS": "1"}  # as the demo starts its ranks
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks import study_figures, study_page  # noqa: E402
from benchmarks.study_page import AS_LONG  # noqa: E402
from unicscale import demo, interop  # noqa: E402
from unicscale.contracts import there  # noqa: E402
from unicscale.data import scenes  # noqa: E402
from unicscale.evaluate.metrics.linear import linear_accuracy  # noqa: E402
from unicscale.evaluate.metrics.spare import Whitening, prune  # noqa: E402
from unicscale.recipe import Recipe, load  # noqa: E402
from unicscale.report.paper import FOLDER, find_table  # noqa: E402
from unicscale.run.folder import RunFolder, write_whole  # noqa: E402
from unicscale.train import train  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "study.json"
OUT = ROOT / "runs" / "study"
TABLES = ("1", "J", "K", "H", "I")  # what is told apart by ladder and dropping comes first
SIZES = demo.Sizes(train=8192, bank=2048, test=2048, probe_steps=100)
STEPS, FULL, WIDTH, DEPTH, PAPER = 960, 200, 96, 4, 768  # PAPER: the width of its student, of which widths are shares
KNOWS = {"dino": "dense", "ibot": "dense", "deit3": "classes", "dbot": "classes"}
# of twelve blocks there, of four here; `every 3rd` of four would be the last one, which `top` is
BLOCKS = {"blocks_top": [3], "blocks_every_2nd": [1, 3], "blocks_last_6": [2, 3]}
LEFT_OUT = {
    "table_i/blocks_every_3rd", "table_i/blocks_every_4th",
    "table_k/4_ibot_x4", "table_k/5_dbot_x4",  # two teachers here: they would be rows 2 and 3 again
}  # fmt: skip
COURSE = {f"table_1/7_ladder{AS_LONG}", "table_1/8_dropping"}  # Figures 3 and 4
LESS = "table_1/8_dropping"  # Figure 6, beside both teachers
AMOUNTS = (0.2, 0.4, 0.6)  # of the weights that are pruned
# what dropping is held against
LONGER = ("table_1/7_ladder", "table_j/p_000", "table_j/ladder_p_000", "table_k/1_none")


def main() -> None:
    """What is missing, seed by seed, so that whatever stops it leaves whole seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--steps", type=int, default=STEPS, help="of the rows that take 200 epochs in the paper")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after so long")
    parser.add_argument("--write", type=Path, help="a page with the marks of this study; nothing is run")
    given = parser.parse_args()
    if given.write:
        study_page.write(given.write, held(), rows_of(TABLES))
        study_figures.draw(held()["cells"], given.write.parent / "pictures" / "study.png")
        return
    torch.set_num_threads(1)
    began, names = time.monotonic(), [name for rows in rows_of(given.tables).values() for name in rows]
    for seed in given.seeds:
        for name in dict.fromkeys(("teachers", *names)):
            same = twin(name, given.steps, seed)
            if f"{name} / {seed}" in held()["cells"]:
                continue
            if time.monotonic() - began > 60 * given.minutes:
                return
            row = same or (teachers_at(seed) if name == "teachers" else measured(name, given.steps, seed))
            print(name, seed, json.dumps(row)[:200], flush=True)
            keep(f"{name} / {seed}", row, given.steps)


def rows_of(tables: Any) -> dict[str, list[str]]:
    """Table -> the recipes that mean something with two teachers and four blocks."""
    rows = {name: [r.recipe for r in find_table(name).rows if r.recipe not in LEFT_OUT] for name in tables}
    for recipes in rows.values():
        for name in set(LONGER) & set(recipes):
            recipes.insert(recipes.index(name) + 1, name + AS_LONG)
    return rows


def twin(name: str, steps: int, seed: int) -> dict[str, Any] | None:
    """The cell of another row that is the same run here."""
    if name == "teachers":
        return None
    own = changes(name, steps, seed, Path("x"), Path("x"))
    for key, row in held()["cells"].items():
        other, _, at = key.partition(" / ")
        if "seconds" in row and int(at) == seed and changes(other, steps, seed, Path("x"), Path("x")) == own:
            return {k: v for k, v in row.items() if k != "seconds"} | {"same_as": other}
    return None


def changes(name: str, steps: int, seed: int, out: Path, images: Path) -> list[str]:
    """The paper's row said to the demo's recipe: what its table varies stays."""
    said = load(FOLDER / f"{name.removesuffix(AS_LONG)}.yaml", unset="keep")
    teachers = {KNOWS[teacher]: {"plugin": "scenes", "knows": KNOWS[teacher]} for teacher in said.teachers}
    epochs = FULL if name.endswith(AS_LONG) else said.stages[0].epochs or FULL
    many = max(2, round(steps * epochs / FULL))
    stage = {"name": "low", "size": 48, "warmup": "6%", "steps": many, "lr": {"peak": 2e-3, "end": 1e-6}}
    return [
        f"out={out}", f"seed={seed}", f"data.train.0={images}", "data.augment.flip=0", "engine.remember=1",
        "engine.dtype=fp32",  # some CPUs have no bf16, and in fp32 all say the same
        f"student.options={{embed_dim: {WIDTH}, depth: {DEPTH}, num_heads: 3}}",
        f"teachers={json.dumps(teachers)}", f"stages=[{json.dumps(stage)}]", f"projector={projector(name, said)}",
        f"loss.balance={balance(said)}", f"standardize={said.standardize.model_dump_json(exclude_none=True)}",
        *([f"save.keep_every_steps={many // 6}", f"save.every_steps={many // 6}"] if name in COURSE else []),
    ]  # fmt: skip


def projector(name: str, said: Recipe) -> str:
    """Widths in the same share of the student's, blocks at the same places."""
    tree = said.projector.model_dump(mode="json", exclude_none=True)
    for key in ("hidden", "last_hidden"):
        if isinstance(tree.get(key), int):
            tree[key] = tree[key] * WIDTH // PAPER
    if isinstance(tree.get("blocks"), list):
        tree["blocks"] = BLOCKS[name.rpartition("/")[2]]
    return json.dumps(tree)


def balance(said: Recipe) -> str:
    """The weight of a teacher that stands for two of the paper's is the larger one."""
    tree = said.loss.balance.model_dump(mode="json", exclude_none=True)
    if weights := tree.get("weights"):
        here = {KNOWS[name]: 0.0 for name in weights}
        for name, weight in weights.items():
            here[KNOWS[name]] = max(here[KNOWS[name]], weight)
        tree["weights"] = here
    return json.dumps(tree)


def measured(name: str, steps: int, seed: int) -> dict[str, Any]:
    """One student, trained and measured as the demo measures."""
    run = OUT / f"run-{os.getpid()}"
    shutil.rmtree(run, ignore_errors=True)
    began = time.process_time()
    folder = train(load(demo.RECIPE, changes(name, steps, seed, run, scenes_of(seed))))
    scores = demo.evaluate({"student": demo.student_of(folder)}, seed, SIZES)["student"]
    row: dict[str, Any] = {"scores": rounded(scores), "seconds": round(time.process_time() - began)}
    row |= {"course": course(folder, seed)} if name in COURSE else {}
    row |= {"less": less(demo.student_of(folder), seed)} if name == LESS else {}
    shutil.rmtree(run)
    return row


def course(folder: RunFolder, seed: int) -> dict[str, Any]:
    """Losses, shares of images taught, and k-NN at the checkpoints that were kept."""
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    wanted = [key for key in lines[-1] if key.count("/") == 1 and key.startswith(("loss/", "keep/"))]
    thin = lines[:: max(1, len(lines) // 24)]
    found: dict[str, Any] = {key: [[line["step"], round(line[key], 4)] for line in thin] for key in wanted}
    bank = scenes.draw(SIZES.bank, seed=seed, first=SIZES.train)
    test = scenes.draw(SIZES.test, seed=seed, first=SIZES.train + SIZES.bank)
    found["k-NN class"] = []
    for step in sorted(int(place.name.split("-")[1]) for place in folder.checkpoints.glob("step-*")):
        model = interop.load(str(folder.checkpoints / f"step-{step:08d}"))
        score = demo.AXES[0].score(demo.see(model, bank), demo.see(model, test), demo.QUICK)
        found["k-NN class"].append([step, round(score, 2)])
    return found


def teachers_at(seed: int) -> dict[str, Any]:
    """The two that all rows learn from, on a seed's scenes."""
    recipe = load(demo.RECIPE)
    models = demo.teachers_of(recipe)
    scores = {name: rounded(row) for name, row in demo.evaluate(models, seed, SIZES).items()}
    return {"scores": scores, "less": {name: less(model, seed) for name, model in models.items()}}


def less(model: Any, seed: int) -> dict[str, list[list[float]]]:
    """Linear class of a model with a share of its weights at nought, and of its summary's leading components."""
    bank = scenes.draw(SIZES.bank, seed=seed, first=SIZES.train)
    test = scenes.draw(SIZES.test, seed=seed, first=SIZES.train + SIZES.bank)
    learns, is_asked = demo.see(model, bank), demo.see(model, test)
    own, others = there(learns.features.summary), there(is_asked.features.summary)

    def accuracy(known: Tensor, asked: Tensor) -> float:
        return round(linear_accuracy(known, learns.shape, asked, is_asked.shape, C=1.0), 2)

    found: dict[str, list[list[float]]] = {"pruned": [[0, accuracy(own, others)]], "components": []}
    for amount in AMOUNTS:
        small = prune(model, amount)
        seen = [there(demo.see(small, drawn).features.summary) for drawn in (bank, test)]
        found["pruned"].append([amount, accuracy(*seen)])
    whitening = Whitening(own.shape[1])
    whitening.add(own)
    for count, project in whitening.projections():
        found["components"].append([count, accuracy(project(own), project(others))])
    return found


def scenes_of(seed: int) -> Path:
    """Drawn once."""
    images = OUT / f"scenes-{seed}"
    if not images.exists():
        part = images.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        scenes.write(part, SIZES.train, seed=seed)
        part.rename(images)
    return images


def rounded(scores: demo.Scores) -> demo.Scores:
    """Digits that mean something."""
    return {axis: round(value, 4) for axis, value in scores.items()}


def held() -> dict[str, Any]:
    """All that was measured."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"synthetic": True, "cells": {}}


def keep(key: str, row: dict[str, Any], steps: int) -> None:
    """One more; every cell is of the same number of steps."""
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        found = held()
        if found.setdefault("steps", steps) != steps:
            raise SystemExit(f"{RESULTS.name} holds runs of {found['steps']} steps: move it away, or ask for as many.")
        found["sizes"] = SIZES._asdict()
        found["cells"][key] = row
        write_whole(RESULTS, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
