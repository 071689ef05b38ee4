"""Data sets of one's own: labelled folders, masks, distances."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.kit import measured, tiny_sets
from tests.kit.measured import FAST
from unicscale.commands.evaluation import evaluate
from unicscale.contracts import Features
from unicscale.errors import DataError, RecipeError
from unicscale.evaluate import suites
from unicscale.evaluate.metrics.depth import DepthHead, depth_loss
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
    with pytest.raises(
        DataError, match=r"set\.yaml: clases: .*\n  It takes: classes, first, ignore, values, unit, far"
    ):
        own.dense("masks", tmp_path, "train")


def test_depth_is_in_metres_whatever_the_unit(tmp_path):
    scenes(tmp_path, "depth", range(20))
    (tmp_path / "set.yaml").write_text("{unit: 0.01, far: 25}")
    pairs = own.dense("depth", tmp_path, "test")
    assert pairs.far == 25 and np.unique(pairs.read(pairs[0][1])).max() == pytest.approx(30)


def test_numbers_that_are_no_counting_are_listed(tmp_path):
    scenes(tmp_path, "masks", range(20))
    (tmp_path / "set.yaml").write_text("{values: [2, 0], classes: [sky, road]}")
    pairs = own.dense("masks", tmp_path, "train")
    target = pairs[0][1]
    held = np.asarray(Image.open(target))
    assert pairs.classes == 2 and np.array_equal(pairs.read(target), np.array([1, 255, 0], np.uint8)[held])
    for said, why in (
        ("{values: [3, 3]}", r"values: two to 255 different numbers"),
        ("{values: [0, 255], ignore: 7}", r"ignore: said by values already"),
        ("{values: [0, 255], classes: 3}", r"values: 2 numbers for 3 classes"),
    ):
        (tmp_path / "set.yaml").write_text(said)
        with pytest.raises(DataError, match=rf"set\.yaml: {why}"):
            own.dense("masks", tmp_path, "train")


def test_masks_of_0_and_255_are_asked_about_instead_of_scoring_a_hundred(student, tmp_path):
    """255 is ignored unless somebody says otherwise, and where one class is left every answer is right."""
    data = tmp_path / "cut-outs"
    scenes(data, "masks", range(20))
    for file in (data / "masks").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(file)) > 1, 255, 0).astype(np.uint8)).save(file)
    with pytest.raises(
        DataError, match=r"one class, and nothing can be told apart \(255 is ignored\)\.\n .*values: \[0, 255\]"
    ):
        evaluate([str(student)], data=tmp_path, suite=["own"], out=tmp_path / "t.json", **FAST)
    (data / "set.yaml").write_text("values: [0, 255]")
    evaluate([str(student)], data=tmp_path, suite=["own"], out=tmp_path / "t.json", **FAST)
    assert 0 < scores(tmp_path / "t.json")["segment:cut-outs/mIoU"]["student"]["value"] < 100


def test_depth_in_fractions_or_8_bits_is_no_millimetres_unless_it_is_said(tmp_path):
    scenes(tmp_path, "depth", range(20))
    (tmp_path / "depth" / "0.png").unlink()
    for name, held in (("0.npy", np.full((60, 80), 2.5, np.float32)), ("0.png", np.full((60, 80), 250, np.uint8))):
        file = tmp_path / "depth" / name
        np.save(file, held) if file.suffix == ".npy" else Image.fromarray(held).save(file)
        with pytest.raises(
            DataError, match=r"numbers of (float32|uint8); only whole .*\n .*unit: 1 for a map in metres"
        ):
            own.dense("depth", tmp_path, "test").read(file)
        (tmp_path / "set.yaml").write_text("unit: 1")
        assert own.dense("depth", tmp_path, "test").read(file).max() == held.max()
        (tmp_path / "set.yaml").unlink()
        file.unlink()


def test_what_lies_too_far_is_not_learnt(tmp_path):
    prediction = torch.full((1, 4, 4), 3.0)
    near, far = torch.full((1, 8, 8), 3.0), torch.full((1, 8, 8), 3.0)
    far[:, :, 4:] = 80.0
    assert depth_loss(prediction, far, far=10.0) == depth_loss(prediction, near)
    assert depth_loss(prediction, far) > depth_loss(prediction, near)


def test_heads_begin_at_the_depths_that_the_maps_hold():
    head, held = DepthHead(6, 0.001, 10.0), torch.tensor([0.5, 0.5, 1.0, 2.0])
    features = Features(torch.randn(2, 6), torch.randn(2, 4, 6))
    assert float(head(features).detach().mean()) == pytest.approx(5, abs=0.01), "all bins alike"
    head.begin_at(held)
    torch.testing.assert_close(head(features), torch.full((2, 8, 8), 1.0), atol=0.06, rtol=0)


def test_a_head_that_no_constant_would_be_worse_than_is_said(student, tmp_path, capfd):
    for number in range(4):
        for folder, held in (
            ("images", np.zeros((40, 40, 3), np.uint8)),
            ("depth", np.full((40, 40), 2000, np.uint16)),
        ):
            (tmp_path / "rooms" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(held).save(tmp_path / "rooms" / folder / f"{number}.png")
    evaluate([str(student)], data=tmp_path, suite=["own"], out=tmp_path / "t.json", **FAST)
    said = capfd.readouterr().err
    assert (
        "and whoever says 2 m of every pixel has 0 m: the head has not learnt this set.\n  Give it more --dense-"
        in said
    )
    assert scores(tmp_path / "t.json")["depth:rooms/rmse"]["student"]["value"] < 0.1, "it began there all the same"
    scenes(tmp_path / "blocks", "depth", range(30))
    evaluate([str(student)], data=tmp_path, suite=["depth:blocks"], out=tmp_path / "b.json", **FAST)
    assert "has not learnt" not in capfd.readouterr().err


def test_a_user_s_map_of_nyu_s_size_has_no_frame_to_cut_off(student, tmp_path):
    wide = np.full((480, 640), 1000, np.uint16)
    for number in range(4):
        for folder, held in (("images", np.full((480, 640, 3), 90, np.uint8)), ("depth", wide)):
            (tmp_path / "rooms" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(held).save(tmp_path / "rooms" / folder / f"{number}.png")
    framed = wide.copy()
    framed[:45] = 9000  # which NYUd's crop would not look at
    for file in (tmp_path / "rooms" / "depth").iterdir():
        Image.fromarray(framed).save(file)
    evaluate([str(student)], data=tmp_path, suite=["own"], out=tmp_path / "t.json", **FAST)
    told = next((tmp_path / "t").rglob("depth*.json")).read_text()
    assert "Eigen" not in told and "neither learnt nor asked" in told
    assert scores(tmp_path / "t.json")["depth:rooms/rmse"]["student"]["value"] > 0.5


def test_splits_that_only_one_side_has_are_refused_and_not_split_by_name(tmp_path):
    scenes(tmp_path, "masks", range(6), "train")
    scenes(tmp_path, "masks", range(6, 9), "val")
    (tmp_path / "masks" / "val").rename(tmp_path / "masks" / "validation")
    with pytest.raises(DataError, match=r"images/val: images/ and masks/ have folders of the same names inside"):
        own.dense("masks", tmp_path, "test")
    (tmp_path / "masks" / "validation").rename(tmp_path / "masks" / "val")
    for folder in ("images", "masks"):
        (tmp_path / folder / "train").rename(tmp_path / folder / "learn")
    with pytest.raises(DataError, match="none to learn from"):
        own.dense("masks", tmp_path, "train")


def test_suffixes_in_capitals_are_read_and_two_maps_of_one_name_are_asked_about(tmp_path):
    scenes(tmp_path, "masks", range(20))
    (tmp_path / "masks" / "0.png").rename(tmp_path / "masks" / "0.PNG")
    assert len(own.dense("masks", tmp_path, "train")) + len(own.dense("masks", tmp_path, "test")) == 20
    np.save(tmp_path / "masks" / "0.npy", np.zeros((60, 80), np.uint8))
    with pytest.raises(DataError, match=r"0\.npy: 0\.PNG is a map of the same name; which of them counts"):
        own.dense("masks", tmp_path, "train")


@pytest.mark.parametrize("task", ["knn", "linear"])
def test_as_many_classes_of_other_names_are_not_taken_for_the_same(student, tmp_path, task):
    tiny_sets.folders(tmp_path / "photos" / "train", ["apple", "bee", "cat"], 4)
    tiny_sets.folders(tmp_path / "photos" / "val", ["apple", "cat", "dog"], 2, first=50)
    said = r"'dog' is to be tested on, but there is nothing to learn it from and there is 'bee' to learn from"
    with pytest.raises(DataError, match=said):
        evaluate([str(student)], data=tmp_path, suite=[f"{task}:photos"], out=tmp_path / "t.json", **FAST)


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
