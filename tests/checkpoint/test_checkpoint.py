"""Checkpoints: what is committed can be read by anybody, what is not whole is never used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unicscale import checkpoint
from unicscale.checkpoint.committing import everybody, give_up, write_part
from unicscale.checkpoint.layout import divide, held, missing
from unicscale.checkpoint.manifest import Manifest, Range, prove
from unicscale.checkpoint.reading import States, opened
from unicscale.checkpoint.retention import tidy
from unicscale.contracts import Progress
from unicscale.engine import Piece
from unicscale.errors import CheckpointError
from unicscale.ranks.voice import open_voice
from unicscale.ranks.world import World
from unicscale.recipe import Recipe

NAMES = ["trunk.weight", "trunk.norm", "projector.bias"]


class Shelf:
    """The smallest thing with pieces: rank `rank` of `world` holds an equal flat slice of every tensor."""

    def __init__(self, value: float, rank: int = 0, world: int = 1) -> None:
        self.restorations = 0
        self.tensors: dict[str, Piece] = {}
        for number, (name, shape) in enumerate(zip(NAMES, [(4, 6), (5,), (7,)], strict=True)):
            whole = torch.arange(torch.Size(shape).numel(), dtype=torch.float32) + 100 * number + value
            first, stop = rank * len(whole) // world, (rank + 1) * len(whole) // world
            for kind in ("weights", "exp_avg"):
                self.tensors[f"{kind}/{name}"] = Piece(whole[first:stop].clone(), first, shape)

    def pieces(self) -> dict[str, Piece]:
        return self.tensors

    def restored(self) -> None:
        self.restorations += 1


class Buffers(nn.Module):
    """Statistics of some teacher."""

    def __init__(self, mean: Tensor, count: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("count", count)


def recipe(**save: object) -> Recipe:
    return Recipe.model_validate(
        {
            "schema": 1,
            "out": "runs/x",
            "data": {"train": ["a/train.beton"], "images_per_step": 4},
            "teachers": {"one": {"weights": "random"}},
            "stages": [{"name": "low", "size": 32, "steps": 10, "lr": {"peak": 1e-3}}],
            "save": {"keep": 2} | save,
        }
    )


def saved(folder: Path, *steps: int, states: States | None = None, **save: object) -> Path:
    saver = checkpoint.Saver(folder, recipe(**save), World(), parameters=NAMES)
    for step in steps:
        saver.save(Progress(0, step, 4 * step), Shelf(step), states or {}, wait=True)
    return folder / f"step-{steps[-1]:08d}"


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


def test_what_was_saved_comes_back_with_its_progress_recipe_and_statistics(tmp_path: Path) -> None:
    mean = torch.tensor([1.5, 2.5], dtype=torch.float64)
    saved(tmp_path, 3, states={"statistics": Buffers(mean, torch.tensor(7))})
    found = checkpoint.find(tmp_path, World())
    assert found is not None and found.progress == Progress(0, 3, 12) and found.recipe == recipe()
    shelf = Shelf(-1.0)
    statistics = Buffers(torch.zeros(2, dtype=torch.float64), torch.tensor(0))
    checkpoint.restore(found, shelf, World(), parameters=NAMES, states={"statistics": statistics})
    assert shelf.restorations == 1
    assert all(torch.equal(shelf.tensors[n].flat, piece.flat) for n, piece in Shelf(3).tensors.items())
    assert torch.equal(statistics.mean, mean) and statistics.count == 7
    assert (tmp_path / "LATEST").read_text() == "step-00000003\n"


def test_a_snapshot_is_of_the_step_it_was_taken_at_though_training_goes_on(tmp_path: Path) -> None:
    saver, shelf = checkpoint.Saver(tmp_path, recipe(), World(), parameters=NAMES), Shelf(1)
    saver.save(Progress(0, 1, 4), shelf, {})
    live = {piece.flat.data_ptr() for piece in shelf.tensors.values()}
    assert not live & {tensor.data_ptr() for tensor in saver.host.values()}  # a race would hide it most of the time
    for piece in shelf.tensors.values():
        piece.flat.fill_(-7)
    saver.wait()
    assert torch.equal(checkpoint.weights_of(tmp_path)["trunk.norm"], Shelf(1).tensors["weights/trunk.norm"].flat)


@pytest.fixture
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    file = tmp_path_factory.mktemp("logs") / "rank-0000.log"
    open_voice(file, 0, speaks=False)
    yield file.read_text
    open_voice(None, 0, speaks=False)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranges_written_by_any_number_of_ranks_cover_every_tensor_once(world: int) -> None:
    entries = divide([held(Shelf(0, rank, world).pieces()) for rank in range(world)])
    assert missing(entries, [f"weights/{name}" for name in NAMES]) == []
    for entry in entries.values():
        assert sum(stop - start for start, stop, _ in entry.ranges) == torch.Size(entry.shape).numel()


def test_replicated_tensors_are_written_once_and_the_writing_is_shared() -> None:
    entries = divide([held(Shelf(0).pieces())] * 4)
    assert all(len(entry.ranges) == 1 for entry in entries.values())
    assert len({entry.ranges[0].file for entry in entries.values()}) == 4


@pytest.mark.parametrize("part", range(3))
def test_any_slice_of_a_tensor_is_read_back_from_whole_files(tmp_path: Path, part: int) -> None:
    found = checkpoint.locate(saved(tmp_path, 3))
    shelf = Shelf(-1, part, 3)
    found.fill(shelf.tensors)
    assert all(torch.equal(shelf.tensors[n].flat, piece.flat) for n, piece in Shelf(3, part, 3).tensors.items())


def test_a_parameter_that_no_rank_holds_stops_the_save() -> None:
    with pytest.raises(AssertionError, match=r"no rank holds \['weights/trunk.mask'\]"):
        checkpoint.Saver(Path("x"), recipe(), World(), parameters=["trunk.mask"]).save(Progress(), Shelf(0), {})


def test_a_frozen_parameter_that_the_checkpoint_lacks_is_named(tmp_path: Path) -> None:
    found = checkpoint.locate(saved(tmp_path, 1))
    shelf = Shelf(0)
    shelf.tensors["weights/trunk.mask"] = Piece(torch.zeros(3), 0, (3,))
    with pytest.raises(
        CheckpointError, match=r"does not fit this student:\n    weights/trunk.mask is not in the checkpoint"
    ):
        checkpoint.restore(found, shelf, World(), parameters=[*NAMES, "trunk.mask"])


def test_a_parameter_the_engine_forgets_to_offer_is_named(tmp_path: Path) -> None:
    found, shelf = checkpoint.locate(saved(tmp_path, 1)), Shelf(0)
    del shelf.tensors["weights/trunk.norm"]
    with pytest.raises(CheckpointError, match=r"weights/trunk.norm has no place in this student"):
        checkpoint.restore(found, shelf, World(), parameters=NAMES)


def test_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    found, shelf = checkpoint.locate(saved(tmp_path, 1)), Shelf(0)
    shelf.tensors["weights/trunk.norm"] = Piece(torch.zeros(6), 0, (6,))
    with pytest.raises(CheckpointError, match=r"weights/trunk.norm is \(5,\) in the checkpoint and \(6,\) here"):
        checkpoint.restore(found, shelf, World(), parameters=NAMES)


def test_moments_declared_fresh_stay_as_they_are(tmp_path: Path) -> None:
    found, shelf = checkpoint.locate(saved(tmp_path, 5)), Shelf(0)
    checkpoint.restore(found, shelf, World(), parameters=NAMES, fresh=("exp_avg",))
    assert torch.equal(shelf.tensors["exp_avg/trunk.norm"].flat, Shelf(0).tensors["exp_avg/trunk.norm"].flat)
    assert torch.equal(shelf.tensors["weights/trunk.norm"].flat, Shelf(5).tensors["weights/trunk.norm"].flat)


def test_one_flipped_bit_anywhere_is_found_and_the_one_before_is_used(tmp_path: Path, said: Callable[[], str]) -> None:
    saved(tmp_path, 1, 2)
    newest = tmp_path / "step-00000002"
    files = sorted(newest.iterdir())
    assert {file.name for file in files} == {"manifest.json", "rank-0000.safetensors", "recipe.yaml", "state.json"}
    for file in files:
        bits = 8 * file.stat().st_size
        for bit in (0, bits // 3, bits // 2, bits - 1):
            flip(file, bit)
            found = checkpoint.find(tmp_path, World())
            assert found is not None and found.progress.step == 1
            assert f"step-00000002 is skipped: {file.name}" in said()
            flip(file, bit)
    found = checkpoint.find(tmp_path, World())
    assert found is not None and found.progress.step == 2


def test_a_truncated_shard_is_named_with_its_size_and_the_one_before_is_used(
    tmp_path: Path, said: Callable[[], str]
) -> None:
    shard = saved(tmp_path, 1, 2) / "rank-0000.safetensors"
    size = shard.stat().st_size
    os.truncate(shard, size - 3)
    found = checkpoint.find(tmp_path, World())
    assert found is not None and found.progress.step == 1
    assert f"rank-0000.safetensors has {size - 3} bytes instead of {size}" in said()


def test_a_model_that_is_read_from_the_one_before_is_said_to_be(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shard = saved(tmp_path, 1, 2) / "rank-0000.safetensors"
    os.truncate(shard, shard.stat().st_size - 3)
    assert checkpoint.locate(tmp_path).progress.step == 1
    told = capfd.readouterr().err
    assert "step-00000002 is skipped: rank-0000.safetensors has" in told and "taken instead: step-00000001" in told


@pytest.mark.parametrize(
    ("latest", "words"), [(None, "LATEST is missing"), ("\x00junk", "LATEST says"), ("step-00000001\n", "LATEST says")]
)
def test_without_a_sound_LATEST_the_highest_step_is_found_and_it_is_said(
    tmp_path: Path, said: Callable[[], str], latest: str | None, words: str
) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / "LATEST").unlink()
    if latest:
        (tmp_path / "LATEST").write_text(latest)
    found = checkpoint.find(tmp_path, World())
    assert found is not None and found.progress.step == 2
    assert words in said()


def test_a_folder_where_nothing_is_whole_is_an_error_and_never_a_restart(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    flip(tmp_path / "step-00000001" / "state.json", 9)
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    with pytest.raises(CheckpointError) as error:
        checkpoint.find(tmp_path, World())
    assert "step-00000002 is skipped: manifest.json is missing: the save was never finished" in str(error.value)
    assert "step-00000001 is skipped: state.json does not match its sha256" in str(error.value)
    assert "--fresh" in str(error.value) and error.value.exit_code == 5


def test_a_LATEST_whose_checkpoints_are_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "LATEST").write_text("step-00000007\n")
    with pytest.raises(CheckpointError, match="LATEST names step-00000007, which is not there"):
        checkpoint.find(tmp_path, World())


def test_a_new_run_has_no_checkpoint_and_that_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.find(tmp_path, World()) is None


def test_retention_keeps_the_last_two_and_every_tenth(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10, 15, 20, 25, 30, 35, keep_every_steps=10)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-{n:08d}" for n in (10, 20, 30, 35)]
    assert not list(tmp_path.glob(".*"))


def test_retention_keeps_the_end_of_every_stage_for_ever(tmp_path: Path) -> None:
    saver = checkpoint.Saver(tmp_path, recipe(keep=1), World(), parameters=NAMES)
    for stage, step in [(0, 2), (0, 4), (1, 6), (1, 8), (2, 10), (2, 11), (2, 12)]:
        saver.save(Progress(stage, step, 0), Shelf(step), {}, wait=True)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-{n:08d}" for n in (4, 8, 12)]
    checkpoint.Saver(tmp_path, recipe(keep=1), World(), parameters=NAMES).keeper.sweep()  # another launch's
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-{n:08d}" for n in (4, 8, 12)]


def test_where_the_end_of_a_stage_is_torn_the_one_before_it_stays(tmp_path: Path) -> None:
    saver = checkpoint.Saver(tmp_path, recipe(keep=2), World(), parameters=NAMES)
    for stage, step in [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (1, 6)]:
        saver.save(Progress(stage, step, 0), Shelf(step), {}, wait=True)
        if step == 3:
            os.truncate(tmp_path / "step-00000003" / "rank-0000.safetensors", 40)
    whole = [path.name for path in tmp_path.glob("step-*") if not opened(path).problems()]
    assert sorted(whole) == ["step-00000002", "step-00000005", "step-00000006"]


def test_torn_checkpoints_do_not_count_for_retention(tmp_path: Path) -> None:
    saver = checkpoint.Saver(tmp_path, recipe(keep=2), World(), parameters=NAMES)
    for step in range(1, 7):
        saver.save(Progress(0, step, 0), Shelf(step), {}, wait=True)
        if step in (3, 4, 5):
            os.truncate(tmp_path / f"step-{step:08d}" / "rank-0000.safetensors", 40)
    whole = [path.name for path in tmp_path.glob("step-*") if not opened(path).problems()]
    assert sorted(whole) == ["step-00000002", "step-00000006"]


def test_saving_a_step_again_replaces_it_whole(tmp_path: Path) -> None:
    saver = checkpoint.Saver(tmp_path, recipe(), World(), parameters=NAMES)
    for value in (1, 2):
        saver.save(Progress(0, 9, 36), Shelf(value), {}, wait=True)
    assert torch.equal(checkpoint.weights_of(tmp_path)["trunk.norm"], Shelf(2).tensors["weights/trunk.norm"].flat)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_checkpoint_left_aside_by_a_kill_comes_back_and_half_written_ones_go(tmp_path: Path) -> None:
    saved(tmp_path, 9).rename(tmp_path / ".step-00000009.12ab.aside")
    (tmp_path / ".step-00000010.cd34.partial").mkdir()
    tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step-00000009"]


def test_a_rank_that_cannot_write_ends_the_save_with_its_own_words(tmp_path: Path) -> None:
    write_part(tmp_path, 0, {"weights/a": torch.zeros(2)})
    give_up(tmp_path, 1, "rank 1: No space left on device")
    with pytest.raises(CheckpointError, match=r"^rank 1: No space left on device$"):
        everybody(tmp_path, 2, timeout=5)


def test_a_rank_that_stays_silent_is_named_when_the_time_is_up(tmp_path: Path) -> None:
    write_part(tmp_path, 0, {"weights/a": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"rank 1 did not finish writing rank-0001.safetensors in 0 s"):
        everybody(tmp_path, 2, timeout=0.1)


def test_a_run_folder_that_a_rank_does_not_see_is_no_shared_folder(tmp_path: Path) -> None:
    saver = checkpoint.Saver(tmp_path / "gone", recipe(), World(), parameters=NAMES)
    with pytest.raises(CheckpointError, match=r"gone cannot be written: No such file or directory.\n  Choose another"):
        saver.save(Progress(0, 1, 4), Shelf(1), {})


def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    manifest = Manifest.read(path)
    manifest.files["../LATEST"] = manifest.files.pop("state.json")
    (path / "manifest.json").write_text(manifest.text())
    with pytest.raises(CheckpointError, match="names files outside its own folder"):
        checkpoint.locate(path)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ({"dtype": "load"}, r"gives weights/trunk.norm the type 'load'"),
        ({"ranges": (Range(0, 3, "rank-0000.safetensors"),)}, r"leaves numbers of weights/trunk.norm out"),
        ({"ranges": (Range(0, 5, "rank-0009.safetensors"),)}, r"takes numbers from 'rank-0009.safetensors'"),
    ],
    ids=["a type that is none", "a gap", "a file without a hash"],
)
def test_a_manifest_that_no_writer_of_ours_would_write_is_refused(
    tmp_path: Path, harm: dict[str, Any], words: str
) -> None:
    path = saved(tmp_path, 1)
    manifest = Manifest.read(path)
    manifest.tensors["weights/trunk.norm"] = replace(manifest.tensors["weights/trunk.norm"], **harm)
    (path / "manifest.json").write_text(manifest.text())
    with pytest.raises(CheckpointError, match=words):
        checkpoint.locate(path)


def test_asking_for_an_average_that_was_never_kept_says_so(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"holds no 'ema'\.\n  It was saved without engine.ema; take 'weights'."):
        checkpoint.weights_of(tmp_path, "ema")


def test_another_number_of_images_is_refused(tmp_path: Path) -> None:
    saver = checkpoint.Saver(tmp_path, recipe(), World(), parameters=NAMES, facts={"images_per_epoch": 1200})
    saver.save(Progress(0, 1, 4), Shelf(1), {}, wait=True)
    found = checkpoint.locate(tmp_path)
    checkpoint.same_data(found, {"images_per_epoch": 1200})
    with pytest.raises(CheckpointError, match="with images per epoch 1,200; the data now have 1,196"):
        checkpoint.same_data(found, {"images_per_epoch": 1196})


def test_a_checkpoint_of_another_recipe_is_never_gone_on_from(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    assert checkpoint.find(tmp_path, World(), recipe=recipe(keep=9)) is not None
    with pytest.raises(CheckpointError, match=r"was saved by another recipe:\n    seed: 0 -> 4\n  Move it"):
        checkpoint.find(tmp_path, World(), recipe=recipe().model_copy(update={"seed": 4}))


def lying(folder: Path, **claims: Any) -> None:
    """A checkpoint whose hashes are right and whose contents are not: somebody wrote it on purpose."""
    held = Manifest.read(folder)
    tensors, progress = dict(held.tensors), held.progress | claims.pop("progress", {})
    for name, entry in claims.pop("tensors", {}).items():
        tensors[name] = replace(tensors[name], **entry)
    files = dict(held.files)
    for name, text in claims.items():
        file = folder / name.replace("_", ".")
        file.write_text(text)
        files[file.name] = prove(file)
    (folder / "manifest.json").write_text(replace(held, tensors=tensors, progress=progress, files=files).text())


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "a tensor of terabytes": (
        {"tensors": {"weights/trunk.norm": {"shape": (1 << 40,)}}},
        "leaves numbers|bytes of tensors",
    ),
    "a negative side": ({"tensors": {"weights/trunk.norm": {"shape": (-1, -5)}}}, "gives weights/trunk.norm the shape"),
    "a step in letters": ({"progress": {"step": "three"}}, "says step: 'three'"),
    "a stage before the first": ({"progress": {"stage": -1}}, "says stage: -1"),
    "a state that is a list": ({"state_json": "[]"}, "state.json is not as it was saved"),
    "a state of nests": ({"state_json": "[" * 100_000}, "state.json is not as it was saved"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_checkpoint_whose_hashes_are_right_and_whose_contents_lie_is_refused(tmp_path: Path, lie: str) -> None:
    claims, said = LIES[lie]
    lying(saved(tmp_path, 3), **claims)
    with pytest.raises(CheckpointError, match=said):
        checkpoint.find(tmp_path, World(), {"images_per_epoch": 4})


def test_statistics_of_another_width_are_refused_by_their_name(tmp_path: Path) -> None:
    saved(tmp_path, 3, states={"statistics": Buffers(torch.zeros(2), torch.tensor(0))})
    found = checkpoint.find(tmp_path, World())
    assert found is not None
    with pytest.raises(CheckpointError, match=r"its statistics do not fit this recipe: .*size mismatch for mean"):
        other = Buffers(torch.zeros(3), torch.tensor(0))
        checkpoint.restore(found, Shelf(0), World(), parameters=NAMES, states={"statistics": other})


def test_the_manifest_is_json_that_names_every_range(tmp_path: Path) -> None:
    tree = json.loads((saved(tmp_path, 1) / "manifest.json").read_text())
    assert tree["tensors"]["weights/trunk.weight"] == {
        "shape": [4, 6], "dtype": "float32", "ranges": [[0, 24, "rank-0000.safetensors"]],
    }  # fmt: skip
    assert (
        tree["parameters"] == NAMES
        and tree["world"] == 1
        and tree["versions"]["torch"] == torch.__version__.split("+")[0]
    )
