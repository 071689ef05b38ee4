"""Every door at which files and words of others come in: what a good input is, how it is spoilt, who reads it.

A door is a function of an empty folder and of hypothesis' `draw`: it writes the spoilt input, and returns the reading.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import pickle
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.hostile import spoilt_bytes, spoilt_json, spoilt_tree, values
from tests.kit import places
from tests.kit.pictures import tree as pictures
from tests.kit.pictures import written_without_ffcv
from unicscale import load as load_model
from unicscale.checkpoint.manifest import Manifest, prove
from unicscale.commands.seen import verdict
from unicscale.data.pack.gather import gather
from unicscale.data.sets.beton import Beton
from unicscale.data.sets.decode import Undecodable, decode, to_rgb
from unicscale.errors import UserError
from unicscale.recipe import dump, load
from unicscale.recipe.difference import differences
from unicscale.recipe.plan import Plan
from unicscale.recipe.reference import keys
from unicscale.report import comparison, read, text_table
from unicscale.run.folder import RunFolder, facts_of, open_run
from unicscale.run.status import statuses
from unicscale.teacher.described import describe

Draw = Callable[[st.SearchStrategy], Any]
Door = Callable[[Path, Draw], Callable[[], object]]
OLD = places.REPOSITORY / "tests/golden/old_run/out"
RECIPES = [
    places.REPOSITORY / "recipes" / name for name in ("unic_l.yaml", "unic_s.yaml", "demo.yaml", "single_teacher.yaml")
]


# --- recipes --------------------------------------------------------------------------------------


def recipe(folder: Path, draw: Draw) -> Callable[[], object]:
    """A recipe of ours, spoilt as a tree or as text."""
    text = draw(st.sampled_from(RECIPES)).read_text()
    data = draw(st.one_of(spoilt_tree(yaml.safe_load(text)).map(_yaml), spoilt_bytes(text.encode())))
    (folder / "r.yaml").write_bytes(data)
    return lambda: used(load(folder / "r.yaml", unset="keep"))


def _yaml(tree: Any) -> bytes:
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


def used(resolved: Any) -> None:
    """What everybody does with a recipe before torch comes in."""
    (again := Path(tempfile.gettempdir()) / "again.yaml").write_text(dump(resolved))
    assert differences(resolved, load(again, unset="keep")) == [], "a resolved recipe reads back to another one"
    verdict(resolved.model_copy(update={"data": resolved.data.model_copy(update={"train": ["/nowhere"]})}))
    plan = Plan.of(
        resolved.stages, images_per_epoch=10**6, images_per_step=resolved.data.images_per_step,
        standardize=resolved.standardize, track=resolved.track, save=resolved.save, evaluate=resolved.evaluate,
    )  # fmt: skip
    for step in {0, 1, plan.steps // 2, plan.steps - 1}:
        plan.lr(step), plan.momentum(step), plan.size(step, resolved.seed), plan.trunk_rests(step), plan.logs(step + 1)


def overrides(folder: Path, draw: Draw) -> Callable[[], object]:
    """A good recipe, and words on the command line that are not."""
    path = draw(st.sampled_from(RECIPES))
    words = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(keys())).path.replace("[]", ".0").replace("NAME", "dino")
        value = draw(st.one_of(values.map(json.dumps), values.map(str), st.text(max_size=20)))
        odd = draw(st.integers(0, 9)) == 0
        words.append(draw(st.text(max_size=30)) if odd else f"{key}={value}")
    return lambda: used(load(path, words, unset="keep"))


def out(folder: Path, draw: Draw) -> Callable[[], object]:
    """A run folder of any name: made below the folder, or refused."""
    name = draw(st.one_of(values.map(str), st.text(max_size=80)))
    where = f"{folder}/{name}"

    def enter() -> None:
        resolved = load(RECIPES[2], [f"out={json.dumps(where)}"])
        if Path(resolved.out).resolve().is_relative_to(folder):  # `..` leads where its author may write
            open_run(resolved)

    return enter


# --- run folders ----------------------------------------------------------------------------------


def _run(folder: Path, name: str, data: bytes) -> Callable[[], object]:
    shutil.copytree(OLD, folder / "run", ignore=shutil.ignore_patterns("checkpoints"))
    (folder / "run" / name).parent.mkdir(exist_ok=True)
    (folder / "run" / name).write_bytes(data)
    run = RunFolder(folder / "run")

    def look() -> None:
        found = statuses([run])
        text_table(comparison([read(run, status) for status in found]), 80)
        facts_of(run)

    return look


def run_facts(folder: Path, draw: Draw) -> Callable[[], object]:
    """run.json."""
    return _run(folder, "run.json", draw(spoilt_json((OLD / "run.json").read_text())))


def metrics(folder: Path, draw: Draw) -> Callable[[], object]:
    """metrics.jsonl: a line spoilt, or the file."""
    lines = (OLD / "metrics.jsonl").read_text().splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    one = draw(spoilt_json(lines[at]))
    whole = b"\n".join([*(line.encode() for line in lines[:at]), one, *(line.encode() for line in lines[at + 1 :])])
    return _run(folder, "metrics.jsonl", draw(st.one_of(st.just(whole), spoilt_bytes(whole))))


def results(folder: Path, draw: Draw) -> Callable[[], object]:
    """A table of results."""
    score = {"value": 80.0, "low": 79.0, "high": 81.0, "higher_is_better": True}
    models = {"student": {"teacher": False}, "dino": {"teacher": True}}
    tree = {"models": models, "scores": {"knn": {"student": score, "dino": score}}, "gains": {"knn": {"gain": 1.0}}}
    return _run(folder, "evaluation/quick.json", draw(spoilt_json(json.dumps(tree))))


# --- checkpoints and weights ----------------------------------------------------------------------


def manifest(folder: Path, draw: Draw) -> Callable[[], object]:
    """A manifest whose own hash is right, and whose contents lie; or one that is torn."""
    run = _copied(folder)
    file = next(run.glob("checkpoints/step-*/manifest.json"))
    text = file.read_text()
    tree = draw(spoilt_tree({k: v for k, v in json.loads(text).items() if k != "sha256"}))
    file.write_bytes(draw(st.one_of(st.just(_signed(tree)), st.just(_signed(tree)), spoilt_bytes(text.encode()))))
    return lambda: load_model(run)


def checkpoint(folder: Path, draw: Draw) -> Callable[[], object]:
    """A checkpoint whose hashes are right and whose recipe, state or numbers lie."""
    run = _copied(folder)
    step = next(run.glob("checkpoints/step-*"))
    name = draw(st.sampled_from(["recipe.yaml", "recipe.yaml", "state.json", "rank-0000.safetensors"]))
    good = (step / name).read_bytes()
    if name == "recipe.yaml":
        data = draw(spoilt_tree(yaml.safe_load(good)).map(_yaml))
    else:
        data = draw(spoilt_json(good.decode()) if name == "state.json" else _spoilt_header(good))
    (step / name).write_bytes(data)
    held = Manifest.read(step)
    held.files[name] = prove(step / name)
    (step / "manifest.json").write_text(held.text())
    return lambda: load_model(run, projectors=True)


def _copied(folder: Path) -> Path:
    shutil.copytree(OLD, folder / "run")
    return folder / "run"


def _signed(tree: Any) -> bytes:
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
    signed = tree | {"sha256": digest} if isinstance(tree, dict) else tree
    return (json.dumps(signed, sort_keys=True) + "\n").encode()


def safetensors(folder: Path, draw: Draw) -> Callable[[], object]:
    """A file of ours: its header, its description of the student, its bytes."""
    (folder / "x.safetensors").write_bytes(draw(_spoilt_header(_ours())))
    return lambda: load_model(folder / "x.safetensors", projectors=True)


@functools.cache
def _ours() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        load_model(OLD).save(f"{folder}/x.safetensors")
        return Path(folder, "x.safetensors").read_bytes()


@st.composite
def _spoilt_header(draw: st.DrawFn, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if draw(st.integers(0, 3)) == 0:
        return draw(spoilt_bytes(data))
    said = header.get("__metadata__", {}).get("unicscale")
    if said and draw(st.booleans()):
        header["__metadata__"]["unicscale"] = draw(spoilt_json(said)).decode(errors="replace")
    else:
        header = draw(spoilt_tree(header))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def official(folder: Path, draw: Draw) -> Callable[[], object]:
    """An official .pth: other names, other shapes, code, torn zips."""
    kind = draw(st.sampled_from(["names", "tree", "pickle", "zip", "bytes"]))
    state = {f"module.{k}": v for k, v in _official().items()} if draw(st.booleans()) else dict(_official())
    file = folder / "x.pth"
    if kind == "names":
        for _ in range(draw(st.integers(1, 3))):
            old = draw(st.sampled_from(sorted(state)))
            digits = draw(st.sampled_from(["0", "7", "99", "999999999", "-1", "²", "x", ""]))
            state[".".join(digits if part.isdigit() else part for part in old.split("."))] = state.pop(old)
        torch.save({"model": state}, file)
    elif kind == "tree":
        name = draw(st.sampled_from(sorted(state)))
        state[name] = draw(st.one_of(values, st.just(torch.zeros(0)), st.just(torch.zeros(1, 2, 3, 4, 5))))
        torch.save(draw(st.sampled_from([state, {"model": state}, {"model": [state]}, [state], state[name]])), file)
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(draw(st.sampled_from([Hook(), {"model": Hook()}, [Hook()], {"model": {}}]))))
    elif kind == "zip":
        with zipfile.ZipFile(io.BytesIO(_official_bytes())) as good, zipfile.ZipFile(file, "w") as bad:
            chosen = draw(st.sampled_from([n for n in good.namelist() if n.endswith((".pkl", "version", "byteorder"))]))
            for name in good.namelist():
                held = good.read(name)
                bad.writestr(name, draw(spoilt_bytes(held)) if name == chosen else held)
    else:
        file.write_bytes(draw(spoilt_bytes(_official_bytes(), most=8 << 20)))
    return lambda: load_model(file)


class Hook:
    """Calls a function when it is unpickled by a trusting reader."""

    def __reduce__(self) -> tuple:
        return (exec, ("import pathlib; pathlib.Path('/tmp/unicscale-fuzz-ran').touch()",))


@functools.cache
def _official() -> dict[str, torch.Tensor]:
    whole = torch.load(places.REPOSITORY / "tests/golden/unic_official_tiny.pth", weights_only=False)  # ours
    return whole.get("model", whole)


@functools.cache
def _official_bytes() -> bytes:
    return (places.REPOSITORY / "tests/golden/unic_official_tiny.pth").read_bytes()


# --- data -----------------------------------------------------------------------------------------


@functools.cache
def _beton() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        written_without_ffcv(pictures(Path(folder, "tree"), 6), Path(folder, "x.beton"))
        return Path(folder, "x.beton").read_bytes(), Path(folder, "x.beton.json").read_bytes()


def beton(folder: Path, draw: Draw) -> Callable[[], object]:
    """A beton and its manifest: what opens has the pixels that were packed, or says that it has not."""
    data, facts = _beton()
    spoils_facts = draw(st.integers(0, 3)) == 0
    (folder / "x.beton").write_bytes(data if spoils_facts else draw(spoilt_bytes(data)))
    (folder / "x.beton.json").write_bytes(draw(spoilt_json(facts.decode())) if spoils_facts else facts)

    def look() -> None:
        images = Beton(str(folder / "x.beton"))
        try:
            for number in range(min(len(images), 50)):
                try:
                    seen = images.image(number)
                except Undecodable:
                    continue
                assert _digest(seen) in _digests(), f"sample {number} has other pixels, silently"
        finally:
            images.close()

    return look


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


@functools.cache
def _digests() -> set[str]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "x.beton").write_bytes(_beton()[0])
        Path(folder, "x.beton.json").write_bytes(_beton()[1])
        images = Beton(f"{folder}/x.beton")
        return {_digest(images.image(number)) for number in range(len(images))}


def picture(folder: Path, draw: Draw) -> Callable[[], object]:
    """The bytes of a photograph."""
    kind = draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"]))
    data = draw(spoilt_bytes(_picture(kind)))

    def look() -> None:
        try:
            decode(data)
            to_rgb(Image.open(io.BytesIO(data)))
        except (Undecodable, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            decode_or_refuse(data)

    return look


def decode_or_refuse(data: bytes) -> None:
    """Our own door alone."""
    try:
        decode(data)
    except Undecodable as refused:
        raise Refused(str(refused)) from None


class Refused(UserError):
    """An image that is replaced by another, and counted."""


@functools.cache
def _picture(kind: str) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def archive(folder: Path, draw: Draw) -> Callable[[], object]:
    """A tar of images and labels: odd names, links, sizes, torn blocks."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(draw(st.integers(1, 4))):
            odd = draw(st.sampled_from(["", "", "../", "/tmp/", "a/../../", "./", "\x1b[2J", "é/", "x" * 300]))
            for suffix, data in ((".jpg", _picture("JPEG")), (".cls", draw(st.sampled_from(LABELS)))):
                member = tarfile.TarInfo(f"{odd}{number:03d}{suffix}")
                member.size = len(data)
                member.type = draw(st.sampled_from([tarfile.REGTYPE] * 8 + [tarfile.SYMTYPE, tarfile.CHRTYPE, b"L"]))
                member.linkname = "/etc/passwd"
                tar.addfile(member, io.BytesIO(data))
    data = stream.getvalue()
    (folder / "x.tar").write_bytes(draw(st.one_of(st.just(data), spoilt_bytes(data))))
    (folder / "unpacked").mkdir()
    return lambda: gather(str(folder / "x.tar"), str(folder / "unpacked"))


LABELS = [b"0", b"1", b"-1", b"", b"x", b"\xff", "²".encode(), b"9" * 30, b"1" * 5000, b"1e9", b"nan"]


# --- teachers -------------------------------------------------------------------------------------

CONFIGS: list[dict[str, Any]] = [
    {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
     "patch_size": 8, "hidden_act": "gelu"},
    {"model_type": "clip", "projection_dim": 8, "vision_config": {"model_type": "clip_vision_model", "hidden_size": 32,
     "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}},
    {"model_type": "convnext", "num_channels": 3, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32]},
]  # fmt: skip
PREPROCESSOR = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "size": {"height": 32, "width": 32}}


def hugging_face(folder: Path, draw: Draw) -> Callable[[], object]:
    """config.json and preprocessor_config.json of a model of transformers."""
    from unicscale.recipe.sections import TeacherSection

    config, beside = json.dumps(draw(st.sampled_from(CONFIGS))), json.dumps(PREPROCESSOR)
    first = draw(st.integers(0, 3)) > 0
    (folder / "config.json").write_bytes(draw(spoilt_json(config)) if first else config.encode())
    (folder / "preprocessor_config.json").write_bytes(beside.encode() if first else draw(spoilt_json(beside)))
    section = TeacherSection.model_validate({"plugin": "hf", "config": str(folder), "weights": "random"})
    return lambda: describe("hf", section).widths


DOORS: dict[str, Door] = {
    door.__name__: door
    for door in (recipe, overrides, out, run_facts, metrics, results, manifest, checkpoint, safetensors, official,
                 beton, picture, archive, hugging_face)
}  # fmt: skip
