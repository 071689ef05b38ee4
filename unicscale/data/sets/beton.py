"""The .beton file of FFCV (version 2), read with numpy and `pread` alone: no compiler, no mapping, no FFCV.

Layout: header | a descriptor per field | a metadata record per sample | pages of data | of `unicscale pack`: a checksum
and a name per sample (trailer.py) | allocation table. All but the pixels is read and checked at open, because a file
that lost its tail, or a part of its middle, otherwise opens and gives garbage. Reads go through `pread`: a file that
shrinks under a mapping kills the process with SIGBUS.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from unicscale.data.sets.decode import Undecodable
from unicscale.data.sets.trailer import checksum, read_trailer
from unicscale.errors import DataError

VERSION = 2
HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("table", "<u8")], align=True
)
FIELD = np.dtype([("type", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)], align=True)
ALLOCATION = np.dtype([("sample", "<u8"), ("at", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("at", "<u8")])
STRETCH = np.dtype([("at", "<u8"), ("size", "<u8")])
FLOAT_FIELD, INT_FIELD, IMAGE_FIELD = 0, 1, 2
METADATA = {FLOAT_FIELD: "<f8", INT_FIELD: "<i8", IMAGE_FIELD: IMAGE, 3: STRETCH, 4: "<u8", 5: STRETCH, 6: STRETCH}
JPEG, RAW = 0, 1


class Beton:
    """The images (and labels) of one file; `image` may be called from several threads."""

    reader, channels = "beton", 3

    @classmethod
    def refuses(cls, path: str, resize: str) -> str:
        """Folders."""
        folder = f"a folder, which '{cls.reader}' does not read.\n  Pack it, or say reader: folder."
        return folder if os.path.isdir(path) else ""

    def __init__(self, path: str, max_resolution: int = 0) -> None:
        self.path = path
        try:
            self.file = os.open(path, os.O_RDONLY)
        except OSError as problem:
            raise DataError(f"{path}: {problem.strerror}.") from problem
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        largest = int(max(self.heights.max(initial=0), self.widths.max(initial=0)))
        if max_resolution and largest > max_resolution:
            self.close()
            raise DataError(
                f"{path}: stores images of up to {largest} pixels, data.max_resolution is {max_resolution}.\n"
                f"  Raise it, or pack again: unicscale pack SRC {path} --max-side {max_resolution}"
            )

    def __len__(self) -> int:
        return len(self.at)

    def name(self, index: int) -> str:
        """For messages: the sample, and the file it was packed from where that is known."""
        source = f" ({self.trailer.name(self.file, index)})" if self.trailer else ""
        return f"{self.path}, sample {index}{source}"

    def encoded(self, index: int) -> np.ndarray:
        """The stored bytes of an image; Undecodable where they are not those that were packed."""
        data = np.empty(int(self.sizes[index]), np.uint8)
        if os.preadv(self.file, [data.data], int(self.at[index])) != len(data):
            raise self.changed()
        if self.trailer and checksum(data) != self.trailer.sums[index]:
            raise Undecodable("its bytes are not those that were packed (checksum)")
        return data

    def image(self, index: int) -> np.ndarray:
        """The whole image, (H, W, 3) uint8; raises Undecodable."""
        data = self.encoded(index)
        shape = (int(self.heights[index]), int(self.widths[index]), 3)
        if self.modes[index] == RAW:
            return data.reshape(shape)
        try:
            planes = decode_jpeg(torch.from_numpy(data), mode=ImageReadMode.RGB)  # (3, H, W), interleaved in memory
        except RuntimeError as problem:
            raise Undecodable(str(problem).splitlines()[0]) from problem
        image = cast(Tensor, planes).permute(1, 2, 0).numpy()
        if image.shape != shape:
            raise Undecodable(other_size(image.shape, shape))
        return np.ascontiguousarray(image)

    def scratch_bytes(self) -> int:
        """What one thread holds: the largest file and the largest image."""
        return int(self.sizes.max(initial=0) + (self.heights * self.widths).max(initial=0) * 3)

    def changed(self) -> DataError:
        """The error for a read that came back short."""
        return DataError(f"{self.path}: the file became shorter while it was being read.\n  Restore it, then resume.")

    def close(self) -> None:
        """Let go of the file."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def __del__(self) -> None:
        if getattr(self, "file", -1) >= 0:
            self.close()

    # --- the index ------------------------------------------------------------------------------------

    def _open(self) -> None:
        size = os.fstat(self.file).st_size
        if size < HEADER.itemsize:
            raise self._broken(f"{size} bytes, shorter than a header")
        header = self._records(HEADER, 1, 0)[0]
        if header["version"] != VERSION or header["page"] == 0 or header["page"] & (header["page"] - 1):
            raise self._broken(f"its header is not that of a version {VERSION} beton")
        if header["table"] == 0:
            raise self._broken("its writer did not finish")
        samples, table = int(header["samples"]), int(header["table"])
        fields = self._records(FIELD, int(header["fields"]), HEADER.itemsize)
        metadata = self._metadata(fields, samples)
        if table > size or (size - table) % ALLOCATION.itemsize:
            raise self._broken(f"{size:,} bytes do not reach to the end of its allocation table (from {table:,})")
        allocations = self._records(ALLOCATION, (size - table) // ALLOCATION.itemsize, table)
        self._index(metadata, fields, allocations, table)
        self.trailer = read_trailer(self.file, table, samples, self.path)
        self.index = hashlib.sha256(b"".join(x.tobytes() for x in (header, fields, metadata, allocations))).hexdigest()
        manifest = self._manifest()
        self.classes = manifest.get("classes", [])
        if manifest.get("index", self.index) != self.index:
            raise DataError(
                f"{self.path}: changed since it was packed: its index is not the one that {manifest_path(self.path)} "
                "names.\n  Copy both again, or remove the manifest if the file is meant."
            )
        if manifest.get("checksums") and self.trailer is None:
            raise self._broken("the checksums that its manifest promises are not in it")

    def _metadata(self, fields: np.ndarray, samples: int) -> np.ndarray:
        kinds = []
        for field in fields:
            if int(field["type"]) not in METADATA:
                raise DataError(
                    f"{self.path}: field '{_text(field['name'])}' has a custom type, which only FFCV can read."
                )
            kinds.append(("", METADATA[int(field["type"])]))
        if not kinds:
            raise self._broken("its header names no fields")
        return self._records(np.dtype(kinds, align=True), samples, HEADER.itemsize + fields.nbytes)

    def _index(self, metadata: np.ndarray, fields: np.ndarray, allocations: np.ndarray, table: int) -> None:
        images = [i for i, field in enumerate(fields) if field["type"] == IMAGE_FIELD]
        if not images:
            raise DataError(f"{self.path}: has no image field, only {', '.join(_text(f['name']) for f in fields)}.")
        image = metadata[f"f{images[0]}"]
        self.modes, self.at = np.ascontiguousarray(image["mode"]), np.ascontiguousarray(image["at"])
        self.heights = image["height"].astype(np.int64)
        self.widths = image["width"].astype(np.int64)
        allocations = allocations[np.argsort(allocations["at"], kind="stable")]
        place = np.searchsorted(allocations["at"], self.at).clip(max=max(len(allocations) - 1, 0))
        if len(self.at) and (len(allocations) == 0 or (allocations["at"][place] != self.at).any()):
            lost = len(self.at) if len(allocations) == 0 else int((allocations["at"][place] != self.at).sum())
            raise self._broken(f"{lost:,} of {len(self.at):,} samples are missing from its allocation table")
        self.sizes = allocations["size"][place].astype(np.int64) if len(self.at) else np.empty(0, np.int64)
        owner = allocations["sample"][place] if len(self.at) else np.empty(0, np.uint64)
        if len(allocations) and int(allocations["sample"].max()) >= len(self.at):
            raise self._broken(f"its allocation table names more samples than the {len(self.at):,} of its header")
        raw = self.modes == RAW
        odd = (self.at.astype(np.int64) + self.sizes > table) | (raw & (self.sizes != self.heights * self.widths * 3))
        odd |= (self.modes > RAW) | (self.heights == 0) | (self.widths == 0) | (owner != np.arange(len(owner)))
        if odd.any():
            raise self._broken(f"sample {int(np.flatnonzero(odd)[0])} does not lie where its index says")
        labels = [i for i, field in enumerate(fields) if field["type"] == INT_FIELD]
        self.labels = metadata[f"f{labels[0]}"].astype(np.int64) if labels else None
        if self.labels is not None and len(self.labels) and self.labels.max() < 0:
            self.labels = None  # packed from a set without labels

    def _records(self, kind: np.dtype, count: int, at: int) -> np.ndarray:
        wanted, parts = kind.itemsize * count, []
        if at + wanted > os.fstat(self.file).st_size:
            raise self._broken("it ends before its index does")
        while wanted:  # one pread returns 2 GiB at most
            part = os.pread(self.file, wanted, at)
            if not part:
                raise self._broken("it ends before its index does")
            parts.append(part)
            wanted, at = wanted - len(part), at + len(part)
        return np.frombuffer(b"".join(parts), kind)

    def _manifest(self) -> dict:
        try:
            with open(manifest_path(self.path)) as stream:
                said = json.load(stream)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as problem:
            raise DataError(f"{manifest_path(self.path)}: cannot be read: {problem}") from problem
        classes = said.get("classes", []) if isinstance(said, dict) else None
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise DataError(
                f"{manifest_path(self.path)}: is not what `unicscale pack` wrote. Copy it again, or remove it."
            )
        return said

    def _broken(self, how: str) -> DataError:
        return DataError(f"{self.path}: not a whole .beton file: {how}.\n  Copy or pack it again.")


def other_size(found: tuple[int, ...], said: tuple[int, ...]) -> str:
    """What is wrong with an image that has other sides (height first) than the index gives it."""
    return f"its JPEG is {found[1]}x{found[0]}, the index says {said[1]}x{said[0]}"


def manifest_path(path: str) -> str:
    """Where `unicscale pack` notes what it wrote."""
    return path + ".json"


def _text(name: np.ndarray) -> str:
    return name.tobytes().split(b"\0")[0].decode("ascii", "replace")
