"""Betons: ours in FFCV's hands, FFCV's in ours, and none that is not whole."""

import os
from pathlib import Path

import numpy as np
import pytest
from pictures import beton, picture, section, tree

from unicscale import rng
from unicscale.data.beton import Beton
from unicscale.data.crops import DRAWS, CentreCrop, RandomCrop
from unicscale.data.decode import Status, Undecodable
from unicscale.data.ffcv import FFCV, uniform
from unicscale.data.ffcv import checksum as compiled_checksum
from unicscale.data.folder import listing
from unicscale.data.loader import open_loader
from unicscale.data.pack import Form
from unicscale.data.sources import open_images
from unicscale.data.trailer import MARK, checksum
from unicscale.errors import DataError


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


@pytest.mark.parametrize("reader", [Beton, FFCV])
def test_a_raw_beton_of_ffcvs_writer_is_read_to_the_pixel(tmp_path, reader):
    images = reader(written_by_ffcv(tmp_path / "raw.beton", "raw"))
    assert len(images) == 12 and images.labels.tolist() == [n % 3 for n in range(12)]
    for number in range(12):
        assert np.array_equal(images.image(number), picture(number, 40 + number, 90 - number))


@pytest.mark.parametrize("reader", [Beton, FFCV])
def test_a_jpeg_beton_of_ffcvs_writer_is_read(tmp_path, reader):
    images = reader(written_by_ffcv(tmp_path / "jpg.beton", "jpg"))
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
    ours, plain = FFCV(packed), Beton(packed)
    pixels, labels = np.concatenate([t[0] for t in theirs]), np.concatenate([t[1] for t in theirs])[:, 0]
    assert labels.tolist() == ours.labels.tolist()
    for number in range(12):
        assert np.array_equal(ours.image(number), pixels[number])
        assert np.abs(plain.image(number).astype(int) - pixels[number]).mean() < 2  # libjpeg's exact transform


def test_numba_draws_the_numbers_of_numpy_and_torch():
    import torch

    keys = rng.keys_numpy(rng.key(11), np.arange(64))
    table = rng.uniforms_numpy(keys, 8)
    compiled = np.array([[uniform(key, draw) for draw in range(8)] for key in keys])
    on_device = torch.stack([rng.uniform_torch(torch.from_numpy(keys.view(np.int64)), d) for d in range(8)], 1)
    assert np.array_equal(compiled, table)
    assert np.array_equal(on_device.numpy(), table)


@pytest.mark.parametrize(
    "crop", [RandomCrop((0.08, 1.0), (0.75, 4 / 3), 0.5), RandomCrop((0.9, 1.0), (0.1, 0.2), 0.0), CentreCrop()]
)
def test_the_compiled_decoder_cuts_the_boxes_of_the_interpreter(tmp_path, crop):
    images = FFCV(written_by_ffcv(tmp_path / "raw.beton", "raw", count=30))
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


# --- checksums ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1023, 66_001])
def test_the_compiled_checksum_is_that_of_numpy(size):
    data = np.random.default_rng(size).integers(0, 256, -(-size // 4) * 4 + 8, dtype=np.uint8)
    assert int(compiled_checksum(data, size)) == checksum(data[:size])


def test_any_one_bit_and_any_two_exchanged_words_change_the_checksum():
    data = np.random.default_rng(0).integers(0, 256, 402, dtype=np.uint8)
    changed = []
    for bit in range(8 * data.size):
        flipped = data.copy()
        flipped[bit // 8] ^= 1 << bit % 8
        changed.append(checksum(flipped))
    for word in range(99):
        swapped = data.copy()
        swapped[4 * word : 4 * word + 8] = np.roll(data[4 * word : 4 * word + 8], 4)
        changed.append(checksum(swapped))
    assert checksum(data) not in changed and len(set(changed)) == len(changed)


@pytest.mark.parametrize("mode", ["jpg", "raw", "proportion"])
def test_every_packed_image_has_the_checksum_of_its_bytes_and_its_name(tmp_path, mode):
    source = tree(tmp_path / "tree", 12)
    (source / "class1" / "0000.jpg").write_text("no image: left out, and the names after it move up")
    packed = Beton(beton(tmp_path, source, form=Form(mode=mode)))
    names = [name for name in listing(str(source))[0] if name != "class1/0000.jpg"]
    assert [packed.trailer.name(packed.file, n) for n in range(12)] == names
    assert packed.name(3) == f"{packed.path}, sample 3 (class0/0009.jpg)"
    for number in range(12):
        stored = os.pread(packed.file, int(packed.sizes[number]), int(packed.at[number]))
        assert checksum(np.frombuffer(stored, np.uint8)) == packed.trailer.sums[number]


@pytest.mark.parametrize("reader", ["beton", "ffcv"])
@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_one_changed_byte_of_an_image_is_noticed(tmp_path, mode, reader):
    path = beton(tmp_path, tree(tmp_path / "tree", 6), form=Form(mode=mode))
    images = open_images(path, reader)
    with open(path, "r+b") as stream:
        stream.seek(int(images.at[4] + images.sizes[4] * 2 // 3))
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 16]))
    with pytest.raises(Undecodable, match="not those that were packed"):
        images.image(4)
    images.image(3)
    if reader == "ffcv":
        status, keys = np.full(6, Status.WAITING, np.int64), rng.keys_numpy(rng.key(3), np.arange(6))
        images.fill(np.arange(6), keys, CentreCrop(), np.empty((6, 16, 16, 3), np.uint8), status)
        assert status.tolist() == [Status.DONE] * 4 + [Status.UNDECODABLE, Status.DONE]


def test_a_beton_without_checksums_is_read_and_said_to_have_none(tmp_path):
    path = written_by_ffcv(tmp_path / "jpg.beton", "jpg")
    loader = open_loader(section(path), seed=0)
    assert loader.sets[0].name(3) == f"{path}, sample 3"
    assert f"{path}: no checksums" in loader.describe()
    ours = open_loader(section(beton(tmp_path, tree(tmp_path / "tree", 12))), seed=0)
    assert "no checksums" not in ours.describe()


def test_damaged_or_lost_checksums_are_refused_at_open(tmp_path):
    path = beton(tmp_path, tree(tmp_path / "tree", 12))
    at = Beton(path).trailer.names_at - 30  # where names end
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    with pytest.raises(DataError, match="its checksums are damaged"):
        Beton(path)
    mark = whole.rindex(MARK)
    Path(path).write_bytes(whole[:mark] + b"?" + whole[mark + 1 :])
    with pytest.raises(DataError, match="the checksums that its manifest promises are not in it"):
        Beton(path)


# --- files that are not whole ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return Path(beton(folder, tree(folder / "tree", 30))).read_bytes()


CUTS = {
    "empty": lambda data: b"",
    "inside the header": lambda data: data[:10],
    "inside the metadata": lambda data: data[:1500],
    "in the middle": lambda data: data[: len(data) // 2],
    "before the table": lambda data: data[: -30 * 24],
    "inside the table": lambda data: data[:-7],
    "by one entry of the table": lambda data: data[:-24],
    "at the head": lambda data: data[100:],
    "out of the middle": lambda data: data[: len(data) // 3] + data[len(data) // 3 + 4096 :],
    "garbage": lambda data: bytes(range(256)) * 40,
}


@pytest.mark.parametrize("reader", ["beton", "ffcv"])
@pytest.mark.parametrize("where", CUTS)
def test_a_truncated_beton_is_refused_at_open(tmp_path, whole, where, reader):
    path = tmp_path / "cut.beton"
    path.write_bytes(CUTS[where](whole))
    with pytest.raises(DataError, match=r"cut.beton: not a whole .beton file: .*\n  Copy or pack it again."):
        open_images(str(path), reader)


def test_a_beton_that_was_never_finished_is_refused(tmp_path, whole):
    path = tmp_path / "cut.beton"
    path.write_bytes(whole[:16] + bytes(8) + whole[24:])
    with pytest.raises(DataError, match="its writer did not finish"):
        open_images(str(path))


def test_a_beton_other_than_its_manifest_says_is_refused(tmp_path):
    one = beton(tmp_path, tree(tmp_path / "one", 12), "one.beton")
    other = beton(tmp_path, tree(tmp_path / "other", 15), "other.beton")
    Path(one).write_bytes(Path(other).read_bytes())
    with pytest.raises(DataError, match="changed since it was packed"):
        open_images(one)


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
