"""Files of strangers: nothing of them runs, and a few hundred bytes do not cost gigabytes."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unicscale.data.once import whole
from unicscale.data.pack.gather import gather
from unicscale.data.sets.decode import MAX_PIXELS, STRIP, Undecodable, decode, to_rgb
from unicscale.data.sets.folder import listing
from unicscale.errors import DataError, RecipeError
from unicscale.recipe import load

GOOD = """\
schema: 1
out: runs/x
data: {train: [images], images_per_step: 64}
teachers: {a: {plugin: dino}}
stages: [{name: low, size: 224, epochs: 2, lr: {peak: 3e-4}}]
"""


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x00\x00\x00\x0cjP  \r\n\x87\n"]
)
def test_only_the_formats_of_pictures_are_opened(head: bytes) -> None:
    with pytest.raises(Undecodable, match="not an image"):
        decode(head + b"showpage\n" * 20)


def test_a_picture_is_judged_by_its_header_before_it_is_decoded() -> None:
    side = int(MAX_PIXELS**0.5) + 8
    bomb = bytearray(png(Image.new("L", (8, 8))))
    bomb[16:24] = side.to_bytes(4, "big") * 2  # the header's size; its checksum is not looked at this early
    began = time.monotonic()
    with pytest.raises(Undecodable, match=f"{side}x{side} pixels, more than 134,217,728"):
        decode(bytes(bomb[:29]) + _crc(bomb[12:29]) + bytes(bomb[33:]))
    assert time.monotonic() - began < 1


def _crc(chunk: bytes) -> bytes:
    import zlib

    return zlib.crc32(chunk).to_bytes(4, "big")


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "LA", "P", "F", "CMYK"])
def test_a_picture_is_converted_strip_by_strip_to_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (37, 23, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256 + pixels[..., 1])
    elif mode == "F":
        image = Image.fromarray(pixels[..., 0].astype(np.float32) * 300)
    else:
        image = Image.fromarray(pixels, "RGBA").convert(mode)
    at_once = to_rgb(image)
    monkeypatch.setattr("unicscale.data.sets.decode.STRIP", 23 * 5)
    assert at_once.size < STRIP and np.array_equal(to_rgb(image), at_once)


def test_a_line_of_pixels_is_cut_before_it_is_enlarged() -> None:
    line = np.zeros((1, 60_000, 3), np.uint8)
    line[0, 29_900:30_100] = 200
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cut = whole(line, 224, crop=True)
    assert cut.shape == (224, 224, 3) and cut.max() == 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; 12 GB otherwise


# --- folders and tars -----------------------------------------------------------------------------


def test_a_link_that_leads_back_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "x.jpg").write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y.jpg").write_bytes(b"")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    assert listing(str(tmp_path / "set"))[0] == ["a/x.jpg", "b/y.jpg"]
    for name in ("again", "and again"):
        (tmp_path / "set" / "a" / name).symlink_to(tmp_path / "set")
    with pytest.raises(DataError, match=r"a/again: this link leads to a folder that it lies in\. Remove it"):
        listing(str(tmp_path / "set"))


def test_a_sparse_file_of_a_tar_is_neither_label_nor_image(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    with (tmp_path / "x.cls").open("wb") as label:
        label.truncate(8 << 30)
    subprocess.run(["tar", "--sparse", "-cf", "s.tar", "x.jpg", "x.cls"], cwd=tmp_path, check=True)
    assert (tmp_path / "s.tar").stat().st_size < 20_000
    with pytest.raises(DataError, match=r"'x.cls' is a sparse file"):
        gather(str(tmp_path / "s.tar"), str(tmp_path / "unpacked"))


def test_a_label_of_megabytes_is_none(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, size in (("x.jpg", 9), ("x.cls", 5000)):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(b"1" * size))
    with pytest.raises(DataError, match=r"'x.cls' has 5,000 bytes, and is no label"):
        gather(str(tmp_path / "s.tar"), str(tmp_path / "unpacked"))


# --- recipes --------------------------------------------------------------------------------------

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text", [LAUGHS, "a: &a [*a]\n", "a: " + "[" * 3000 + "]" * 3000], ids=["laughs", "self", "deep"]
)
def test_a_recipe_of_endless_values_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(GOOD + text)
    began = time.monotonic()
    with pytest.raises(
        RecipeError, match=r"r\.yaml: more than 20,000 values, or some that stand deeper than 40 levels"
    ):
        load(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text(GOOD)
    with pytest.raises(RecipeError, match="more than 20,000 values, or some"):
        load(tmp_path / "r.yaml", [f"data={{{text}}}" if text is not LAUGHS else "a=&a [*a]"])
    assert time.monotonic() - began < 20  # a hang otherwise


def test_a_recipe_without_an_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", "/dev/zero"):
        with pytest.raises(RecipeError, match="is no file: a pipe or a device has no end"):
            load(path)
    (tmp_path / "long.yaml").write_text("#" * (1 << 20) + GOOD)
    with pytest.raises(RecipeError, match="and no recipe has more than 1,048,576"):
        load(tmp_path / "long.yaml")


# --- weights --------------------------------------------------------------------------------------

CLAIMS = {
    "depth": {"student": {"options": {"depth": 10**9}}},
    "width": {"student": {"options": {"embed_dim": 2**40}}},
    "registers": {"student": {"registers": 10**9}},
    "a nest": "[" * 100_000,
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_small_file_that_claims_a_large_student_is_refused_at_once(tmp_path: Path, claim: str) -> None:
    import torch
    from safetensors.torch import save_file

    from unicscale import load as load_model
    from unicscale.errors import CheckpointError

    said = CLAIMS[claim] if isinstance(CLAIMS[claim], str) else json.dumps(CLAIMS[claim])
    tensors = {"trunk.pos_embed": torch.zeros(1, 5, 8), "trunk.patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}
    save_file(tensors, str(tmp_path / "x.safetensors"), {"unicscale": said})
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"x\.safetensors: (it says \w+|its metadata)"):
        load_model(tmp_path / "x.safetensors")
    assert time.monotonic() - began < 3


def test_an_official_file_that_names_a_block_of_nine_letters_is_refused_at_once(tmp_path: Path) -> None:
    import torch

    from unicscale import load as load_model
    from unicscale.errors import CheckpointError

    names = {
        "pos_embed": (1, 5, 8),
        "patch_embed.proj.weight": (8, 3, 4, 4),
        "blocks.0.mlp.fc1.weight": (8, 8),
        "blocks.0.mlp.fc2.weight": (8, 8),
        "blocks.999999999.mlp.fc1.weight": (8, 8),
    }
    torch.save({"model": {name: torch.zeros(shape) for name, shape in names.items()}}, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"x\.pth: this is not a UNIC checkpoint as released: .it names block 999999999"
    ):
        load_model(tmp_path / "x.pth")


# --- the environment ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"WORLD_SIZE": "two", "RANK": "0"}, "$WORLD_SIZE is 'two', and must be a whole number of at least 1."),
        ({"WORLD_SIZE": "0"}, "$WORLD_SIZE is '0', and must be a whole number of at least 1."),
        ({"RANK": "first"}, "$RANK is 'first', and must be a whole number of at least 0."),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "$RANK is 1, and of $WORLD_SIZE=1 ranks the last is 0."),
        ({"SLURM_NTASKS": "x"}, "$SLURM_NTASKS is 'x'"),
        ({"SLURM_RESTART_COUNT": "x"}, "$SLURM_RESTART_COUNT is 'x'"),
        ({"UNICSCALE_SECONDS": "soon"}, "$UNICSCALE_SECONDS is 'soon', and must be a number of seconds."),
    ],
    ids=str,
)
def test_a_number_of_the_environment_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, said: dict, text: str
) -> None:
    from unicscale.ranks import rendezvous, stop
    from unicscale.ranks.slurm import Slurm
    from unicscale.ranks.world import World
    from unicscale.recipe.sections import EngineSection

    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError) as refused:
        rendezvous.prepare(Path("nowhere"), dict(os.environ))
        Slurm().restarts()
        stop.seconds_left()
        World.start(EngineSection(device="cpu"))
    assert str(refused.value).startswith(text)


def test_a_rank_that_is_no_number_is_a_message_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    ran = subprocess.run(
        [sys.executable, "-m", "unicscale", "train", str(tmp_path / "r.yaml")], capture_output=True, text=True,
        env=os.environ | {"RANK": "x", "WORLD_SIZE": "y"}, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 2 and "Traceback" not in ran.stderr


def test_a_home_that_nobody_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from unicscale.errors import TeacherError
    from unicscale.teacher import files
    from unicscale.teacher.importing import from_file

    monkeypatch.setenv("UNICSCALE_CACHE", "~nosuchuser/cache")
    with pytest.raises(TeacherError, match=r"would be ~nosuchuser/cache, and no such home is known here"):
        files.folder()
    with pytest.raises(TeacherError, match=r"'weights: ~nosuchuser/w.pth' does not exist"):
        files.require(files.wanted("~nosuchuser/w.pth", None, None, "t"), "t")
    with pytest.raises(TeacherError, match=r"~nosuchuser/a\.py does not exist"):
        from_file("~nosuchuser/a.py:A")
