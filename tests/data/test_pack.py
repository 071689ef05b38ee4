"""Packing: every kind of source and of image has one defined result, and nothing half-written has the final name."""

import io
import json
import os
import signal
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.kit.disk import at_most
from tests.kit.pictures import jpeg, needs_ffcv, picture, tree
from unicscale.data.pack.writing import AS_IT_IS, Form, _room_to_share, pack
from unicscale.data.sets.beton import JPEG, RAW, Beton
from unicscale.errors import DataError

pytestmark = needs_ffcv


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def packed(source, tmp_path, form=AS_IT_IS, **options):
    result = pack(str(source), str(tmp_path / "out.beton"), form, **options)
    return Beton(result.path), result


# --- sources ----------------------------------------------------------------------------------------


def test_a_tree_gives_labels_and_class_names(tmp_path):
    images, result = packed(tree(tmp_path / "tree", 9), tmp_path)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert images.classes == ["class0", "class1", "class2"]
    assert result.count == 9


def test_a_flat_folder_has_no_labels(tmp_path):
    save(tmp_path / "flat" / "b.png", Image.fromarray(picture(1)))
    save(tmp_path / "flat" / "a.png", Image.fromarray(picture(0)))
    images, _ = packed(tmp_path / "flat", tmp_path, Form(mode="raw"))
    assert images.labels is None
    assert np.array_equal(images.image(0), picture(0))


@pytest.mark.parametrize("mark", ["\t", ",", " "])
def test_a_list_names_files_beside_itself_and_labels(tmp_path, mark):
    tree(tmp_path / "tree", 4, classes=1)
    lines = [f"tree/class0/{n:04d}.jpg{mark}{5 - n}" for n in (2, 0, 1)]
    (tmp_path / "list.txt").write_text("\n".join(["# names", *lines, ""]))
    images, _ = packed(tmp_path / "list.txt", tmp_path)
    assert images.labels.tolist() == [3, 5, 4]


def test_a_list_may_name_classes_or_nothing(tmp_path):
    tree(tmp_path / "tree", 3, classes=1)
    (tmp_path / "list.csv").write_text("".join(f"tree/class0/{n:04d}.jpg,{'zyx'[n]}\n" for n in range(3)))
    images, _ = packed(tmp_path / "list.csv", tmp_path)
    assert images.labels.tolist() == [2, 1, 0] and images.classes == ["x", "y", "z"]
    (tmp_path / "bare.txt").write_text("".join(f"tree/class0/{n:04d}.jpg\n" for n in range(3)))
    images, _ = packed(tmp_path / "bare.txt", tmp_path, overwrite=True)
    assert images.labels is None


def shard(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("how", ["folder", "braces", "stars"])
def test_webdataset_shards_bring_their_cls(tmp_path, how):
    for s in range(2):
        members = {}
        for n in range(3):
            members |= {f"{s}{n}.jpg": jpeg(picture(10 * s + n)), f"{s}{n}.cls": b"%d" % (10 * s + n)}
        shard(tmp_path / "shards" / f"train-{s:03d}.tar", members)
    source = {"folder": "shards", "braces": "shards/train-{000..001}.tar", "stars": "shards/*.tar"}[how]
    images, _ = packed(tmp_path / source, tmp_path)
    assert images.labels.tolist() == [0, 1, 2, 10, 11, 12]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_tar_of_class_folders_gives_labels_packed_or_not(tmp_path, suffix):
    members = {f"./{c}/{n}.jpg": jpeg(picture(n)) for c in ("cat", "dog") for n in range(2)}
    shard(tmp_path / f"all.tar{suffix}", members, "w:gz" if suffix else "w")
    images, _ = packed(tmp_path / f"all.tar{suffix}", tmp_path)
    assert images.classes == ["cat", "dog"] and images.labels.tolist() == [0, 0, 1, 1]
    assert sorted(os.listdir(tmp_path)) == [f"all.tar{suffix}", "out.beton", "out.beton.json"]


# --- images -----------------------------------------------------------------------------------------


def odd_images(folder):
    """One of each, named by what it is."""
    rgb = Image.fromarray(picture(0))
    grey16 = Image.fromarray((np.arange(60 * 80).reshape(60, 80) * 13).astype(np.uint16))
    rgba = rgb.copy()
    rgba.putalpha(Image.new("L", rgb.size, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "alpha.png", rgba)
    save(folder / "cmyk.jpg", rgb.convert("CMYK"))
    save(folder / "grey.jpg", rgb.convert("L"))
    save(folder / "grey16.png", grey16)
    save(folder / "huge.jpg", Image.fromarray(picture(1, 3000, 4000)))
    save(folder / "palette.gif", rgb.convert("P"))
    save(folder / "rotated.jpg", rgb, exif=exif)
    save(folder / "tiny.png", Image.new("RGB", (1, 1), (7, 8, 9)))
    return folder


def test_odd_images_have_defined_pixels(tmp_path):
    images, _ = packed(odd_images(tmp_path / "odd"), tmp_path, Form(mode="raw", max_side=512))
    by_name = dict(zip(sorted(os.listdir(tmp_path / "odd")), range(8), strict=True))
    shapes = {name: images.image(at).shape for name, at in by_name.items()}
    assert shapes["huge.jpg"] == (384, 512, 3)
    assert shapes["rotated.jpg"] == (80, 60, 3)  # stored 60 high and 80 wide, lying on its side
    assert images.image(by_name["tiny.png"]).tolist() == [[[7, 8, 9]]]
    assert (images.image(by_name["alpha.png"]) == 255).all()  # fully transparent: white
    grey = images.image(by_name["grey16.png"]).astype(int)
    assert (grey[..., 0] == grey[..., 1]).all() and abs(grey[10, 40, 0] - 13 * (10 * 80 + 40) / 257) <= 1
    assert np.abs(images.image(by_name["cmyk.jpg"]).astype(int) - picture(0)).mean() < 8


def spoil(folder):
    whole = jpeg(picture(3))
    bad = {"cut.jpg": whole[: len(whole) // 2], "empty.jpg": b"", "text.jpg": b"hello"}
    for name, data in bad.items():
        (folder / "class0" / name).write_bytes(data)
    os.mkfifo(folder / "class0" / "pipe.jpg")
    (folder / "class0" / "lost.jpg").symlink_to("nowhere.jpg")


def test_unreadable_images_are_listed_and_left_out(tmp_path):
    spoil(tree(tmp_path / "tree", 9))
    images, result = packed(tmp_path / "tree", tmp_path, workers=2)
    assert len(images) == 9 and images.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [name for name, _ in result.bad] == [f"class0/{n}.jpg" for n in ("cut", "empty", "lost", "pipe", "text")]
    reasons = [reason for _, reason in result.bad]
    assert "truncated" in reasons[0]
    assert reasons[1:] == ["zero bytes", "No such file or directory", "not a regular file", "not an image"]
    manifest = json.loads((tmp_path / "out.beton.json").read_text())
    assert len(manifest["skipped"]) == 5 and manifest["images"] == 9


@pytest.mark.parametrize("max_bad", [4, 0.3])
def test_more_unreadable_images_than_allowed_keep_nothing(tmp_path, max_bad):
    spoil(tree(tmp_path / "tree", 9))
    with pytest.raises(
        DataError, match=r"5 images cannot be read, --max-bad allows 4; nothing was kept.\n  class0/cut"
    ):
        packed(tmp_path / "tree", tmp_path, max_bad=max_bad)
    assert os.listdir(tmp_path) == ["tree"]


# --- forms ------------------------------------------------------------------------------------------


def test_jpegs_that_need_no_change_keep_their_bytes(tmp_path):
    source = tree(tmp_path / "tree", 3, classes=1)
    images, _ = packed(source, tmp_path)
    assert images.encoded(1).tobytes() == (source / "class0" / "0001.jpg").read_bytes()
    again, _ = packed(source, tmp_path, Form(reencode=True, quality=30), overwrite=True)
    assert again.sizes.sum() < images.sizes.sum()


@pytest.mark.parametrize(("mode", "expected"), [("jpg", {JPEG}), ("raw", {RAW}), ("proportion", {JPEG, RAW})])
def test_modes_store_what_they_say(tmp_path, mode, expected):
    images, _ = packed(tree(tmp_path / "tree", 12), tmp_path, Form(mode=mode))
    assert set(images.modes.tolist()) == expected


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        (Form(max_side=40), (30, 40)),
        (Form(short_side=30), (30, 40)),
        (Form(max_side=36, short_side=30), (27, 36)),
        (Form(max_side=500, short_side=300), (60, 80)),
    ],
)
def test_sides_shrink_and_never_grow(tmp_path, form, shape):
    save(tmp_path / "one" / "a.png", Image.fromarray(picture(0)))
    images, _ = packed(tmp_path / "one", tmp_path, form)
    assert images.image(0).shape[:2] == shape


# --- interrupted ------------------------------------------------------------------------------------


def test_an_existing_file_is_not_replaced_unasked(tmp_path):
    packed(tree(tmp_path / "tree", 3), tmp_path)
    with pytest.raises(DataError, match="exists already"):
        packed(tmp_path / "tree", tmp_path)


@pytest.mark.parametrize("where", ["a folder", "below a file", "nowhere"])
def test_a_target_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, where):
    (tmp_path / "file").write_text("")
    target, said = {
        "a folder": (tmp_path, "is a folder. Name the file to write"),
        "below a file": (tmp_path / "file" / "x.beton", "cannot be written: "),
        "nowhere": (Path("/proc/x.beton"), "/proc/x.beton cannot be written: "),
    }[where]
    with pytest.raises(DataError, match=said):
        pack("no such source", str(target))
    assert os.listdir(tmp_path) == ["file"]


def test_what_an_interrupted_run_left_is_replaced(tmp_path):
    (tmp_path / "out.beton.partial").write_bytes(b"half")
    images, _ = packed(tree(tmp_path / "tree", 3), tmp_path)
    assert len(images) == 3
    assert sorted(os.listdir(tmp_path)) == ["out.beton", "out.beton.json", "tree"]


def slow_tree(folder):
    """Six hundred large images, of which the packing of 64 takes about a second."""
    folder.mkdir()
    (folder / "0.jpg").write_bytes(jpeg(picture(0, 1500, 2000)))
    for number in range(1, 600):
        (folder / f"{number}.jpg").symlink_to("0.jpg")
    return folder


class Background(threading.Thread):
    """A pack that has begun."""

    def __init__(self, source, target):
        super().__init__()
        self.source, self.target, self.begun, self.problem = source, target, threading.Event(), None
        self.others = set(children())  # what earlier tests left running is not ours to kill
        self.start()
        assert self.begun.wait(60)

    def run(self):
        try:
            pack(str(self.source), str(self.target), Form(max_side=64), workers=2, report=lambda *_: self.begun.set())
        except DataError as problem:
            self.problem = str(problem)

    def processes(self):
        return [pid for pid in children() if pid not in self.others]


def children():
    mine = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for file in mine for pid in file.read_text().split()]
    return [pid for pid in pids if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_writing_process_that_dies_is_an_error_and_leaves_no_file(tmp_path):
    run = Background(slow_tree(tmp_path / "slow"), tmp_path / "out.beton")
    start = time.monotonic()
    os.kill(run.processes()[0], signal.SIGKILL)
    run.join()
    assert time.monotonic() - start < 30
    assert "a writing process died (exit code -9); nothing was kept" in run.problem
    assert os.listdir(tmp_path) == ["slow"]


def test_two_processes_do_not_pack_the_same_file(tmp_path):
    run = Background(slow_tree(tmp_path / "slow"), tmp_path / "out.beton")
    with pytest.raises(DataError, match="another process is packing it"):
        packed(tmp_path / "slow", tmp_path)
    os.kill(run.processes()[0], signal.SIGKILL)
    run.join()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("missing", "missing: no such folder, list, tar or pattern of shards"),
        ("empty", "empty: no images below this folder"),
        ("empty.txt", "empty.txt: the list names no image"),
        ("mixed.txt", "mixed.txt: line 2 has no label, others have"),
        ("text.tar", "text.tar: not a readable tar"),
    ],
)
def test_sources_that_hold_nothing_are_refused(tmp_path, source, text):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "mixed.txt").write_text("a.jpg,1\nb.jpg\n")
    (tmp_path / "text.tar").write_text("hello")
    with pytest.raises(DataError, match=text):
        packed(tmp_path / source, tmp_path)


@pytest.mark.parametrize("kilobytes", [1, 100, 1500], ids=["at once", "in the index", "in the middle"])
def test_a_disk_that_fills_up_while_packing_is_said_and_nothing_half_stays(tmp_path: Path, kilobytes: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 128, 128, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        save(tmp_path / "flat" / f"{number}.png", Image.fromarray(pixels))
    out = tmp_path / "out" / "o.beton"
    with at_most(kilobytes << 10), pytest.raises(DataError) as said:
        pack(str(tmp_path / "flat"), str(out), Form(mode="raw"), workers=2)
    assert str(said.value) == (
        f"{out} cannot be written: File too large. Nothing of it was kept.\n"
        "  Make room, or name another place; then the same command starts again."
    )
    assert not list(out.parent.iterdir())


def test_a_machine_without_shared_memory_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs shared memory, and .*nowhere cannot be used: No such file .*\n  Mount"):
        _room_to_share(1, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"shares 6103515625000\.0 MiB of memory, and .* left\. Nothing"):
        _room_to_share(10**17)
    _room_to_share(1000)
