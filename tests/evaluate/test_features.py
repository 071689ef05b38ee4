"""Features on disk: whole, of what is there now, whoever else writes at the same time."""

import json
import os
import resource
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.kit import measured, tiny_sets
from tests.kit.disk import at_most
from tests.kit.measured import FAST
from tests.kit.memory import rising
from unicscale.commands.evaluation import evaluate, features
from unicscale.contracts import Features
from unicscale.data.once import open_eval, whole
from unicscale.data.sets.decode import Undecodable, decode
from unicscale.data.sets.folder import Folder
from unicscale.errors import DataError, RecipeError
from unicscale.evaluate.features import forms, marks, progress, store, unfinished
from unicscale.evaluate.features.extract import extract
from unicscale.evaluate.features.marks import sha_of_images, sha_of_pairs
from unicscale.evaluate.sets.layouts import ade20k
from unicscale.evaluate.sets.pairs import mask
from unicscale.ranks.voice import open_voice
from unicscale.ranks.world import World


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured.student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    tiny_sets.folders(tmp_path / "photos" / "train", ["a", "b"], 6)
    tiny_sets.folders(tmp_path / "photos" / "test", ["a", "b"], 3, first=50)
    return tmp_path / "photos"


def colours(images: torch.Tensor) -> Features:
    means = images.float().mean((2, 3))
    return Features(means, means[:, None])


def test_two_evaluations_at_once_do_not_write_into_each_others_file(photos, tmp_path):
    out, begun = tmp_path / "cache" / "f.safetensors", []

    def with_another(images: torch.Tensor) -> Features:
        begun.append(1)
        if len(begun) == 3:  # the file is there, and the first batches are in it
            extract(colours, open_eval(str(photos), size=32, batch=5), out, dtype=torch.float32, world=World())
        return colours(images)

    extract(with_another, open_eval(str(photos), size=32, batch=5), out, dtype=torch.float32, world=World())
    expected = torch.cat([colours(images).summary for images, _, _ in open_eval(str(photos), size=32)])
    torch.testing.assert_close(store.read(out)["summary"], expected)
    assert [path.name for path in out.parent.iterdir()] == ["f.safetensors"]


def test_what_a_killed_process_left_behind_goes_and_a_living_ones_file_stays(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = tmp_path / "f.safetensors"
    ours = store.temporary(path)
    dead = tmp_path / ours.name.replace(f"-{os.getpid()}-", f"-{gone.pid}-")
    for file in (ours, dead):
        file.write_bytes(b"")
    assert store.temporary(path) not in (ours, dead)
    assert ours.exists() and not dead.exists()


def test_a_disk_that_is_full_is_an_error_before_the_first_image(photos, tmp_path):
    seen = []
    out = tmp_path / "cache" / "f.safetensors"
    with at_most(600), pytest.raises(DataError, match=r"GiB of features cannot be written: .*\n  Make room"):
        extract(
            lambda images: seen.append(1) or colours(images), open_eval(str(photos), size=32, batch=4), out,
            dtype=torch.float32, world=World(),
        )  # fmt: skip
    assert not list(out.parent.iterdir())
    assert len(seen) <= 2, "one to know the width, one ahead"


@pytest.mark.parametrize("whole", [1 << 30, 0])  # read as a small set is, and as a large one
def test_another_picture_under_the_same_name_is_another_set(photos, monkeypatch, whole):
    monkeypatch.setattr(marks, "WHOLE", whole)
    before = sha_of_images(Folder(str(photos)))
    file = sorted((photos / "train" / "a").iterdir())[0]
    size, data = file.stat().st_size, file.read_bytes()
    assert sha_of_images(Folder(str(photos))) == before
    file.write_bytes(data[:-10] + bytes(10))
    assert file.stat().st_size == size and sha_of_images(Folder(str(photos))) != before


@pytest.mark.parametrize("folder", ["images", "annotations"])
def test_another_mask_or_image_of_a_dense_set_is_another_set(tmp_path, folder):
    tiny_sets.ade20k(tmp_path)
    root = tmp_path / "ADEChallengeData2016"
    before = sha_of_pairs(ade20k(root, "train"))
    file = sorted((root / folder / "validation").iterdir())[0]
    assert sha_of_pairs(ade20k(root, "test")) != before
    before = sha_of_pairs(ade20k(root, "test"))
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    assert sha_of_pairs(ade20k(root, "test")) != before


def test_images_that_changed_are_measured_again(student, tmp_path, photos):
    def score() -> str:
        evaluate([str(student)], data=photos, suite=["knn"], out=tmp_path / "t.json", **FAST)
        return json.loads((tmp_path / "t" / "student" / "knn.json").read_text())["key"]

    first = score()
    assert score() == first
    file = sorted((photos / "test" / "a").iterdir())[0]
    data = bytearray(file.read_bytes())
    data[-3] ^= 255
    file.write_bytes(data)
    assert score() != first


# --- `unicscale features` -----------------------------------------------------------------------------------------


def test_a_file_of_features_knows_the_names_of_its_images(student, photos, tmp_path):
    odd = photos / "test" / "b" / "zwölf\nmonkeys.png"
    Image.new("RGB", (40, 40)).save(odd)
    features(str(student), photos / "test", out=tmp_path / "f.safetensors", patches=False, device="cpu")
    names = bytes(load_file(tmp_path / "f.safetensors")["names"].tolist()).decode().split("\0")
    assert len(names) == 7 and names[0] == "a/a_50.JPEG" and names[-1] == "b/zwölf\nmonkeys.png"


def test_one_image_is_enough(student, photos, tmp_path):
    features(str(student), photos / "test" / "a" / "a_50.JPEG", out=tmp_path / "f.safetensors", device="cpu")
    held = load_file(tmp_path / "f.safetensors")
    assert held["summary"].shape == (1, 48) and bytes(held["names"].tolist()) == b"a_50.JPEG"


@pytest.mark.parametrize(
    ("name", "says"),
    [("f.npz", r"ends in \.safetensors or \.npy or \.parquet is written\.\n  Say .*f\.safetensors"),
     ("f", "ends in .safetensors"), ("folder.safetensors", "that is a folder"),
     ("file/f.safetensors", "cannot be")],
)  # fmt: skip
def test_an_out_that_cannot_be_written_is_refused_before_the_model_is_opened(tmp_path, photos, name, says):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=says):
        features("no such model", photos, out=tmp_path / name, device="cpu")


def test_tars_and_lists_give_what_their_files_give(student, photos, tmp_path):
    (tmp_path / "tars").mkdir()
    for name in ("a", "b"):
        with tarfile.open(tmp_path / "tars" / f"{name}.tar", "w") as tar:
            tar.add(photos / "test" / name, arcname=name)
    listed = sorted((photos / "test").glob("*/*"))
    (tmp_path / "list.txt").write_text("".join(f"{file}\n" for file in listed))
    found = {}
    for what in (photos / "test", tmp_path / "tars", tmp_path / "list.txt"):
        features(str(student), what, out=tmp_path / "f.safetensors", device="cpu")
        found[what.name] = load_file(tmp_path / "f.safetensors")
    for other in ("tars", "list.txt"):
        assert torch.equal(found[other]["summary"], found["test"]["summary"])
    names = bytes(found["tars"]["names"].tolist()).decode().split("\0")
    assert names[0] == "a.tar:a/a_50.JPEG" and found["tars"]["labels"].tolist() == [0, 0, 0, 1, 1, 1]


def test_a_compressed_tar_is_refused_with_the_way_out(student, photos, tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(photos / "test" / "a", arcname="a")
    for what in (tmp_path / "a.tar.gz", tmp_path):
        with pytest.raises(DataError, match=r"a\.tar\.gz: a compressed tar .*\n  Unpack it first"):
            features(str(student), what, out=tmp_path / "f.safetensors", device="cpu")


def test_npy_and_parquet_hold_the_same(student, photos, tmp_path):
    for name in ("f.safetensors", "f.npy"):
        features(str(student), photos / "test", out=tmp_path / name, device="cpu")
    held = load_file(tmp_path / "f.safetensors")
    for name, file in {"summary": "f.npy", "patches": "f.patches.npy", "labels": "f.labels.npy"}.items():
        assert np.array_equal(np.load(tmp_path / file), held[name].numpy())
    names = json.loads((tmp_path / "f.names.json").read_text())
    assert names[0] == "a/a_50.JPEG" and len(names) == 6
    arrow = pytest.importorskip("pyarrow.parquet", reason="parquet takes pyarrow")
    features(str(student), photos / "test", out=tmp_path / "f.parquet", device="cpu")
    table = arrow.read_table(tmp_path / "f.parquet")
    assert table["name"].to_pylist() == names and table["label"].to_pylist() == held["labels"].tolist()
    width, shape = (json.loads(table.schema.metadata[key]) for key in (b"summary_width", b"patches_shape"))
    assert np.array_equal(np.array(table["summary"].to_pylist(), np.float32).reshape(6, width), held["summary"])
    assert np.array_equal(np.array(table["patches"].to_pylist(), np.float32).reshape(6, *shape), held["patches"])
    assert not list(tmp_path.glob(".*"))


def test_parquet_without_pyarrow_is_refused_before_the_model_is_opened(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(forms.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        RecipeError, match=r"parquet needs pyarrow, which is not installed: pip install 'unicscale\[parquet\]'"
    ):
        features("no such model", photos, out=tmp_path / "f.parquet", device="cpu")


def resumed(seen: list[int], stop_at: int) -> Callable[[torch.Tensor], Features]:
    def encode(images: torch.Tensor) -> Features:
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        seen.append(len(images))
        return colours(images)

    return encode


def test_what_was_cut_short_goes_on(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    out, seen = tmp_path / "f.safetensors", []
    said: Any = {"dtype": torch.float32, "world": World(), "metadata": {"model": "a"}, "resumable": True}
    with pytest.raises(KeyboardInterrupt):
        extract(resumed(seen, 3), open_eval(str(photos), size=32, batch=5), out, **said)
    assert not out.exists() and (tmp_path / ".f.safetensors.part").exists()
    written = sum(seen) - seen[-1]  # one batch was ahead
    again: list[int] = []
    extract(resumed(again, -1), open_eval(str(photos), size=32, batch=5), out, **said)
    assert sum(again) == 18 - written > 0
    whole = torch.cat([colours(images).summary for images, _, _ in open_eval(str(photos), size=32)])
    assert torch.equal(load_file(out)["summary"], whole) and load_file(out)["index"].tolist() == list(range(18))
    assert not list(tmp_path.glob(".f*"))


def test_a_part_of_another_model_is_begun_anew(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    out, seen = tmp_path / "f.safetensors", []
    said: Any = {"dtype": torch.float32, "world": World(), "resumable": True}
    with pytest.raises(KeyboardInterrupt):
        extract(resumed(seen, 3), open_eval(str(photos), size=32, batch=5), out, metadata={"model": "a"}, **said)
    again: list[int] = []
    extract(resumed(again, -1), open_eval(str(photos), size=32, batch=5), out, metadata={"model": "b"}, **said)
    assert sum(again) == 18


def test_a_killed_command_goes_on_to_the_same_bytes(student, photos, tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from unicscale.commands.evaluation import features\n"
        "from unicscale.evaluate.features import unfinished\n"
        "unfinished.EVERY, note, notes = 0.0, unfinished.Unfinished.note, []\n"
        "def dies(self, *given, **more):\n"
        "    note(self, *given, **more)\n"
        "    notes.append(1)\n"
        "    if len(notes) == 2: os.kill(os.getpid(), 9)\n"
        "unfinished.Unfinished.note = dies\n"
        "features(sys.argv[1], Path(sys.argv[2]), out=Path(sys.argv[3]), batch=4, device='cpu')\n"
    )
    out, fresh = tmp_path / "f.safetensors", tmp_path / "fresh.safetensors"
    ran = subprocess.run([sys.executable, "-c", script, str(student), str(photos), str(out)], capture_output=True)
    assert ran.returncode == -9 and not out.exists()
    assert json.loads((tmp_path / ".f.safetensors.part.0").read_text())["rows"] == 8
    for file in (out, fresh):
        features(str(student), photos, out=file, batch=4, device="cpu")
    assert out.read_bytes() == fresh.read_bytes()


def test_two_that_write_one_file_are_told(photos, tmp_path):
    out = tmp_path / "f.safetensors"
    told = pytest.raises(DataError, match="another process is writing this file now")
    with unfinished.Unfinished(out, {}, World()), told:
        unfinished.Unfinished(out, {}, World())
    with unfinished.Unfinished(out, {}, World()):
        pass
    assert not list(tmp_path.glob(".f*"))


def test_an_image_that_cannot_be_read_leaves_what_came_before_it(student, photos, tmp_path):
    broken = sorted((photos / "train" / "b").iterdir())[-1]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    out = tmp_path / "f.safetensors"
    with pytest.raises(DataError, match=f"{broken.name}.*\n  Evaluation replaces no image: mend or remove it"):
        features(str(student), photos, out=out, batch=4, device="cpu")
    assert not out.exists()
    broken.write_bytes(whole)  # another set than before: begun anew, and nothing is left
    features(str(student), photos, out=out, batch=4, device="cpu")
    assert len(load_file(out)["index"]) == 18 and not list(tmp_path.glob(".f*"))


def test_features_that_are_larger_than_memory_stay_out_of_it(photos, tmp_path):
    """288 MB of patches through a process that does not grow by as much."""

    def large(images: torch.Tensor) -> Features:
        return Features(images.float().mean((2, 3)), images.new_ones(len(images), 1, 1).float().expand(-1, 16, 262_144))

    images = open_eval(str(photos), size=32, batch=1)
    with rising() as grown:
        extract(large, images, tmp_path / "f.safetensors", dtype=torch.float32, world=World(), patches=True)
    assert (tmp_path / "f.safetensors").stat().st_size > 18 * 16 * 2**20
    assert grown[0] < 150 * 2**20


# --- bombs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0, 6])  # 16-bit grey, RGBA
def test_an_image_that_would_fill_gigabytes_is_refused_by_its_header(kind):
    with pytest.raises(Undecodable, match="13000x13000 pixels, more than"):
        decode(png(13_000, 13_000, kind, bits=16 if kind == 0 else 8))


def png(width: int, height: int, kind: int = 0, bits: int = 8) -> bytes:
    """A PNG whose rows are missing: small, whatever it claims."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    head = width.to_bytes(4) + height.to_bytes(4) + bytes([bits, kind, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(0))) + chunk(b"IEND", b"")


def test_a_strip_is_cut_before_it_is_resized():
    strip = np.random.default_rng(0).integers(0, 256, (4, 40_000, 3), dtype=np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    crop = whole(strip, 224, crop=True)  # resized whole, it would be 256 by 2,560,000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert crop.shape == (224, 224, 3) and grown < 200_000, "kB"


def test_a_cut_strip_shows_what_the_whole_one_would(monkeypatch):
    from unicscale.data import once

    strip = np.random.default_rng(0).integers(0, 256, (20, 900, 3), dtype=np.uint8)
    cut = whole(strip, 32, crop=True)
    monkeypatch.setattr(once, "LONGEST", 10_000)
    assert np.abs(cut.astype(int) - whole(strip, 32, crop=True)).max() <= 1


def test_a_mask_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    file = tmp_path / "mask.png"
    file.write_bytes(png(60_000, 60_000))
    with pytest.raises(DataError, match=r"mask\.png: .*(60000x60000 pixels|bomb)"):
        mask(file)


# --- progress ---------------------------------------------------------------------------------------------------------


def test_a_log_hears_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    open_voice(None, 0, speaks=True)
    with progress.progress("unic: photos", 2000, World()) as advance:
        advance(500)
    said = capsys.readouterr().err
    assert "unic: photos: 500 of 2,000 images (25 %)" in said and "left" in said
