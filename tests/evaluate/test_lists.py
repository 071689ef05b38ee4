"""List files of data sets that are damaged: one error that names the file, in little memory."""

import pickle
import resource

import numpy as np
import pytest

from tests.kit import tiny_sets
from unicscale.errors import DataError
from unicscale.evaluate.sets.catalogue import open_split
from unicscale.evaluate.sets.lists import read_pickle

LISTS = [
    (tiny_sets.flowers, "flowers", "flowers/flowers-102/setid.mat"),
    (tiny_sets.cars196, "cars196", "cars196/stanford_cars/devkit/cars_train_annos.mat"),
    (tiny_sets.food101, "food101", "food101/food-101/meta/train.json"),
    (tiny_sets.inat, "inat2018", "inat2018/train2018.json"),
    (tiny_sets.cog, "cog_l1", "cog/cog_levels_mapping_file.pkl"),
]


@pytest.mark.parametrize(("make", "name", "file"), LISTS)
@pytest.mark.parametrize("damage", ["null", "[]", "nothing", "half", "noise"])
def test_a_damaged_list_is_named(tmp_path, make, name, file, damage):
    make(tmp_path)
    path = tmp_path / file
    whole = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, len(whole), dtype=np.uint8).tobytes()
    path.write_bytes({"nothing": b"", "half": whole[: len(whole) // 2], "noise": noise}.get(damage, damage.encode()))
    with pytest.raises(DataError) as caught:
        open_split(tmp_path, name, "train")
    assert path.name in str(caught.value).splitlines()[0]


def memo(index: int) -> bytes:
    """A pickle that remembers its only object under a large number."""
    return b"\x80\x04N" + b"r" + index.to_bytes(4, "little") + b"."


def array_of(size: int) -> bytes:
    """A pickle that makes an array by its shape."""
    return b"\x80\x02cnumpy\nndarray\n" + pickle.dumps((size,), 2)[2:-1] + b"\x85R."


@pytest.mark.parametrize(
    "held", [memo(2**31), array_of(2**36), b"\x80\x04\x8e" + (2**36).to_bytes(8, "little") + b"x."]
)
def test_a_list_cannot_ask_for_more_memory_than_it_has(tmp_path, held):
    (tmp_path / "list.pkl").write_bytes(held)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"list\.pkl is damaged"):
        read_pickle(tmp_path / "list.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


def test_lists_of_arrays_come_back_as_they_were(tmp_path):
    held = {"a": {"train": np.array(["a/1.JPEG", "a/2.JPEG"]), "test": ["x"]}, "n": np.float64(3)}
    (tmp_path / "list.pkl").write_bytes(pickle.dumps(held))
    found = read_pickle(tmp_path / "list.pkl")
    assert found["a"]["train"].tolist() == ["a/1.JPEG", "a/2.JPEG"] and found["n"] == 3
