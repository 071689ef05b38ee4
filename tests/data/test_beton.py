"""Betons: a checksum for every image, and none is opened that is not whole."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from tests.kit.pictures import READERS, beton, tree
from unicscale import rng
from unicscale.data.pack.writing import Form
from unicscale.data.sets.beton import FIELD, HEADER, Beton, manifest_path
from unicscale.data.sets.decode import Status, Undecodable
from unicscale.data.sets.folder import listing
from unicscale.data.sets.images import open_images
from unicscale.data.sets.trailer import MARK, checksum
from unicscale.data.views.crops import RandomCrop
from unicscale.errors import DataError

# --- checksums ------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("reader", READERS[:2])
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
        images.fill(
            np.arange(6), keys, RandomCrop((0.08, 1.0), (0.75, 4 / 3), 0.5), np.empty((6, 16, 16, 3), np.uint8), status
        )
        assert status.tolist() == [Status.DONE] * 4 + [Status.UNDECODABLE, Status.DONE]


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


@pytest.mark.parametrize("reader", READERS[:2])
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


@pytest.mark.parametrize("reader", READERS[:2])
@pytest.mark.parametrize("mode", ["jpg", "raw"])
@pytest.mark.parametrize("sums", [True, False], ids=["with checksums", "without"])
def test_a_flipped_bit_of_an_index_without_manifest_gives_no_other_pixels(tmp_path, mode, sums, reader):
    if sums:
        path = beton(tmp_path, tree(tmp_path / "tree", 6), form=Form(mode=mode))
        os.remove(manifest_path(path))
    else:
        path = ffcvs_own(tmp_path / "set.beton", mode)
    content, images = Path(path).read_bytes(), open_images(path, reader)
    true, first = [images.image(n) for n in range(6)], HEADER.itemsize + images_fields(path) * FIELD.itemsize
    wide = images_row(path)
    places = [*range(HEADER.itemsize), *range(first, first + 6 * wide), *range(len(content) - 6 * 24, len(content))]
    flips = [(at, bit) for at in places for bit in range(8)]
    for at, bit in [flips[n] for n in np.random.default_rng(0).permutation(len(flips))[:150]]:
        changed = bytearray(content)
        changed[at] ^= 1 << bit
        Path(path).write_bytes(changed)
        try:
            opened = open_images(path, reader)
        except DataError:
            continue
        assert len(opened) == 6, (at, bit)
        for number in range(6):
            with contextlib.suppress(Undecodable, DataError):
                assert np.array_equal(opened.image(number), true[number]), (at, bit, number)
        opened.close()


def ffcvs_own(path, mode):
    """Six pictures of FFCV's own writer, which knows no checksums."""
    pytest.importorskip("ffcv")
    from tests.data.test_ffcv import written_by_ffcv

    return written_by_ffcv(path, mode, count=6)


def images_fields(path):
    """How many fields a beton has."""
    return int(np.fromfile(path, HEADER, 1)[0]["fields"])


def images_row(path):
    """Bytes of one sample in its metadata."""
    opened, fields = Beton(path), np.fromfile(path, FIELD, images_fields(path), offset=HEADER.itemsize)
    return opened._metadata(fields, len(opened)).dtype.itemsize
