"""FFCV beside us: its files in our hands, ours in its, and compiled lines that say what the interpreted ones say."""

import numpy as np
import pytest

from tests.kit.pictures import beton, needs_ffcv, picture, section, tree
from unicscale import rng
from unicscale.data.loader import open_loader
from unicscale.data.pack.writing import Form
from unicscale.data.sets.beton import Beton
from unicscale.data.sets.decode import Status
from unicscale.data.sets.images import open_images
from unicscale.data.sets.trailer import checksum
from unicscale.data.views.crops import DRAWS, RandomCrop
from unicscale.errors import DataError

pytestmark = needs_ffcv


class Numbered:
    """What FFCV's writer takes."""

    def __init__(self, count, shape=None):
        self.count, self.shape = count, shape

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        height, width = self.shape or (40 + number, 90 - number)
        return picture(number, height, width), number % 3, 0.5 * number


def written_by_ffcv(path, mode, count=12):
    from ffcv.fields import FloatField, IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode=mode, jpeg_quality=95), "label": IntField(), "weight": FloatField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Numbered(count))
    return str(path)


@pytest.mark.parametrize("reader", ["beton", "ffcv"])
def test_a_raw_beton_of_ffcvs_writer_is_read_to_the_pixel(tmp_path, reader):
    images = open_images(written_by_ffcv(tmp_path / "raw.beton", "raw"), reader)
    assert len(images) == 12 and images.labels.tolist() == [n % 3 for n in range(12)]
    for number in range(12):
        assert np.array_equal(images.image(number), picture(number, 40 + number, 90 - number))


@pytest.mark.parametrize("reader", ["beton", "ffcv"])
def test_a_jpeg_beton_of_ffcvs_writer_is_read(tmp_path, reader):
    images = open_images(written_by_ffcv(tmp_path / "jpg.beton", "jpg"), reader)
    for number in range(12):
        original = picture(number, 40 + number, 90 - number).astype(int)
        assert np.abs(images.image(number) - original).mean() < 4


def test_ffcvs_own_loader_reads_our_beton_as_we_do(tmp_path):
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader

    packed = beton(tmp_path, tree(tmp_path / "tree", 12, height=48, width=64), form=Form(reencode=True))
    loader = Loader(
        packed, batch_size=4, num_workers=1, pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    )
    theirs = [(image.copy(), label.copy()) for image, label in loader]
    ours, plain = open_images(packed, "ffcv"), Beton(packed)
    pixels, labels = np.concatenate([t[0] for t in theirs]), np.concatenate([t[1] for t in theirs])[:, 0]
    assert labels.tolist() == ours.labels.tolist()
    for number in range(12):
        assert np.array_equal(ours.image(number), pixels[number])
        assert np.abs(plain.image(number).astype(int) - pixels[number]).mean() < 2  # libjpeg's exact transform


def test_numba_draws_the_numbers_of_numpy_and_torch():
    import torch

    from unicscale.data.sets.ffcv import uniform

    keys = rng.keys_numpy(rng.key(11), np.arange(64))
    table = rng.uniforms_numpy(keys, 8)
    compiled = np.array([[uniform(key, draw) for draw in range(8)] for key in keys])
    on_device = torch.stack([rng.uniform_torch(torch.from_numpy(keys.view(np.int64)), d) for d in range(8)], 1)
    assert np.array_equal(compiled, table)
    assert np.array_equal(on_device.numpy(), table)


@pytest.mark.parametrize("crop", [RandomCrop((0.08, 1.0), (0.75, 4 / 3), 0.5), RandomCrop((0.9, 1.0), (0.1, 0.2), 0.0)])
def test_the_compiled_decoder_cuts_the_boxes_of_the_interpreter(tmp_path, crop):
    images = open_images(written_by_ffcv(tmp_path / "raw.beton", "raw", count=30), "ffcv")
    index = np.arange(30).repeat(20)
    keys = rng.keys_numpy(rng.key(3), np.arange(600))
    status = np.full(600, Status.WAITING, np.int64)
    boxes = images.fill(index, keys, crop, np.empty((600, 16, 16, 3), np.uint8), status)
    expected = [
        crop.box(row, int(images.heights[i]), int(images.widths[i]))
        for i, row in zip(index, rng.uniforms_numpy(keys, DRAWS).tolist(), strict=True)
    ]
    assert (status == Status.DONE).all()
    assert np.array_equal(boxes, np.array(expected, np.int64))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1023, 66_001])
def test_the_compiled_checksum_is_that_of_numpy(size):
    from unicscale.data.sets.ffcv import checksum as compiled

    data = np.random.default_rng(size).integers(0, 256, -(-size // 4) * 4 + 8, dtype=np.uint8)
    assert int(compiled(data, size)) == checksum(data[:size])


def test_a_beton_without_checksums_is_read_and_said_to_have_none(tmp_path):
    path = written_by_ffcv(tmp_path / "jpg.beton", "jpg")
    loader = open_loader(section(path), seed=0)
    assert loader.supply.sets[0].name(3) == f"{path}, sample 3"
    assert f"{path}: no checksums" in loader.describe()
    ours = open_loader(section(beton(tmp_path, tree(tmp_path / "tree", 12))), seed=0)
    assert "no checksums" not in ours.describe()


def test_a_beton_without_images_is_refused(tmp_path):
    from ffcv.fields import IntField
    from ffcv.writer import DatasetWriter

    class Labels:
        def __len__(self):
            return 3

        def __getitem__(self, number):
            return (number,)

    path = str(tmp_path / "labels.beton")
    DatasetWriter(path, {"label": IntField()}, num_workers=1).from_indexed_dataset(Labels())
    with pytest.raises(DataError, match="has no image field, only label"):
        Beton(path)
