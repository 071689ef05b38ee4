"""What other papers measure and UNIC's does not: VOC's segmentation, SPair's keypoints; by their official layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluate.test_dense import PATCH, colours
from tests.kit import measured, tiny_sets
from unicscale.commands.evaluation import evaluate
from unicscale.contracts import Features
from unicscale.errors import DataError
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.metrics.points import most_similar
from unicscale.evaluate.runner import key_of, looks_at
from unicscale.evaluate.suites import tasks
from unicscale.evaluate.terms import Settings, Subject
from unicscale.ranks.world import World

SUBJECT = Subject("colours", torch.nn.Identity(), colours, "", 32, PATCH)


def waves(patch: int) -> Subject:
    """A patch's token is what many waves are at its mean colour: no two colours are alike in direction."""
    waves = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)) / 20

    def encode(images: torch.Tensor) -> Features:
        maps = torch.nn.functional.avg_pool2d(images.float(), patch).flatten(2).transpose(1, 2)
        return Features(None, torch.cat([(maps @ waves).sin(), (maps @ waves).cos()], dim=-1))

    return Subject("waves", torch.nn.Identity(), encode, "", 32, patch, tokens=("patches",))


def shelf(folder: Path, **said: object) -> Shelf:
    return Shelf(folder, folder / "cache", Settings.model_validate({"resamples": 50, **said}), World())


def test_voc_is_learnt_on_the_additional_masks_where_they_are(tmp_path: Path) -> None:
    for additional, images in ((True, 4), (False, 2)):
        tiny_sets.voc(tmp_path / str(additional), additional)
        train, test = (shelf(tmp_path / str(additional)).split("voc", split) for split in ("train", "test"))
        assert (len(train), len(test), train.classes) == (images, 2, 21)
        assert {image.stem for image, _ in train}.isdisjoint(image.stem for image, _ in test)
        values = train.read(train[0][1])
        assert values.dtype == np.uint8 and set(np.unique(values)) <= {0, 1, 2, 255}, (
            "numbers, not colours of a palette"
        )


def test_a_linear_head_on_colours_segments_voc(tmp_path: Path) -> None:
    tiny_sets.voc(tmp_path)
    (score,) = tasks()["voc"].run(SUBJECT, shelf(tmp_path, dense_size=60, dense_steps=150))
    assert score.name == "voc/mIoU" and score.value > 40  # one class everywhere gives 11


def test_additional_masks_without_their_list_are_named(tmp_path: Path) -> None:
    tiny_sets.voc(tmp_path)
    lists = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    line = "/JPEGImages/2007_000002.jpg /SegmentationClassAug/2007_000002.png\n"
    (lists / "trainaug.txt").rename(lists / "train_aug.txt").write_text(line)
    assert len(shelf(tmp_path).split("voc", "train")) == 1, "the other spelling of that list"
    (lists / "train_aug.txt").unlink()
    with pytest.raises(
        DataError, match=r"trainaug\.txt is missing, which lists what SegmentationClassAug has masks of"
    ):
        shelf(tmp_path).split("voc", "train")


# --- keypoints --------------------------------------------------------------------------------------


def test_a_point_is_found_where_the_scene_was_moved_to() -> None:
    generator = torch.Generator().manual_seed(0)
    scene = torch.randn(6, 6, 32, generator=generator)
    moved = scene.roll((1, 2), (0, 1))
    places = torch.tensor([[0.5, 0.5], [2.5, 3.5], [3.5, 1.5]])  # (x, y), in patches
    found = most_similar(scene.flatten(0, 1), moved.flatten(0, 1), places / 6)
    assert (6 * found - places - torch.tensor([2.0, 1.0])).abs().max() < 0.2  # an eighth of a patch, and its diagonal


@pytest.mark.parametrize("size", [64, 32])
def test_every_keypoint_of_a_moved_scene_is_found_by_its_colours(tmp_path: Path, size: int) -> None:
    tiny_sets.spair(tmp_path)
    scores = {one.name: one for one in tasks()["spair"].run(waves(size // 8), shelf(tmp_path, dense_size=size))}
    assert list(scores) == ["spair/pck@0.1", "spair/per keypoint", "spair/per category"]
    assert [one.value for one in scores.values()] == [100, 100, 100]


def test_a_keypoint_counts_up_to_a_tenth_of_the_longer_side_of_the_box(tmp_path: Path) -> None:
    tiny_sets.spair(tmp_path)
    files = sorted((tmp_path / "SPair-71k" / "PairAnnotation" / "test").iterdir())
    for file, away in zip(files, ([5, 0], [11, 0], [0, 0]), strict=True):  # the box is 80 wide and 52 high
        held = json.loads(file.read_text())
        held["trg_kps"][0] = [a + b for a, b in zip(held["trg_kps"][0], away, strict=True)]
        file.write_text(json.dumps(held))
    scores = {one.name: one.value for one in tasks()["spair"].run(waves(8), shelf(tmp_path, dense_size=64))}
    assert scores["spair/per keypoint"] == pytest.approx(100 * 8 / 9)
    assert scores["spair/pck@0.1"] == pytest.approx(100 * (1 + 2 / 3 + 1) / 3)
    assert scores["spair/per category"] == pytest.approx(100 * (5 / 6 + 1) / 2), "two pairs of cats, one of dogs"


def test_names_without_a_colon_are_read_and_a_missing_pair_is_named(tmp_path: Path) -> None:
    tiny_sets.spair(tmp_path)
    files = sorted((tmp_path / "SPair-71k" / "PairAnnotation" / "test").iterdir())
    renamed = [file.rename(file.with_name(file.name.replace(":", "_"))) for file in files]
    assert [points for _, _, points in shelf(tmp_path).split("spair", "test")] == renamed
    renamed[0].unlink()
    with pytest.raises(DataError, match=r"PairAnnotation/test has nothing for 000002-2008_000010-2008_000011:cat"):
        shelf(tmp_path).split("spair", "test")


def test_the_pairs_that_are_learnt_from_elsewhere_are_not_asked_for(tmp_path: Path) -> None:
    tiny_sets.spair(tmp_path)
    task = tasks()["spair"]
    assert looks_at(SUBJECT, task) == [("spair", "test")]
    before = key_of(SUBJECT, task, shelf(tmp_path)).sha
    (tmp_path / "SPair-71k" / "Layout" / "large" / "trn.txt").unlink()
    assert key_of(SUBJECT, task, shelf(tmp_path)).sha == before
    file = min((tmp_path / "SPair-71k" / "PairAnnotation" / "test").iterdir())
    file.write_text(file.read_text().replace('"trg_kps": [[', '"trg_kps": [[1'))
    assert key_of(SUBJECT, task, shelf(tmp_path)).sha != before, "points are part of what was measured"
    assert len(shelf(tmp_path, limit=2).split("spair", "test")) == 2


def test_both_stand_beside_what_other_papers_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_sets.voc(tmp_path / "data")
    tiny_sets.spair(tmp_path / "data")
    student, out = measured.student(tmp_path / "student"), tmp_path / "zoo.json"
    evaluate([str(student)], data=tmp_path / "data", suite=["zoo"], out=out, beside="cradio_v4_h", **measured.FAST)
    whole, said = json.loads(out.read_text()), capsys.readouterr().out
    assert not whole["failed"] and {"imagenet", "ade20k", "nyud"} <= set(whole["missing"])
    assert {"voc/mIoU", "spair/pck@0.1"} <= whole["scores"].keys() & whole["published"]["cradio_v4_h"]["scores"].keys()
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith(("voc", "spair"))}
    assert rows.keys() == {"voc/mIoU", "spair/pck@0.1"}, "the other two means are details"
    assert [row[-1] for row in rows.values()] == ["87.24", "60.57"]
