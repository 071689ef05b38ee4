"""Images of any number of channels: read within bounds, cut and resized as pictures are, refused in words."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.kit.recipe import write_arrays, write_images
from unicscale.contracts import Progress
from unicscale.data.loader import open_loader
from unicscale.data.once import open_eval, whole
from unicscale.data.pack.gather import gather
from unicscale.data.sets.arrays import array
from unicscale.data.sets.decode import Undecodable
from unicscale.data.sets.images import open_images
from unicscale.data.views.crops import Box
from unicscale.data.views.resize import view
from unicscale.errors import DataError
from unicscale.recipe.sections import Data

FOUR = {"mean": [0.5, 0.4, 0.3, 0.2], "std": [0.25, 0.25, 0.25, 0.25]}


BIG, WAS = np.zeros((100, 100, 100), np.uint8), "(100, 100, 100)"


def stored(values, **changes) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    data = stream.getvalue()
    for old, new in changes.items():
        assert old.encode() in data
        data = data.replace(old.encode(), new.encode(), 1)
    return data


def test_an_array_is_read_as_numpy_wrote_it_whatever_its_order_and_number_of_channels():
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 6), np.uint8)
    np.testing.assert_array_equal(array(stored(values)), values)
    np.testing.assert_array_equal(array(stored(np.asfortranarray(values))), values)
    np.testing.assert_array_equal(array(stored(values[..., 0])), values[..., :1])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a .npy array"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "not a .npy array"),
        (b"PK\x03\x04" + bytes(40), "not a .npy array"),
        (stored(np.zeros((4, 4, 2), np.float32)), "values of float32; images are uint8"),
        (stored(np.array([{}], dtype=object)), "values of object; images are uint8"),
        (stored(np.zeros(16, np.uint8)), r"an array of \(16,\); images are \(height, width, channels\)"),
        (stored(np.zeros((4, 0, 2), np.uint8)), r"an array of \(4, 0, 2\); images are"),
        (stored(np.zeros((4, 4, 2), np.uint8))[:-1], "31 values, where its header names 32"),
        (stored(np.zeros((4, 4, 2), np.uint8), **{"(4, 4, 2)": "(4,-4,-2)"}), r"an array of \(4, -4, -2\)"),
        (stored(BIG, **{WAS: "(99999, 99999,9)"}), "more than 134,217,728"),
        (stored(BIG, **{WAS: "(1000,1000,9999)"}), "or 402,653,184 values"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_says_costs_nothing_and_is_said(data, said):
    with pytest.raises(Undecodable, match=said):
        array(data)


def test_a_band_is_resized_as_each_colour_of_a_picture_is():
    picture = np.random.default_rng(1).integers(0, 256, (60, 47, 3), np.uint8)
    five = np.concatenate([picture, picture[..., :2]], axis=2)
    box = Box(3, 2, 50, 41, True)
    for how in ("area", "bicubic"):
        for size in (24, 64):
            cut = view(five, box, size, how)
            np.testing.assert_array_equal(cut[..., :3], view(picture, box, size, how))
            np.testing.assert_array_equal(cut[..., 3:], cut[..., :2])
    for crop in (True, False):
        np.testing.assert_array_equal(whole(five, 32, crop)[..., :3], whole(picture, 32, crop))
        assert whole(five[..., :1], 32, crop).shape == (32, 32, 1)


def test_a_fourth_channel_that_is_empty_does_not_darken_the_others():
    pixels = np.dstack([np.full((40, 40, 3), 200, np.uint8), np.zeros((40, 40), np.uint8)])
    assert (view(pixels, Box(0, 0, 40, 40, False), 16, "bicubic")[..., :3] == 200).all()
    assert (whole(pixels, 16, True)[..., :3] == 200).all()


def test_batches_have_the_channels_of_their_set_and_blur_is_the_same_for_each(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(8):
        band = np.random.default_rng(number).integers(0, 256, (40, 40, 1), np.uint8)
        np.save(folder / f"{number}.npy", band.repeat(4, 2))
    augment = {"jitter": 0, "grey": 0, "blur": 1, "solarize": 0.5}
    section = Data.model_validate(
        {"train": [str(folder)], "images_per_step": 4, "workers": 0, "channels": FOUR, "augment": augment}
    )
    (batch,) = open_loader(section, seed=1).start(Progress(), lambda _: 32, 1)
    assert batch.images.shape == (4, 4, 32, 32) and batch.images.is_contiguous()
    assert (batch.images == batch.images[:, :1]).all() and batch.images.float().std() > 5


def test_a_set_of_another_number_of_channels_is_refused_with_the_file_and_the_way_out(tmp_path):
    arrays, pictures = write_arrays(tmp_path / "arrays", 4, count=3), write_images(tmp_path / "pictures", count=2)
    place = f"{arrays}/all/000.npy"
    with pytest.raises(
        DataError, match=rf"{place}: 4 channels; expected 3, .*\n  Say data.channels: .* 4 numbers each"
    ):
        open_images(str(arrays), channels=3)
    with pytest.raises(DataError, match=r"000.jpg: 3 channels; expected 4, as data.channels says.\n .* \.npy arrays"):
        open_images(str(pictures), channels=4)
    np.save(arrays / "all" / "001.npy", np.zeros((40, 40, 5), np.uint8))
    with pytest.raises(DataError, match=r"001.npy: it has 5 channels; expected 4, as in the rest of its set"):
        list(open_eval(str(arrays), size=32))
    (arrays / "all" / "000.npy").write_bytes(b"nothing")
    assert open_images(str(arrays)).channels == 5  # of the first that can be read


def test_arrays_beside_pictures_are_no_images_of_a_set(tmp_path):
    folder = write_images(tmp_path, count=2)
    np.save(folder / "all" / "depth.npy", np.zeros((4, 4), np.uint8))
    assert [Path(name).name for name in open_images(str(folder)).files] == ["000.jpg", "001.jpg"]


def test_arrays_are_not_packed(tmp_path):
    with pytest.raises(DataError, match=r"arrays \(.npy\) are not packed: betons hold pictures of three channels"):
        gather(str(write_arrays(tmp_path, 4, count=1)), "")


def test_arrays_of_three_channels_are_the_pictures_that_they_were_made_from(tmp_path):
    pictures, arrays = write_images(tmp_path / "pictures", count=3), tmp_path / "arrays"
    arrays.mkdir()
    for file in sorted((pictures / "all").iterdir()):
        np.save(arrays / f"{file.stem}.npy", np.asarray(Image.open(file)))
    (one,), (two,) = (list(open_eval(str(path), size=32)) for path in (pictures, arrays))
    assert torch.equal(one[0], two[0])
