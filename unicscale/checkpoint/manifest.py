"""manifest.json: which file holds which range of which tensor, and the sha256 that proves each file."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

FORMAT = 1
NAME = "manifest.json"
SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
         "uint8": 1, "bool": 1}  # fmt: skip


class Damaged(Exception):
    """A checkpoint that must not be used; the text says which file and why."""


class Range(NamedTuple):
    """`file` holds elements start..stop of the flattened tensor, under the tensor's own name."""

    start: int
    stop: int
    file: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor, whoever held it."""

    shape: tuple[int, ...]
    dtype: str  # "float32", as torch spells it
    ranges: tuple[Range, ...]

    def whole(self) -> bool:
        """Whether the ranges cover the tensor from its first element to its last."""
        reached = 0
        for start, stop, _ in sorted(self.ranges):
            if start > reached:
                return False
            reached = max(reached, stop)
        return reached >= prod(self.shape)


@dataclass(frozen=True, slots=True)
class Proof:
    """What a file must be to be believed."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything needed to read a checkpoint back with any engine and any number of ranks."""

    progress: dict[str, int]
    engine: str  # who wrote it: for people, never needed to read it
    world: int
    versions: dict[str, str]
    parameters: tuple[str, ...]  # every parameter of the student, frozen ones too
    tensors: dict[str, Entry]
    files: dict[str, Proof]

    def text(self) -> str:
        """The one spelling of this manifest: it ends in its own hash, so that a flipped bit anywhere shows."""
        content = {"format": FORMAT} | asdict(self)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return json.dumps(content | {"sha256": digest}, sort_keys=True) + "\n"

    @staticmethod
    def read(folder: Path) -> Manifest:
        """The manifest of a checkpoint folder; Damaged where it is missing, torn or altered."""
        try:
            text = (folder / NAME).read_bytes().decode()
            found = json.loads(text)
            version = found.pop("format")
            if version != FORMAT:
                raise Damaged(f"{NAME} is of format {version}; this version of unicscale reads {FORMAT}")
            found.pop("sha256")
            found["parameters"] = tuple(found["parameters"])
            found["tensors"] = {name: _entry(tensor) for name, tensor in found["tensors"].items()}
            found["files"] = {name: Proof(**proof) for name, proof in found["files"].items()}
            manifest = Manifest(**found)
            wrong = manifest.faults()
        except FileNotFoundError:
            raise Damaged(f"{NAME} is missing: the save was never finished") from None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
            raise Damaged(f"{NAME} cannot be read ({type(problem).__name__}: {problem})") from problem
        if manifest.text() != text:
            raise Damaged(f"{NAME} was altered: it does not match its own sha256")
        if wrong:
            raise Damaged(f"{NAME} {wrong[0]}")
        return manifest

    def faults(self) -> list[str]:
        """What no writer of ours would have written, and no reader should act on."""
        room = sum(proof.size for proof in self.files.values())
        wanted = sum(prod(entry.shape) * SIZES.get(entry.dtype, 1) for entry in self.tensors.values())
        where = {key: self.progress.get(key) for key in ("stage", "step", "images")}
        used = {part.file for entry in self.tensors.values() for part in entry.ranges}
        return [
            *(f"names files outside its own folder: {name!r}" for name in self.files if name != Path(name).name),
            *(f"takes numbers from {name!r}, which it does not prove" for name in used - self.files.keys()),
            *(f"gives {name} the type {e.dtype!r}" for name, e in self.tensors.items() if e.dtype not in SIZES),
            *(f"gives {name} the shape {e.shape}" for name, e in self.tensors.items() if min(e.shape, default=0) < 0),
            *([f"names {wanted:,} bytes of tensors, and {room:,} of files"] if wanted > room else []),
            *(f"says {key}: {n!r}" for key, n in where.items() if type(n) is not int or n < 0),
            *(f"leaves numbers of {name} out" for name, e in self.tensors.items() if not e.whole()),
        ]


def _entry(tensor: dict) -> Entry:
    return Entry(tuple(tensor["shape"]), tensor["dtype"], tuple(Range(*r) for r in tensor["ranges"]))


def prove(path: Path) -> Proof:
    """Size and sha256 of a file as it lies on the disk."""
    with open(path, "rb") as stream:
        return Proof(os.fstat(stream.fileno()).st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def verify(folder: Path, file: str, proof: Proof) -> str | None:
    """Why `file` is not what the manifest says; None where it is."""
    try:
        size = (folder / file).stat().st_size
        if size != proof.size:
            return f"{file} has {size} bytes instead of {proof.size}: truncated or overwritten"
        found = prove(folder / file).sha256
    except FileNotFoundError:
        return f"{file} is missing"
    except OSError as problem:
        return f"{file} cannot be read ({problem.strerror})"
    return (
        None if found == proof.sha256 else f"{file} does not match its sha256 ({found[:12]}, not {proof.sha256[:12]})"
    )
