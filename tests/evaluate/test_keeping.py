"""What was measured stays: summaries grow, in every run they belong to, and say what may not be compared."""

import json
import shutil
from pathlib import Path

import pytest

from tests.kit import measured, tiny_sets
from tests.kit.measured import FAST
from unicscale.commands.evaluation import evaluate
from unicscale.errors import RecipeError
from unicscale.evaluate import checkpoints, keeping
from unicscale.evaluate.results import course
from unicscale.evaluate.results.compare import summary, text_table
from unicscale.recipe import load as load_recipe
from unicscale.train import train

SHAPE = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}


def result(model: str, value: float, *, teacher: bool = False, sha: str = "0", **more: object) -> dict:
    score = {"name": "knn", "value": value, "low": None, "high": None, "higher_is_better": True}
    held = {"model": model, "task": "knn", "teacher": teacher, "sha256": sha, "scores": [score], "when": "2026"}
    return held | {"protocol": {"limit": None, "size": 32}, "data": {}} | more


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tiny_sets.imagenet(folder)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tree = {
        "schema": 1,
        "out": str(folder / "run"),
        "data": {"train": [str(data / "imagenet" / "train")], "images_per_step": 8, "workers": 1},
        "student": {"patch": 8, "options": {"embed_dim": 48, "depth": 2, "num_heads": 2}},
        "teachers": {"dino": {"weights": "random", "size": SHAPE}},
        "projector": {"hidden": 16, "last_hidden": 16, "kind": "ladder"},
        "stages": [{"name": "low", "size": 32, "steps": 3, "lr": {"peak": 1e-3}}],
        "engine": {"device": "cpu"},
        "save": {"every_steps": 1, "keep": 3},
    }
    (folder / "r.yaml").write_text(json.dumps(tree))
    train(load_recipe(str(folder / "r.yaml")))
    return folder / "run"


def models(file: Path) -> list[str]:
    return list(json.loads(file.read_text())["models"])


def test_measuring_the_run_alone_keeps_its_teachers_in_the_table(run, data):
    out = run / "evaluation" / "knn.json"
    evaluate([str(run)], data=data, suite=["knn"], teachers=True, **FAST)
    evaluate([str(run)], data=data, suite=["knn"], **FAST)
    assert models(out) == ["run", "teacher:dino"]
    whole = json.loads(out.read_text())
    assert whole["gains"]["knn"]["best_teacher"] == "teacher:dino"


def test_the_course_of_a_run_has_a_point_for_every_checkpoint(run, data):
    evaluate([str(run)], data=data, suite=["knn"], over_checkpoints=True, **FAST)
    points = course.read(run / "evaluation")["knn"]
    assert [(point["step"], point["images"], point["stage"]) for point in points] == [(1, 8, 0), (2, 16, 0), (3, 24, 0)]
    assert all(0 <= point["scores"]["knn"]["value"] <= 100 for point in points)
    (run / "evaluation" / "course" / "broken.json").write_text('{"points": 3}')
    assert set(course.read(run / "evaluation")) == {"knn"}
    with pytest.raises(RecipeError, match="--over-checkpoints: one RUN"):
        evaluate([str(run), str(run)], data=data, suite=["knn"], over_checkpoints=True, **FAST)
    with pytest.raises(RecipeError, match=r"--over-checkpoints .*: a run folder with checkpoints is expected"):
        evaluate([str(data)], data=data, suite=["knn"], over_checkpoints=True, **FAST)


def test_a_damaged_checkpoint_is_missing_from_the_course_and_it_is_said(run, data, tmp_path, capfd):
    copied = shutil.copytree(run, tmp_path / "run")
    damaged = copied / "checkpoints" / "step-00000002"
    (damaged / "manifest.json").write_text("{")
    assert [one.at["step"] for one in checkpoints.of_run(str(copied))] == [1, 3]
    assert f"{damaged}: passed over, for its manifest or its recipe is damaged" in capfd.readouterr().err


def test_a_joint_table_is_written_in_every_run_it_belongs_to(data, tmp_path):
    runs = []
    for seed, name in enumerate(("one", "two")):
        runs.append(tmp_path / name)
        measured.student(runs[-1], seed)
        (runs[-1] / "recipe.yaml").write_text("schema: 1\n")
    files = [f"{folder.name}={folder / 'student.safetensors'}" for folder in runs]
    evaluate(files, data=data, suite=["knn"], out=tmp_path / "t.json", **FAST)
    results = [json.loads(file.read_text()) for file in sorted((tmp_path / "t").glob("*/knn.json"))]
    for folder in runs:
        keeping.finish(folder / "evaluation" / "knn.json", results, None, {}, {})
    assert [models(folder / "evaluation" / "knn.json") for folder in runs] == [["one", "two"]] * 2


def test_every_run_among_the_models_gets_the_table(tmp_path):
    from unicscale.evaluate.session import default_outs

    for name in ("t1", "t3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("")
    given = [f"a={tmp_path / 't1'}", f"{tmp_path / 't3'}@low", "teacher:dino"]
    assert default_outs(given, "knn") == [tmp_path / name / "evaluation" / "knn.json" for name in ("t1", "t3")]
    assert default_outs(["teacher:dino"], "knn") == [Path("evaluation/knn.json")]


def test_results_of_other_weights_of_the_same_model_are_not_mixed_with_new_ones():
    old = [result("ours", 1.0, sha="old") | {"task": "dtd"}, result("dino", 2.0, teacher=True)]
    kept = keeping.merged([result("ours", 3.0, sha="new")], old)
    assert [(one["model"], one["sha256"]) for one in kept] == [("ours", "new"), ("dino", "0")]


def test_damaged_results_beside_the_summary_are_passed_over(tmp_path):
    for number, text in enumerate(
        ('{"model": 3}', "[]", "{", '{"scores": [3], "model": "a", "task": "b", "sha256": ""}')
    ):
        keeping.place(tmp_path / "t", f"m{number}", "knn").parent.mkdir(parents=True)
        keeping.place(tmp_path / "t", f"m{number}", "knn").write_text(text)
    (tmp_path / "t" / "folder" / "x.json").mkdir(parents=True)
    whole = keeping.finish(tmp_path / "t.json", [result("ours", 1.0)], None, {}, {})
    assert list(whole["models"]) == ["ours"]


def test_a_score_of_other_images_is_shown_and_not_compared():
    limited = result("dino", 90.0, teacher=True, protocol={"limit": 500, "size": 48})
    whole = summary([result("ours", 84.0), result("deit3", 80.0, teacher=True), limited])
    assert whole["gains"]["knn"] == {"best_teacher": "deit3", "gain": {"ours": pytest.approx(5.0)}}
    shown = text_table(whole)
    assert "90.0*" in shown and "* measured with other settings or on other images" in shown
    assert "*" not in text_table(summary([result("ours", 84.0), result("deit3", 80.0, teacher=True)]))


@pytest.mark.parametrize(
    ("name", "says"), [("results", "ends in .json"), ("folder.json", "is a folder"), ("f/x.json", "cannot be")]
)
def test_an_out_that_cannot_be_written_is_refused_before_measuring(data, tmp_path, name, says):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "f").write_text("")
    with pytest.raises(RecipeError, match=f"--out .*{says}"):
        evaluate(["no such model"], data=data, suite=["knn"], out=tmp_path / name, **FAST)


@pytest.mark.parametrize(
    ("option", "says"),
    [({"batch": 0}, "--batch 0: "), ({"search": "grit"}, "--search grit: "), ({"dense_size": -1}, "--dense-size -1")],
)
def test_settings_are_checked_like_a_recipes(data, option, says):
    with pytest.raises(RecipeError, match=says):
        evaluate(["no such model"], data=data, suite=["knn"], **(FAST | option))
