"""Evaluation inside a run: what it says, and that it leaves no trace."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.kit import tiny_sets
from unicscale.contracts import Features, Seen
from unicscale.data.once import open_eval
from unicscale.errors import DataError, RecipeError
from unicscale.evaluate.during import asked_for, during, frozen, score_of
from unicscale.evaluate.metrics.knn import knn_predict, nearest, vote
from unicscale.evaluate.score import Score
from unicscale.ranks.world import World
from unicscale.recipe import load as load_recipe
from unicscale.recipe.sections import Evaluate
from unicscale.train import train

SHAPE = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8, "img_size": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tiny_sets.imagenet(folder)
    return folder / "imagenet"


def write_recipe(path: Path, data: Path, out: Path, **section: object) -> Path:
    tree = {
        "schema": 1,
        "out": str(out),
        "data": {"train": [str(data / "train")], "val": [str(data / "val")], "images_per_step": 8, "workers": 1},
        "student": {"arch": "vit_small", "patch": 8, "options": {"embed_dim": 48, "depth": 2, "num_heads": 2}},
        "teachers": {"one": {"plugin": "dino", "weights": "random", "size": SHAPE}},
        "projector": {"kind": "ladder", "hidden": 16, "last_hidden": 16},
        "stages": [{"name": "low", "size": 32, "steps": 6, "lr": {"peak": 1e-3}}],
        "engine": {"device": "cpu", "timeout_seconds": 60},
        "track": {"every_steps": 1},
        "evaluate": section,
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def run_on_two_ranks(recipe: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "unicscale", "train", str(recipe)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


def final_weights(out: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted((out / "checkpoints").glob("step-*6/*.safetensors")):
        for name, tensor in sorted(load_file(file).items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def events(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "val/loss" in line]


def test_evaluating_leaves_weights_moments_and_statistics_as_they_were(data, tmp_path):
    silent = write_recipe(tmp_path / "a.yaml", data, tmp_path / "a")
    watched = write_recipe(tmp_path / "b.yaml", data, tmp_path / "b", every_epochs=0.4, tasks=["loss", "knn"])
    for recipe in (silent, watched):
        train(load_recipe(str(recipe)))
    assert len(events(tmp_path / "b")) == 3 and not events(tmp_path / "a")
    assert final_weights(tmp_path / "a") == final_weights(tmp_path / "b")


def test_two_ranks_measure_what_one_does(data, tmp_path):
    section = {"every_epochs": 1, "tasks": ["loss", "knn"]}
    train(load_recipe(str(write_recipe(tmp_path / "1.yaml", data, tmp_path / "1", **section))))
    run_on_two_ranks(write_recipe(tmp_path / "2.yaml", data, tmp_path / "2", **section))
    for alone, shared in zip(events(tmp_path / "1"), events(tmp_path / "2"), strict=True):
        for name, value in alone.items():
            if name.startswith("val/") and name != "val/seconds":
                assert shared[name] == pytest.approx(value, rel=2e-4), name


class Eyes(torch.nn.Module):
    """A student whose summary is its image's mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = torch.nn.Dropout(0.9)

    def forward(self, images: torch.Tensor) -> Seen:
        summary = self.drop(images.float().mean((2, 3)) - 128)
        return Seen(Features(summary, summary[:, None].repeat(1, 4, 1)), {})


class Answering(Eyes):
    def forward(self, images: torch.Tensor) -> Seen:
        seen = super().forward(images)
        return Seen(seen.features, {"one": seen.features})


def twice(images: torch.Tensor, observe: bool) -> dict[str, Features]:
    summary = images.float().mean((2, 3)) / 50 + 1
    return {"one": Features(summary, summary[:, None].repeat(1, 4, 1))}


def test_knn_leaves_each_image_out_of_its_own_neighbours(data):
    measured = during(Evaluate(tasks=["knn"]), Eyes(), World(), val=[str(data / "train")], size=32, batch=7)
    images, labels, _ = next(iter(open_eval(str(data / "train"), size=32)))
    summaries = images.float().mean((2, 3)) - 128
    correct = 0
    for one in range(len(labels)):
        others = torch.arange(len(labels)) != one
        cosines, rows = nearest(summaries[others], summaries[one : one + 1], 20)
        correct += int(vote(cosines, labels[others][rows], 10, 0.07) == labels[one])
    assert measured["val/knn"] == pytest.approx(100 * correct / len(labels))


def test_modes_and_generators_are_left_alone_even_by_an_error(data):
    student = torch.nn.Sequential(Eyes(), torch.nn.Dropout())
    student[1].eval()
    state = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError), frozen(student):
        assert not any(module.training for module in student.modules())
        raise ZeroDivisionError
    assert [module.training for module in student.modules()] == [True, True, True, False]
    during(Evaluate(tasks=["knn"]), student[0], World(), val=[str(data / "val")], size=32)
    assert torch.equal(state, torch.random.get_rng_state())


def test_exact_copies_do_not_hide_an_image_from_itself():
    bank = torch.ones(5, 3)
    labels = torch.tensor([0, 0, 0, 1, 1])
    own = torch.arange(5)
    guess = knn_predict(bank, labels, bank, ks=[4], own=own)[4]
    assert guess.tolist()[3:] == [0, 0], "of the others, three are of class 0"


def test_an_evaluation_ranks_checkpoints_by_one_number():
    assert score_of("knn", {"val/knn": 71.0}) == Score("knn", 71.0, higher_is_better=True)
    assert score_of("loss", {"val/loss": 0.5}) == Score("loss", 0.5, higher_is_better=False)
    assert score_of("knn", {"val/failed": 1.0}) is None


def test_the_pace_can_be_said_in_steps_but_not_twice(data, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", data, tmp_path / "r", every_steps=4, tasks=["knn"])
    train(load_recipe(str(recipe)))
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/knn" in line] == [4, 6]
    with pytest.raises(RecipeError, match="every_epochs or every_steps, not both"):
        load_recipe(str(recipe), ["evaluate.every_epochs=1"])


def test_the_number_of_images_is_bounded(data):
    seen = []

    def student(images: torch.Tensor) -> Seen:
        seen.append(len(images))
        return Eyes().eval()(images)

    during(Evaluate(tasks=["knn"], max_images=11), student, World(), val=[str(data / "train")], size=32, batch=4)
    assert seen == [4, 4, 4], "the last batch is padded: a compiled student would be compiled anew for another shape"


def test_what_cannot_be_measured_is_refused_before_the_run_begins(data, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", data, tmp_path / "r", every_epochs=1, tasks=["ade20k"])
    with pytest.raises(RecipeError, match=r"evaluate\.tasks: 'ade20k' cannot be measured while training"):
        train(load_recipe(str(recipe)))
    assert not (tmp_path / "r").exists()
    with pytest.raises(RecipeError, match=r"name evaluate\.data or data\.val"):
        asked_for(Evaluate(every_epochs=1), [])
    flat = tmp_path / "flat"
    tiny_sets.picture(flat / "a.png", 0, 0)
    tiny_sets.picture(flat / "b.png", 0, 1)
    with pytest.raises(DataError, match="knn needs labels, one folder per class"):
        during(Evaluate(tasks=["knn"]), Eyes(), World(), val=[str(flat)], size=32)
    recipe = write_recipe(tmp_path / "r.yaml", data, tmp_path / "r", every_epochs=1, tasks=["knn"])
    with pytest.raises(DataError, match="knn needs labels, one folder per class"):
        train(load_recipe(str(recipe), [f"evaluate.data={flat}"]))
    assert not (tmp_path / "r").exists()


def test_padding_counts_for_nothing(data):
    section, losses = Evaluate(tasks=["loss"]), []
    for batch in (1, 7, 64):
        found = during(section, Answering(), World(), val=[str(data / "val")], size=32, batch=batch, teachers=twice)
        losses.append(found["val/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6) and losses[2] == pytest.approx(losses[0], rel=1e-6)


def test_a_damaged_image_costs_the_evaluation_and_not_the_run(data, tmp_path):
    val = tmp_path / "val"
    shutil.copytree(data / "val", val)
    damaged = sorted(path for path in val.rglob("*.*") if path.is_file())[3]
    damaged.write_bytes(damaged.read_bytes()[:40])
    recipe = write_recipe(tmp_path / "r.yaml", data, tmp_path / "r", every_epochs=0.4, tasks=["loss"])
    recipe.write_text(
        recipe.read_text().replace(f"[{data / 'val'}]", f"[{val}]").replace(f"- {data / 'val'}", f"- {val}")
    )
    run_on_two_ranks(recipe)
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "val/failed" in line]) == 3
    assert [line["step"] for line in lines if "loss" in line][-1] == 6
    assert damaged.name in (tmp_path / "r" / "logs" / "rank-0000.log").read_text()
