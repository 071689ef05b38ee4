"""What there is to pack: folders, lists, tars and WebDataset shards as one sorted list of images with labels."""

from __future__ import annotations

import bz2
import contextlib
import glob
import gzip
import lzma
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unicscale.data.sets.arrays import is_array
from unicscale.data.sets.folder import SUFFIXES, by_first_folder, listing
from unicscale.errors import DataError

LISTS = {".txt", ".lst", ".csv", ".tsv"}
LABEL = 4096  # bytes: more is no label
DIGITS = 15
NUMBER = re.compile(r"-?[0-9]+")
COMPRESSED = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class Stored(NamedTuple):
    """Where the encoded bytes of one image lie."""

    name: str
    path: str
    at: int = 0
    size: int = -1  # -1: the whole file


class Gathered(NamedTuple):
    """All images of a source, in the order they will have."""

    images: list[Stored]
    labels: np.ndarray | None  # (n,) int64
    classes: list[str]  # empty where labels came as numbers
    kind: str


def gather(source: str, unpack_into: str) -> Gathered:
    """List a source; compressed tars are unpacked into the folder `unpack_into` first."""
    if os.path.isdir(source):
        shards = sorted(glob.glob(os.path.join(glob.escape(source), "*.tar*")))
        if shards and not any(Path(source, name).suffix.lower() in SUFFIXES for name in os.listdir(source)):
            return _shards(shards, unpack_into)
        files, classes, labels = listing(source)
        if is_array(files[0]):
            raise DataError(
                f"{source}: arrays (.npy) are not packed: betons hold pictures of three channels, as FFCV reads them.\n"
                "  Name the folder itself in data.train."
            )
        images = [Stored(name, os.path.join(source, name)) for name in files]
        return Gathered(images, labels, classes, "folder")
    if not os.path.exists(source):
        shards = [path for pattern in _braces(source) for path in sorted(glob.glob(pattern))]
        if not shards:
            raise DataError(f"{source}: no such folder, list, tar or pattern of shards.")
        return _shards(shards, unpack_into)
    if os.path.splitext(source)[1].lower() in LISTS:
        return _list(source)
    return _shards([source], unpack_into)


def _list(path: str) -> Gathered:
    """Lines `path`, `path<tab or comma>label` or `path number`; relative to the list's own folder."""
    base, images, words = os.path.dirname(os.path.abspath(path)), [], []
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: not a list of images: {problem}") from problem
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"\s*(.*?\S)\s*[\t,]\s*([^\t,]+?)\s*|\s*(.*\S)\s+(\d+)\s*", line)
        name, word = (found[1] or found[3], found[2] or found[4]) if found else (line.strip(), None)
        images.append(Stored(name, os.path.join(base, name)))
        words.append(word)
    if not images:
        raise DataError(f"{path}: the list names no image.")
    if len({word is None for word in words}) > 1:
        raise DataError(f"{path}: line {words.index(None) + 1} has no label, others have.")
    labels, classes = _labels([word or "" for word in words], str(path)) if words[0] is not None else (None, [])
    return Gathered(images, labels, classes, "list")


def _shards(paths: list[str], unpack_into: str) -> Gathered:
    """Tars: labels from `KEY.cls` beside each image (WebDataset), or from first-level folders."""
    images: list[Stored] = []
    keys: list[str] = []  # per image
    inner: list[str] = []  # per image, its name within the tar
    words: dict[str, str] = {}  # key -> label
    for path in paths:
        plain = _unpacked(path, unpack_into)
        try:
            with tarfile.open(plain, "r:") as tar:
                for member in tar:
                    key, suffix = _key(path, member.name)
                    if member.issparse() and suffix in SUFFIXES | {".cls"}:
                        raise DataError(f"{path}: '{member.name}' is a sparse file, which is no image and no label.")
                    if member.isfile() and suffix in SUFFIXES:
                        images.append(Stored(f"{path}:{member.name}", plain, member.offset_data, member.size))
                        keys.append(key)
                        inner.append(os.path.normpath(member.name))
                    elif member.isfile() and suffix == ".cls":
                        if member.size > LABEL:
                            raise DataError(f"{path}: '{member.name}' has {member.size:,} bytes, and is no label.")
                        stream = tar.extractfile(member)
                        words[key] = stream.read().decode().strip() if stream else ""
        except (tarfile.TarError, OSError, UnicodeDecodeError) as problem:
            raise DataError(f"{path}: not a readable tar: {problem}") from problem
    if not images:
        raise DataError(f"{paths[0]}: no images in {len(paths)} tar file(s).")
    if words:
        lost = [image.name for image, key in zip(images, keys, strict=True) if key not in words]
        if lost:
            raise DataError(f"{lost[0]}: has no label (.cls), others have.")
        labels, classes = _labels([words[key] for key in keys], ".cls")
        return Gathered(images, labels, classes, "webdataset")
    classes, labels = by_first_folder(inner)
    return Gathered(images, labels, classes, "tar")


def _key(path: str, member: str) -> tuple[str, str]:
    """WebDataset's sample key (up to the first dot of the base name), within its shard; and the rest."""
    folder, base = os.path.split(member)
    stem, _, _ = base.partition(".")
    return f"{path}:{folder}/{stem}", os.path.splitext(base)[1].lower()


def _labels(words: list[str], of: str) -> tuple[np.ndarray, list[str]]:
    """Numbers as they are; names by their place in the sorted list of names."""
    if all(NUMBER.fullmatch(word) for word in words):  # not isdigit(): to it '²' is one
        if longest := max((word for word in words if len(word) > DIGITS), key=len, default=""):
            raise DataError(
                f"{of}: the label '{longest[:24]}...' has {len(longest):,} digits, and is no number of a class."
            )
        return np.array([int(word) for word in words], dtype=np.int64), []
    classes = sorted(set(words))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[word] for word in words], dtype=np.int64), classes


def _unpacked(path: str, into: str) -> str:
    opener = COMPRESSED.get(os.path.splitext(path)[1].lower())
    if opener is None:
        return path
    os.makedirs(into, exist_ok=True)
    plain = os.path.join(into, f"{len(os.listdir(into))}.tar")
    try:
        with opener(path, "rb") as packed, open(plain, "wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    except (OSError, EOFError, lzma.LZMAError) as problem:
        with contextlib.suppress(OSError):
            os.remove(plain)
        raise DataError(f"{path}: cannot be unpacked: {problem}") from problem
    return plain


def _braces(pattern: str) -> list[str]:
    """`shard-{000..012}.tar` -> its thirteen names."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not found:
        return [pattern]
    first, last = found[1], found[2]
    numbers = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return [name for n in numbers for name in _braces(pattern[: found.start()] + n + pattern[found.end() :])]
