"""`unicscale pack`: images of any kind into one .beton, written by FFCV's own fields and allocator.

FFCV's writer waits for ever when one of its processes dies and has no answer to a broken image, so the processes here
are ours: the parent watches them, broken images are left out of the index, and only a whole file gets its final name.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from unicscale import rng
from unicscale.data.pack.gather import Gathered, Stored, gather
from unicscale.data.sets.beton import JPEG, Beton, manifest_path
from unicscale.data.sets.decode import Undecodable, decode, read_bytes
from unicscale.data.sets.images import ffcv_missing
from unicscale.data.sets.trailer import checksum, trailer
from unicscale.errors import DataError

SHARED = 64  # bytes per image that the writing processes share: its record, its label, its checksum
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
PIECE = 32  # images a process takes at a time
PAGE = 8 << 20  # bytes; an image larger than a page cannot be stored
PR_SET_PDEATHSIG = 1  # Linux
SILENCE = 300.0  # seconds; a file system that no longer answers
Report = Callable[[int, int], None]  # images done, images in all


class Form(NamedTuple):
    """How images are stored."""

    mode: Literal["jpg", "raw", "proportion"] = "jpg"
    raw_share: float = 0.5  # of `proportion`
    max_side: int = 0  # 0: as it is
    short_side: int = 0
    quality: int = 90
    reencode: bool = False  # True: JPEGs that need no change are encoded again all the same


AS_IT_IS = Form()


class _Job(NamedTuple):
    """What the parent and its processes share."""

    writer: Any  # FFCV's, with the records of all samples in shared memory
    found: Gathered
    form: Form
    sums: Any  # a checksum per image, in shared memory


class Packed(NamedTuple):
    """What was written."""

    path: str
    count: int
    bytes: int
    sha256: str
    bad: list[tuple[str, str]]  # name, reason


def pack(
    source: str,
    target: str,
    form: Form = AS_IT_IS,
    *,
    workers: int = 1,
    max_bad: float | None = None,
    overwrite: bool = False,
    report: Report = lambda done, total: None,
) -> Packed:
    """Write `target` and its manifest; an interrupted call leaves nothing under the final name and can be repeated."""
    if os.path.isdir(target):
        raise DataError(f"{target} is a folder. Name the file to write: {os.path.join(target, 'train.beton')}")
    if os.path.exists(target) and not overwrite:
        raise DataError(f"{target}: exists already.\n  Remove it, or say --overwrite.")
    with _alone(target) as partial:
        found = gather(source, partial + ".unpacked")
        bad = _write(found, partial, form, workers, _limit(max_bad, len(found.images)), report)
        result = Packed(target, len(found.images) - len(bad), os.path.getsize(partial), _sha256(partial), bad)
        manifest = _manifest(source, found, form, result) | {"index": Beton(partial).index}
        with open(partial + ".json", "w") as stream:
            json.dump(manifest, stream, indent=1)
        if os.path.exists(manifest_path(target)):
            os.remove(manifest_path(target))  # never the manifest of one file beside another
        os.replace(partial, target)
        os.replace(partial + ".json", manifest_path(target))
    return result


def shrunk(image: np.ndarray, form: Form) -> np.ndarray:
    """Within the form's sides, never enlarged."""
    height, width = image.shape[:2]
    scale = min(
        1.0,
        form.max_side / max(height, width) if form.max_side else 1.0,
        form.short_side / min(height, width) if form.short_side else 1.0,
    )
    if scale == 1.0:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _write(found: Gathered, partial: str, form: Form, workers: int, limit: int, report: Report) -> list:
    if ffcv_missing():
        raise DataError(
            f"packing needs FFCV: {ffcv_missing()}.\n"
            "  Install it: apt-get install g++ pkg-config libopencv-dev libturbojpeg0-dev, then "
            "pip install 'unicscale[ffcv]'.\n"
            "  Or pack on another machine: reading betons needs no FFCV. Folders train as they are."
        )
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    count = len(found.images)
    _room_to_share(count)
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    writer: Any = DatasetWriter(partial, fields, page_size=PAGE, num_workers=workers)
    writer.num_samples = count
    writer.prepare()
    try:
        job = _Job(writer, found, form, multiprocessing.RawArray("Q", count))
        bad, allocations = _in_processes(job, workers, limit, report)
        _finish(job, sorted(bad), allocations)
    finally:
        writer.metadata_sm.close()
        writer.metadata_sm.unlink()
    return [(found.images[at].name, bad[at]) for at in sorted(bad)]


def _room_to_share(count: int, at: str = "/dev/shm") -> None:
    """What the writing processes share lies in memory: without it they could not begin, or would die as it fills up."""
    try:
        multiprocessing.get_context("fork").Lock()
        free = shutil.disk_usage(at).free
    except OSError as problem:
        raise DataError(
            f"packing needs shared memory, and {at} cannot be used: {problem.strerror}. Nothing was written.\n"
            "  Mount it; a container gets it with --shm-size or --ipc=host."
        ) from None
    if free < SHARED * count:
        raise DataError(
            f"packing {count:,} images shares {SHARED * count / 2**20:.1f} MiB of memory, and {at} has "
            f"{free / 2**20:.1f} left. Nothing was written.\n  A container gets more with --shm-size or --ipc=host."
        )


def _in_processes(job: _Job, workers: int, limit: int, report: Report) -> tuple[dict[int, str], list]:
    from ffcv.memory_allocator import MemoryAllocator

    writer, context, count = job.writer, multiprocessing.get_context("fork"), len(job.found.images)
    done = context.Queue()
    allocator = MemoryAllocator(writer.fname, writer.data_region_start, writer.page_size)
    given = context.Value("q", 0)
    processes = [context.Process(target=_work, args=(given, done, job, allocator), daemon=True) for _ in range(workers)]
    bad: dict[int, str] = {}
    allocations: list = []
    ended, seen, heard = 0, 0, time.monotonic()
    try:
        for process in processes:
            process.start()
        while ended < workers:
            while done.empty():
                dead = [p for p in processes if p.exitcode not in (None, 0)]
                if dead:
                    raise DataError(
                        f"{writer.fname}: a writing process died (exit code {dead[0].exitcode}); nothing was kept.\n"
                        "  Out of memory? Try fewer --workers, then start again."
                    )
                if time.monotonic() - heard > SILENCE:
                    raise DataError(f"{writer.fname}: no image was written for {SILENCE:.0f} s; nothing was kept.")
                time.sleep(0.02)
            (images, value, places), heard = done.get(), time.monotonic()
            if images is None:
                full = isinstance(value, OSError) and value.errno in FULL
                raise value if full else DataError(f"{writer.fname}: {type(value).__name__}: {value}")
            ended += images == 0
            seen += images
            bad |= value
            allocations += places
            report(seen, count)
            if len(bad) > limit:
                raise DataError(_too_many(job.found, bad, limit))
    finally:
        for process in processes:
            if process.is_alive() and ended < workers:
                process.kill()
            process.join()
    return bad, allocations


def _work(given: Any, done: Any, job: _Job, allocator: Any) -> None:
    """One process: takes the next piece of the list until none is left.

    It tells (images, bad, allocations) of each piece: short messages, which a pipe takes whole or not at all. Half of a
    long one, from a process that is killed as it writes, would keep the parent waiting for the rest.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends its processes
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a killed parent takes them along
    writer, images = job.writer, job.found.images
    metadata: Any = np.frombuffer(writer.metadata_sm.buf, writer.metadata_type, len(images))
    try:
        with allocator:
            while True:
                with given.get_lock():
                    first = given.value
                    given.value += PIECE
                if first >= len(images):
                    break
                bad = {}
                last = min(first + PIECE, len(images))
                for at in range(first, last):
                    allocator.set_current_sample(at)
                    metadata["f1"][at] = -1 if job.found.labels is None else job.found.labels[at]
                    try:
                        job.sums[at] = _store(metadata["f0"][at : at + 1], images[at], at, job.form, allocator)
                    except Undecodable as problem:
                        bad[at] = str(problem)
                done.put((last - first, bad, allocator.allocations))
                allocator.allocations = []
        done.put((0, {}, []))
    except Exception as problem:
        done.put((None, problem, []))


def _store(record: Any, stored: Stored, at: int, form: Form, allocator: Any) -> int:
    """Write one image and its record; returns the checksum of its bytes."""
    from ffcv.fields import RGBImageField

    data = read_bytes(stored.path, stored.at, stored.size)
    image = decode(data)
    small = shrunk(image, form)
    if max(small.shape) > 65535:
        raise Undecodable(f"{small.shape[1]}x{small.shape[0]} pixels: a beton holds sides of 65535; use --max-side")
    rooms: list[np.ndarray] = []

    def room(size: int) -> tuple[int, np.ndarray]:
        pointer, memory = _room(allocator, size)
        rooms.append(memory)
        return pointer, memory

    raw = form.mode == "raw" or (form.mode == "proportion" and _uniform(at) < form.raw_share)
    if not raw and small is image and not form.reencode and _keeps(data, image):
        record["mode"], record["height"], record["width"] = JPEG, *image.shape[:2]
        record["data_ptr"], memory = room(len(data))
        memory[:] = np.frombuffer(data, np.uint8)
    else:
        field = RGBImageField(write_mode="raw" if raw else "jpg", jpeg_quality=form.quality)
        field.encode(record, small, room)
    return checksum(rooms[0])


def _room(allocator: Any, size: int) -> tuple[int, np.ndarray]:
    if size > PAGE:
        raise Undecodable(f"{size:,} bytes, more than a page of {PAGE >> 20} MiB: use --max-side or --mode jpg")
    return allocator.malloc(size)


def _uniform(at: int) -> float:
    return float(rng.uniform_numpy(rng.keys_numpy(rng.key(0), np.array([at])), 0)[0])


def _keeps(data: bytes, image: np.ndarray) -> bool:
    """Whether these bytes may be stored as they are: an upright colour JPEG that FFCV decodes without a warning."""
    from unicscale.data.sets.ffcv import decoded

    if data[:2] != b"\xff\xd8" or len(data) > PAGE:
        return False
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as opened:
        if opened.mode != "RGB" or opened.getexif().get(0x0112, 1) != 1:
            return False
    return decoded(np.frombuffer(data, np.uint8), *image.shape[:2]) is not None


def _finish(job: _Job, bad: list[int], allocations: list) -> None:
    """Leave broken images out of the index and write it, checksums and names before it."""
    from ffcv.types import ALLOC_TABLE_TYPE

    writer = job.writer
    kept = np.setdiff1d(np.arange(writer.num_samples), bad)
    if len(kept) == 0:
        raise DataError(f"{writer.fname}: none of {len(bad)} images can be read; nothing was kept.")
    metadata = np.frombuffer(writer.metadata_sm.buf, writer.metadata_type, writer.num_samples)[kept].copy()
    number = np.full(writer.num_samples, -1, np.int64)
    number[kept] = np.arange(len(kept))
    table = np.array(
        [(number[at], where, size) for at, where, size in allocations if number[at] >= 0], ALLOC_TABLE_TYPE
    )
    with open(writer.fname, "r+b") as stream:
        stream.seek(writer.metadata_start)
        stream.write(metadata.tobytes())
        stream.seek(0, os.SEEK_END)
        stream.write(trailer(np.frombuffer(job.sums, np.uint64)[kept], [job.found.images[at].name for at in kept]))
        end = stream.tell()
        stream.write(table.tobytes())
        writer.header["num_samples"], writer.header["alloc_table_ptr"] = len(kept), end
        stream.seek(0)
        stream.write(writer.header.tobytes())
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _alone(target: str) -> Iterator[str]:
    """The temporary name, held by one process; whatever an earlier one left there is removed."""
    partial = target + ".partial"
    try:
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        lock = open(target + ".lock", "w")  # noqa: SIM115  (closed below)
    except OSError as problem:
        raise DataError(f"{target} cannot be written: {problem.strerror}. Name another place.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"{target}: another process is packing it.") from None
        try:
            _remove(partial)
            yield partial
        except OSError as problem:
            if problem.errno not in FULL:
                raise
            raise DataError(
                f"{target} cannot be written: {problem.strerror}. Nothing of it was kept.\n"
                "  Make room, or name another place; then the same command starts again."
            ) from None
        finally:
            _remove(partial)
            os.remove(target + ".lock")


def _remove(partial: str) -> None:
    for path in (partial, partial + ".json"):
        if os.path.exists(path):
            os.remove(path)
    shutil.rmtree(partial + ".unpacked", ignore_errors=True)


def _limit(max_bad: float | None, count: int) -> int:
    """Below 1 a share, from 1 on a number of images; by default one in a hundred, and ten in any case."""
    if max_bad is None:
        return max(10, count // 100)
    return int(max_bad * count) if max_bad < 1 else int(max_bad)


def _too_many(found: Gathered, bad: dict[int, str], limit: int) -> str:
    some = "\n".join(f"  {found.images[at].name}: {bad[at]}" for at in sorted(bad)[:20])
    return f"{len(bad)} images cannot be read, --max-bad allows {limit}; nothing was kept.\n{some}"


def _sha256(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _manifest(source: str, found: Gathered, form: Form, result: Packed) -> dict:
    return {
        "images": result.count,
        "bytes": result.bytes,
        "sha256": result.sha256,
        "checksums": True,
        "source": source,
        "kind": found.kind,
        "labels": found.labels is not None,
        "classes": found.classes,
        "form": form._asdict(),
        "skipped": [{"name": name, "reason": reason} for name, reason in result.bad],
    }
