"""`unicscale evaluate` and `unicscale features` from end to end, on data sets of every official layout."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.kit import measured, places, tiny_sets
from tests.kit.measured import FAST
from tests.kit.pictures import needs_ffcv
from unicscale import load
from unicscale.commands.evaluation import evaluate, features
from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, Features, normalise
from unicscale.errors import CheckpointError, DataError, RecipeError, TeacherError
from unicscale.evaluate import suites
from unicscale.evaluate.features import shelf
from unicscale.evaluate.features.marks import sha_of, sha_of_images
from unicscale.evaluate.opening import open_subject, with_teachers
from unicscale.evaluate.results.compare import gains, published, summary, tabulate, text_table, zoo
from unicscale.evaluate.sets.names import TRANSFER
from unicscale.evaluate.terms import Settings
from unicscale.recipe import load as load_recipe
from unicscale.student.trunk import Trunk
from unicscale.teacher.finding import find
from unicscale.train import train

SHAPE = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
CLIP = SHAPE | {"clip_embed_dim": 16, "text": {"width": 32, "heads": 2, "layers": 1}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sets.everything(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured.student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def helpers(golden: Path) -> dict[str, list[str]]:
    """Where the teachers' own classifier and text tower come from."""
    weights = [f"deit3={golden / 'teachers' / 'deit3.pth'}", "metaclip=random"]
    return {"weights": weights, "option": [f"deit3.size={SHAPE | {'num_classes': 10}}", f"metaclip.size={CLIP}"]}


def test_the_papers_suite_runs_on_every_official_layout(data, student, helpers, tmp_path, capsys):
    out = tmp_path / "paper.json"
    evaluate([str(student), "teacher:deit3"], data=data, suite=["paper"], out=out, beside="unic_b", **helpers, **FAST)
    whole = json.loads(out.read_text())
    assert not whole["missing"] and not whole["failed"]
    measured = {name for name, row in whole["scores"].items() if "student" in row}
    tasks = set(suites.SUITES["paper"]) - {
        "zero_shot",
        "heads",
        "ade20k",
        "nyud",
        *suites.FACTS,
    }
    assert tasks <= measured
    assert {"zero_shot/metaclip", "heads/deit3", "ade20k/mIoU", "nyud/rmse", "nyud/delta1", "transfer"} <= measured
    assert {
        "imagenet/imagenet_v2",
        "imagenet/imagenet_r",
        "imagenet/imagenet_sketch",
        "prune/10%",
        "whiten/48",
        "whiten/48/change",
        "prune_ade20k/all",
        "whiten_ade20k/48",
    } <= measured
    assert {"statistics/CLS norm per sample", "statistics/pooled patches deviation per dimension"} <= measured
    assert whole["gains"]["knn"]["best_teacher"] == "teacher:deit3"
    one = json.loads((tmp_path / "paper" / "student" / "aircraft.json").read_text())
    assert one["protocol"]["classifier"].startswith("logistic regression, L-BFGS")
    assert one["seed"] == 22 and one["seconds"] >= 0 and "torch" in one["versions"] and "C" in one["chosen"]
    low, value, high = (one["scores"][0][name] for name in ("low", "value", "high"))
    assert low <= value <= high
    shown = capsys.readouterr().out
    assert "UNIC-B, 4 teachers (paper)" in shown and "83.8" in shown and "gain" in shown


def test_what_was_measured_is_not_measured_again_unless_something_changed(data, student, tmp_path):
    out = tmp_path / "t.json"
    evaluate([str(student)], data=data, suite=["knn,flowers"], out=out, **FAST)
    file = tmp_path / "t" / "student" / "flowers.json"
    first = file.read_text()
    evaluate([str(student)], data=data, suite=["knn,flowers"], out=out, **FAST)
    assert file.read_text() == first
    evaluate([str(student)], data=data, suite=["knn,flowers"], out=out, seed=5, **FAST)
    assert json.loads(file.read_text())["seed"] == 5


def test_a_result_is_made_again_when_more_is_there_to_learn_from_or_to_test_on(student, tmp_path):
    data, out = tmp_path / "data", tmp_path / "t.json"
    tiny_sets.imagenet(data)

    def seen() -> tuple[str, set[str]]:
        evaluate([str(student)], data=data, suite=["knn,imagenet"], out=out, **FAST)
        key = json.loads((tmp_path / "t" / "student" / "knn.json").read_text())["key"]
        return key, set(json.loads(out.read_text())["scores"])

    first, scores = seen()
    assert "imagenet/imagenet_r" not in scores
    tiny_sets.picture(data / "imagenet" / "train" / tiny_sets.WNIDS[0] / "late.JPEG", 0, 900)
    tiny_sets.relatives(data)
    second, scores = seen()
    assert second != first and "imagenet/imagenet_r" in scores
    assert seen()[0] == second


def test_a_split_is_hashed_once_for_all_models_and_tasks(data, student, tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(shelf, "sha_of_images", lambda images: hashed.append(images) or sha_of_images(images))
    models = [f"one={student}", f"two={student}"]
    evaluate(models, data=data, suite=["knn,whiten,flowers"], out=tmp_path / "t.json", **FAST)
    assert len(hashed) == 4  # ImageNet's and Flowers' train and test


def test_missing_data_sets_are_listed_with_their_place_and_origin_and_the_rest_runs(student, tmp_path, capsys):
    data = tmp_path / "data"
    tiny_sets.dtd(data)
    evaluate([str(student)], data=data, suite=["transfer"], out=tmp_path / "t.json", **FAST)
    shown = capsys.readouterr().out
    assert "dtd" in shown
    assert (
        f"""
  Food101: expected
    {data}/food101/
      food-101/images/   <- missing
      food-101/meta/train.json   <- missing
      food-101/meta/test.json   <- missing
    from python -c "from torchvision.datasets import Food101; Food101('DIR/food101', download=True)"
"""
        in shown
    )
    assert set(json.loads((tmp_path / "t.json").read_text())["missing"]) == set(TRANSFER) - {"dtd"}


def test_a_task_asked_for_by_name_without_its_data_is_an_error_and_writes_nothing(student, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"ade20k needs a data set that is not in .*\nADE20K: expected") as caught:
        evaluate([str(student)], data=tmp_path / "data", suite=["ade20k"], out=tmp_path / "t.json", **FAST)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "t.json").exists()


def test_a_broken_data_set_is_named_with_its_tree_after_the_rest_was_measured(student, tmp_path):
    data = tmp_path / "data"
    tiny_sets.dtd(data)
    tiny_sets.food101(data)
    (data / "food101" / "food-101" / "meta" / "train.json").write_text("{}")
    with pytest.raises(DataError, match=r"student/food101: .* no images are listed\nFood101: the layout is") as caught:
        evaluate([str(student)], data=data, suite=["dtd,food101"], out=tmp_path / "t.json", **FAST)
    assert caught.value.exit_code == 3
    assert (tmp_path / "t" / "student" / "dtd.json").exists()
    assert not (tmp_path / "t" / "student" / "food101.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_splits_with_different_classes_are_refused(student, tmp_path):
    data = tmp_path / "data"
    tiny_sets.imagenet(data)
    tiny_sets.folders(data / "imagenet" / "val", ["n99999999"], 2)
    with pytest.raises(DataError, match="'n99999999' is to be tested on, but there is nothing to learn it from; both"):
        evaluate([str(student)], data=data, suite=["knn"], out=tmp_path / "t.json", **FAST)


def test_a_head_that_answers_for_other_classes_is_refused(data, student, helpers, tmp_path):
    with pytest.raises(TeacherError):
        evaluate([str(student)], data=data, suite=["heads"], out=tmp_path / "t.json", **FAST)  # weights: auto
    other = tmp_path / "data"
    tiny_sets.folders(other / "imagenet" / "train", tiny_sets.WNIDS[:4], 2)
    tiny_sets.folders(other / "imagenet" / "val", tiny_sets.WNIDS[:4], 2, first=9)
    with pytest.raises(DataError, match="heads: 'deit3' answers for 10 classes, but the data has 4"):
        evaluate([str(student)], data=other, suite=["heads"], out=tmp_path / "t.json", **helpers, **FAST)
    with pytest.raises(DataError, match="4 classes, but 1000 names"):
        evaluate([str(student)], data=other, suite=["zero_shot"], out=tmp_path / "t.json", **helpers, **FAST)


def test_other_class_names_are_another_task(student, helpers, tmp_path):
    keys = set()
    for names in (tiny_sets.WORDS, [*tiny_sets.WORDS[1:], tiny_sets.WORDS[0]]):
        tiny_sets.imagenet(tmp_path / "data")
        (tmp_path / "data" / "imagenet" / "classnames.txt").write_text("\n".join(names))
        evaluate(
            [str(student)], data=tmp_path / "data", suite=["zero_shot"], out=tmp_path / "t.json", **helpers, **FAST
        )
        keys.add(json.loads((tmp_path / "t" / "student" / "zero_shot.json").read_text())["key"])
    assert len(keys) == 2


def test_a_model_without_such_a_teacher_cannot_be_asked(data, golden, tmp_path):
    weights = [f"dino={golden / 'teachers' / 'dino.pth'}"]
    dino = {"weights": weights, "option": [f"dino.size={SHAPE}"]}
    with pytest.raises(RecipeError, match="teacher:dino/zero_shot: no teacher of it has a text tower"):
        evaluate(["teacher:dino"], data=data, suite=["zero_shot"], out=tmp_path / "t.json", **dino, **FAST)


def test_one_teachers_head_can_be_asked_for_and_one_that_never_taught_is_refused(data, student, helpers, tmp_path):
    out = tmp_path / "t.json"
    evaluate([str(student)], data=data, suite=["heads:deit3"], out=out, **helpers, **FAST)
    assert list(json.loads(out.read_text())["scores"]) == ["heads/deit3"]
    with pytest.raises(
        RecipeError, match="student has no projector for 'dino'; it was taught by deit3, metaclip"
    ) as bad:
        evaluate([str(student)], data=data, suite=["heads:dino"], out=tmp_path / "u.json", **helpers, **FAST)
    assert bad.value.exit_code == 2 and not (tmp_path / "u.json").exists()


def test_images_that_overflow_are_an_error_not_a_result(data, student, tmp_path):
    state = load_file(student)
    with safe_open(student, "pt") as file:
        metadata = file.metadata()
    state["trunk.blocks.1.mlp.fc2.bias"][0] = torch.inf
    broken = tmp_path / "broken.safetensors"
    save_file(state, broken, metadata)
    with pytest.raises(DataError, match="the features of image 0 are not finite"):
        evaluate([str(broken)], data=data, suite=["knn"], out=tmp_path / "t.json", **FAST)
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*features.safetensors"))


def test_features_of_another_model_in_the_cache_are_refused(data, student, tmp_path):
    evaluate([str(student)], data=data, suite=["knn"], out=tmp_path / "t.json", **FAST)
    file = next((tmp_path / "features").glob("*.safetensors"))
    held = load_file(file)
    save_file(held, file, {"model": "0" * 64})
    (tmp_path / "t" / "student" / "knn.json").unlink()
    with pytest.raises(DataError, match=r"made with another model .*\n  Remove the file; it will be made again"):
        evaluate([str(student)], data=data, suite=["knn"], out=tmp_path / "t.json", **FAST)


def test_a_suite_that_does_not_exist_names_the_nearest():
    with pytest.raises(RecipeError, match=r"'papper' is neither a suite nor a task\. Did you mean 'paper'\?"):
        suites.select(["papper"], Settings())


def test_two_models_of_one_name_must_be_told_apart(data, student, tmp_path):
    with pytest.raises(RecipeError, match="two models would share a column"):
        evaluate([str(student), str(student)], data=data, suite=["knn"], out=tmp_path / "t.json", **FAST)
    evaluate([f"a={student}", f"b={student}"], data=data, suite=["knn"], out=tmp_path / "t.json", **FAST)
    assert list(json.loads((tmp_path / "t.json").read_text())["models"]) == ["a", "b"]


# --- features -------------------------------------------------------------------------------------


def test_the_official_checkpoint_gives_the_golden_features(golden, tmp_path):
    expected = load_file(golden / "unic_official_tiny.expected.safetensors")
    model = load(golden / "unic_official_tiny.pth")
    torch.testing.assert_close(
        model(expected["image_56"]), Features(expected["cls_56"], expected["patch_56"]), rtol=1e-5, atol=1e-5
    )
    (tmp_path / "images").mkdir()
    pixels = torch.randint(256, (3, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for number, one in enumerate(pixels.numpy()):
        Image.fromarray(one).save(tmp_path / "images" / f"{number}.png")
    features(str(golden / "unic_official_tiny.pth"), tmp_path / "images", out=tmp_path / "f.safetensors", device="cpu")
    found = load_file(tmp_path / "f.safetensors")
    assert found["index"].tolist() == [0, 1, 2] and found["labels"].tolist() == [-1, -1, -1]
    cropped = np.stack([one[4:60, 4:60] for one in pixels.numpy()])  # 64 * 224 / 256 = 56: cut, not resized
    seen = model(normalise(torch.from_numpy(cropped).permute(0, 3, 1, 2), IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(found["summary"], seen.summary, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["patches"], seen.patches, rtol=1e-5, atol=1e-5)


def test_features_can_leave_the_patches_out(student, data, tmp_path):
    features(str(student), data / "imagenet" / "val", out=tmp_path / "f.safetensors", patches=False, device="cpu")
    assert set(load_file(tmp_path / "f.safetensors")) == {"summary", "labels", "index", "names"}


def test_an_unknown_model_says_what_a_model_is(data, tmp_path):
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        features("nowhere", data / "imagenet" / "val", out=tmp_path / "f.safetensors", device="cpu")


def test_two_ranks_share_the_work_and_find_what_one_finds(student, data, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "unicscale"]
    words = ["evaluate", str(student), "--data", str(data), "--suite", "knn,flowers", "--batch", "3", "--device", "cpu"]
    done = subprocess.run([*command, *words, "--out", str(tmp_path / "2.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    evaluate([str(student)], data=data, suite=["knn,flowers"], out=tmp_path / "one" / "1.json", **FAST)
    one, two = (json.loads(file.read_text()) for file in (tmp_path / "one" / "1.json", tmp_path / "2.json"))
    assert one["scores"] == two["scores"]
    for file in (tmp_path / "one" / "features").glob("*.safetensors"):
        alone, shared = load_file(file), load_file(tmp_path / "features" / file.name)
        assert torch.equal(alone["index"], shared["index"]) and torch.equal(alone["labels"], shared["labels"])
        torch.testing.assert_close(alone["summary"], shared["summary"], rtol=1e-5, atol=1e-6)


# --- the table ------------------------------------------------------------------------------------


def result(model: str, teacher: bool, **scores: float) -> dict:
    rows = [
        {"name": n, "value": v, "low": None, "high": None, "higher_is_better": n != "rmse"} for n, v in scores.items()
    ]
    return {"model": model, "teacher": teacher, "sha256": "", "scores": rows}


def test_the_gain_is_over_the_best_teacher_of_each_task():
    results = [
        result("ours", False, knn=84.0, rmse=0.4),
        result("a", True, knn=80.0, rmse=0.8),
        result("b", True, knn=70.0, rmse=0.5),
    ]
    found = gains(tabulate(results), ["a", "b"])
    assert found["knn"] == {"best_teacher": "a", "gain": {"ours": pytest.approx(5.0)}}
    assert found["rmse"] == {"best_teacher": "b", "gain": {"ours": pytest.approx(20.0)}}


def test_transfer_is_the_mean_of_all_fifteen_or_nothing():
    some = {name: float(n) for n, name in enumerate(TRANSFER)}
    assert tabulate([result("ours", False, **some)])["transfer"]["ours"]["value"] == pytest.approx(7.0)
    del some["pets"]
    assert "transfer" not in tabulate([result("ours", False, **some)])


def test_the_published_numbers_have_a_source_and_the_names_of_our_scores():
    held = published()
    assert held["source"].endswith("arXiv:2408.05088")
    assert held["models"]["unic_l"] == held["models"]["table_2/unic_l"]
    assert held["models"]["unic_l"]["scores"]["knn"] == 85.6
    assert all(one["title"] and one["table"] and one["source"] for one in held["models"].values())
    known = {"knn", "imagenet", "transfer", "ade20k/mIoU", "nyud/rmse", "zero_shot/metaclip"}
    assert all(set(one["scores"]) <= known for one in held["models"].values())


def test_other_papers_numbers_stand_beside_ours_with_their_protocol():
    assert all(one["title"] and one["source"] and one["protocol"] and one["scores"] for one in zoo().values())
    assert not zoo().keys() & published()["models"].keys()
    shown = text_table(summary([result("ours", False, knn=84.0)], "eupe_b")).splitlines()
    assert shown[:2] == ["     ours  EUPE ViT-B", "knn  84.0        84.1"]
    assert shown[2].startswith("EUPE ViT-B, by another protocol: k-NN at 224 px, k = 10, by vote; zero-shot")
    with pytest.raises(RecipeError, match=r"--beside eupe_a: not among the published models\. Did you mean 'eupe_"):
        summary([], "eupe_a")


def test_the_table_reads_as_a_table():
    shown = text_table(summary([result("ours", False, knn=84.0), result("a", True, knn=80.0)], "unic_l"))
    assert shown.splitlines() == [
        "     ours     a  best teacher    gain  UNIC-L, 224 then 336 (paper)",
        "knn  84.0  80.0             a  +5.0 %                          85.6",
    ]


# --- MODEL ----------------------------------------------------------------------------------------


def assert_hashed_once(run, monkeypatch, capfd):
    """Whatever a run is measured by, only the checkpoint that is measured is hashed whole, and once."""
    hashed, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, *how: hashed.append(Path(file.name)) or digest(file, *how))
    for model, step in (("run", 4), ("run@high", 4), ("run@low", 2)):
        hashed.clear()
        models, given = with_teachers([str(run.parent / model)], {})
        subject = open_subject(models[0], torch.device("cpu"), given)
        shards = [str(file.relative_to(run / "checkpoints")) for file in hashed if file.suffix == ".safetensors"]
        assert shards == [f"step-{step:08}/rank-0000.safetensors"]
        assert subject.sha == sha_of(load(str(run / "checkpoints" / f"step-{step:08}"))), "results are kept under it"
        held = [*subject.module.modules(), *subject.see.modules()]
        assert len({id(module) for module in held if isinstance(module, Trunk)}) == 1
    newest = run / "checkpoints" / "step-00000004" / "rank-0000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert open_subject(f"{run}@high", torch.device("cpu")).name == "run@step-00000003"
    assert "run@high: " in (told := capfd.readouterr().err) and "The one before it is taken instead." in told


def test_a_stage_of_a_run_is_a_model(data, tmp_path, monkeypatch, capfd):
    tree = {
        "schema": 1,
        "out": str(tmp_path / "run"),
        "data": {"train": [str(data / "imagenet" / "train")], "images_per_step": 8, "workers": 1},
        "student": {"patch": 8, "options": {"embed_dim": 48, "depth": 2, "num_heads": 2}},
        "teachers": {"dino": {"weights": "random", "size": SHAPE}},
        "projector": {"hidden": 16, "last_hidden": 16, "kind": "ladder"},
        "stages": [
            {"name": "low", "size": 32, "steps": 2, "lr": {"peak": 1e-3}},
            {"name": "high", "size": 48, "steps": 2, "lr": {"peak": 1e-3}},
        ],
        "engine": {"device": "cpu"},
        "save": {"every_steps": 1, "keep": 4},
    }
    (tmp_path / "r.yaml").write_text(json.dumps(tree))
    train(load_recipe(str(tmp_path / "r.yaml")))
    sizes = {}
    for model in ("run", "run@low", "run@high", "run/checkpoints/step-00000001"):
        sizes[model] = open_subject(str(tmp_path / model), torch.device("cpu")).size
    assert sizes == {"run": 48, "run@low": 32, "run@high": 48, "run/checkpoints/step-00000001": 32}
    with pytest.raises(RecipeError, match=r"is called 'hihg'\. Did you mean 'high'\?\n  stages: low, high"):
        open_subject(str(tmp_path / "run@hihg"), torch.device("cpu"))
    evaluate([str(tmp_path / "run")], data=data, suite=["knn"], teachers=True, **FAST)
    assert_hashed_once(tmp_path / "run", monkeypatch, capfd)
    whole = json.loads((tmp_path / "run" / "evaluation" / "knn.json").read_text())
    assert {name: facts["teacher"] for name, facts in whole["models"].items()} == {"run": False, "teacher:dino": True}


def test_a_model_of_timm_is_a_model():
    settings = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
    given = {"timm:vit_tiny_patch16_224": {"weights": "random", "settings": settings}}
    subject = open_subject("timm:vit_tiny_patch16_224", torch.device("cpu"), given)
    assert (subject.size, subject.patch, subject.teacher) == (32, 8, False)
    assert subject.encode(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).patches.shape == (2, 16, 32)


def test_one_file_understood_in_two_ways_is_two_models_and_neither_gets_the_other_s_results():
    def sha(**changed: object) -> str:
        given = {"clip": find("clip").small | {"weights": "random"} | changed}
        return open_subject("teacher:clip", torch.device("cpu"), given).sha

    assert sha() == sha() != sha(activation="quick_gelu")
    model = load(places.GOLDEN / "unic_official_tiny.pth")
    usual = sha_of(model)
    model.mean = (0.5, 0.5, 0.5)
    assert sha_of(model) != usual


def test_the_python_of_the_documentation_runs(repository):
    page = (repository / "docs" / "evaluate.md").read_text()
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(block, {})


@needs_ffcv
def test_packed_images_are_measured_as_the_folders_they_came_from(data, student, tmp_path):
    packed = tmp_path / "data"
    (packed / "imagenet").mkdir(parents=True)
    for split in ("train", "val"):
        command = [sys.executable, "-m", "unicscale", "pack", str(data / "imagenet" / split)]
        done = subprocess.run([*command, str(packed / "imagenet" / f"{split}.beton")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (packed / "sketch").symlink_to(data / "sketch")
    found = {}
    for name, root in (("folders", data), ("betons", packed)):
        evaluate([str(student)], data=root, suite=["imagenet"], out=tmp_path / name / "t.json", **FAST)
        scores = json.loads((tmp_path / name / "t.json").read_text())["scores"]
        found[name] = {task: scores[task]["student"]["value"] for task in ("imagenet", "imagenet/imagenet_sketch")}
    assert found["folders"] == found["betons"]
