"""Data sets of one's own: labelled folders, masks, distances."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.kit import measured, tiny_sets
from tests.kit.measured import FAST
from unicscale.commands.evaluation import evaluate
from unicscale.errors import DataError, RecipeError
from unicscale.evaluate import suites
from unicscale.evaluate.sets import own
from unicscale.evaluate.terms import Settings


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured.student(tmp_path_factory.mktemp("student"))


def scenes(root: Path, kind: str, numbers: range, below: str = "") -> None:
    """Images of coloured blocks and a map each: what the blue channel says."""
    for number in numbers:
        blocks = np.random.default_rng(number).integers(0, 3, (3, 4)).repeat(20, 0).repeat(20, 1).astype(np.uint8)
        image = Image.fromarray(np.stack([blocks * 40, blocks * 10, blocks * 60], -1))
        held = Image.fromarray(blocks if kind == "masks" else (blocks.astype(np.uint16) + 1) * 1000)
        for folder, one in (("images", image), (kind, held)):
            path = root / folder / below / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            one.save(path)


def scores(out: Path) -> dict:
    return json.loads(out.read_text())["scores"]


def test_whatever_lies_there_is_measured_by_its_name(student, tmp_path):
    data = tmp_path / "mine"
    tiny_sets.folders(data / "photos", ["a", "b"], 12)
    tiny_sets.folders(data / "split" / "train", ["a", "b"], 4)
    tiny_sets.folders(data / "split" / "test", ["a", "b"], 2, first=50)
    scenes(data / "street", "masks", range(6), "train")
    scenes(data / "street", "masks", range(6, 9), "val")
    scenes(data / "rooms", "depth", range(30))
    evaluate([str(student)], data=data, suite=["own"], out=tmp_path / "t.json", **FAST)
    found = set(scores(tmp_path / "t.json"))
    assert {"knn:photos", "linear:photos", "knn:split", "linear:split"} <= found
    assert {"segment:street/mIoU", "depth:rooms/rmse"} <= found


def test_a_folder_is_asked_for_by_its_name_or_is_the_data_itself(student, tmp_path):
    photos = tmp_path / "photos"
    tiny_sets.folders(photos, ["a", "b"], 12)
    for data, out in ((tmp_path, "above.json"), (photos, "itself.json")):
        evaluate([str(student)], data=data, suite=["knn:photos"], out=tmp_path / out, **FAST)
    assert scores(tmp_path / "above.json") == scores(tmp_path / "itself.json")


def test_train_and_test_are_found_without_another_word(student, tmp_path):
    tiny_sets.folders(tmp_path / "photos" / "train", ["a", "b"], 4)
    tiny_sets.folders(tmp_path / "photos" / "test", ["a", "b"], 2, first=50)
    evaluate([str(student)], data=tmp_path / "photos", suite=["knn"], out=tmp_path / "t.json", **FAST)
    assert "knn" in scores(tmp_path / "t.json")


def test_another_image_moves_none_from_one_side_to_the_other():
    names = [f"{number}.jpg" for number in range(200)]
    labels = np.arange(200) % 4
    test = own.keyed(names, labels)
    assert 0.1 < test.mean() < 0.3
    more = own.keyed([*names, "new.jpg"], np.append(labels, 1))
    assert np.array_equal(more[:200], test)


def test_every_class_has_something_to_learn_from_and_something_to_be_asked():
    labels = np.arange(40).repeat(2)
    test = own.keyed([f"{number}.jpg" for number in range(80)], labels)
    assert all(test[labels == label].sum() == 1 for label in range(40))


def test_set_yaml_says_what_the_numbers_mean(tmp_path):
    scenes(tmp_path, "masks", range(20))
    assert own.dense("masks", tmp_path, "train").classes == 3
    (tmp_path / "set.yaml").write_text("{first: 1, classes: [road, sky], ignore: 9}")
    pairs = own.dense("masks", tmp_path, "train")
    values = np.unique([pairs.read(target) for _, target in pairs])
    assert pairs.classes == 2 and set(values) == {0, 1, 255}
    (tmp_path / "set.yaml").write_text("{clases: 3}")
    with pytest.raises(DataError, match=r"set\.yaml: clases: .*\n  It takes: classes, first, ignore, unit, far"):
        own.dense("masks", tmp_path, "train")


def test_depth_is_in_metres_whatever_the_unit(tmp_path):
    scenes(tmp_path, "depth", range(20))
    (tmp_path / "set.yaml").write_text("{unit: 0.01, far: 25}")
    pairs = own.dense("depth", tmp_path, "test")
    assert pairs.far == 25 and np.unique(pairs.read(pairs[0][1])).max() == pytest.approx(30)


def test_an_image_without_a_mask_and_a_mask_in_colours_are_named(student, tmp_path):
    data = tmp_path / "street"
    scenes(data, "masks", range(20))
    Image.new("RGB", (80, 60)).save(data / "masks" / "0.png")
    with pytest.raises(DataError, match=r"0\.png: a mask holds one whole number per pixel, and this is 60 x 80 x 3"):
        evaluate([str(student)], data=tmp_path, suite=["segment:street"], out=tmp_path / "t.json", **FAST)
    (data / "masks" / "0.png").unlink()
    with pytest.raises(DataError, match=r"images/0\.png: .*masks has nothing of its name"):
        evaluate([str(student)], data=tmp_path, suite=["segment:street"], out=tmp_path / "t.json", **FAST)


def test_a_folder_of_another_kind_shows_the_layouts(tmp_path):
    tiny_sets.folders(tmp_path / "photos", ["a", "b"], 2)
    with pytest.raises(DataError, match=r"segment:photos: .* is no masks set\.\n  labelled: +train/CLASS"):
        suites.select(["segment:photos"], Settings(), tmp_path)
    with pytest.raises(DataError, match="no data set is recognised"):
        suites.select(["own"], Settings(), tmp_path / "photos" / "a")
    with pytest.raises(RecipeError, match=r"of your own data: knn:FOLDER, linear:FOLDER"):
        suites.select(["segmnt:photos"], Settings(), tmp_path)


def test_a_dense_head_learns_at_the_rate_that_was_said(student, tmp_path):
    scenes(tmp_path / "street", "masks", range(24))
    few = FAST | {"dense_steps": 30}
    evaluate([str(student)], data=tmp_path, suite=["own"], out=tmp_path / "usual.json", **few)
    evaluate([str(student)], data=tmp_path, suite=["own"], out=tmp_path / "rough.json", **few | {"dense_lr": 0.1})
    usual, rough = (scores(tmp_path / f"{n}.json")["segment:street/mIoU"]["student"] for n in ("usual", "rough"))
    assert rough["value"] < usual["value"] - 10  # its steps are too large to settle
    assert '"lr": 0.1' in next((tmp_path / "rough").rglob("segment*.json")).read_text()


def test_a_result_from_before_the_rate_could_be_said_keeps_its_key():
    assert "dense_lr" not in Settings().keyed
    assert Settings(dense_lr=0.01).keyed["dense_lr"] == 0.01
