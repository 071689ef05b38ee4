"""Images through a frozen model, every rank its share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unicscale.contracts import Features
from unicscale.data.once import Once
from unicscale.errors import CheckpointError, DataError
from unicscale.evaluate.features import store
from unicscale.evaluate.features.forms import hand_over
from unicscale.evaluate.features.unfinished import Unfinished
from unicscale.evaluate.metrics.checks import check_features
from unicscale.ranks.world import World

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Encode = Callable[[Tensor], Features]


def forward_all(encode: Encode, images: Once, dtype: torch.dtype) -> Iterator[tuple[Features, Tensor, Tensor]]:
    """(features, labels, index) of each of this rank's batches, without gradients, under autocast."""
    for pixels, labels, index in images:
        with torch.inference_mode(), torch.autocast(pixels.device.type, dtype, enabled=dtype != torch.float32):
            features = encode(pixels)
        yield features, labels, index


def summary_of(features: Features) -> Tensor:  # (B, D)
    """Its summary; the mean of its patches where it has none."""
    if features.summary is not None:
        return features.summary
    assert features.patches is not None, "an encoder has tokens of some kind"
    return features.patches.mean(1)


class Rows(NamedTuple):
    """A batch's features on their way to the host."""

    first: int  # their place in the set
    values: dict[str, Tensor]  # on the host, pinned where they come from a GPU
    arrived: torch.cuda.Event | None  # before which `values` are not there yet


def extract(
    encode: Encode,
    images: Once,
    out: Path,
    *,
    dtype: torch.dtype,
    world: World,
    patches: bool = False,
    metadata: dict[str, str] | None = None,
    names: bytes | None = None,
    resumable: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """All images' features in one file: summary, labels, index (and patches, and `names` as bytes).

    What is `resumable` leaves a part beside `out` when it is cut short, and goes on with it when it is called again.
    """
    held = torch.float32 if dtype == torch.float32 else torch.float16
    asked = {"dtype": str(held), "patches": str(patches), "images": str(len(images.images))}
    with Unfinished(out, (metadata or {}) | asked, world) if resumable else nullcontext() as unfinished:
        if unfinished is not None:
            progress(unfinished.done)
            images.part = images.part[unfinished.done :]
        stream = _one_ahead(_on_host(forward_all(encode, images, dtype), images.part.start, held, patches))
        batch = next(stream, None)
        place = unfinished.path if unfinished else store.temporary(out)
        place = world.broadcast_object(place if world.main else None)
        if unfinished is not None and unfinished.going_on:
            plan = store.plan_of(place)
        else:
            plan = _planned(batch, images, held, names, world)
            world.on_main(lambda: store.create(place, plan, metadata or {}))
        filling = store.Filling(place, plan)
        try:
            filling.put(images.part.start, _facts(images))
            if names is not None and world.main:
                filling.put(0, {"names": torch.frombuffer(bytearray(names), dtype=torch.uint8)})
            problem = _written(batch, stream, filling, unfinished, str(images.images.path), progress)
            problems = [p for p in world.gather_objects(problem) if p is not None]
            if problems:
                raise problems[0]
        except BaseException:
            if unfinished is None:
                place.unlink(missing_ok=True)
            raise
        finally:
            filling.close()
        world.on_main(lambda: hand_over(place, out))
        if unfinished is not None:
            unfinished.whole = True
    world.barrier()


def _written(
    batch: Rows | None,
    stream: Iterator[Rows],
    filling: store.Filling,
    unfinished: Unfinished | None,
    what: str,
    progress: Callable[[int], None],
) -> DataError | None:
    """Every batch in its place; what ends it is told to all ranks, and how far it came is kept."""
    rows = unfinished.done if unfinished else 0
    try:
        while batch is not None:
            if batch.arrived is not None:
                batch.arrived.synchronize()
            check_features(what, batch.values["summary"], first=batch.first)
            filling.put(batch.first, batch.values)
            rows += len(batch.values["summary"])
            if unfinished:
                unfinished.note(rows, filling.sync)
            progress(len(batch.values["summary"]))
            batch = next(stream, None)
    except BaseException as caught:
        if unfinished and rows:
            with suppress(OSError, CheckpointError):  # why it ends is what counts
                unfinished.note(rows, filling.sync, now=True)
        if not isinstance(caught, DataError):
            raise
        return caught
    return None


def _planned(batch: Rows | None, images: Once, held: torch.dtype, names: bytes | None, world: World) -> store.Plan:
    mine = None if batch is None else {name: tuple(values.shape[1:]) for name, values in batch.values.items()}
    shapes = next((some for some in world.gather_objects(mine) if some is not None), None)
    if shapes is None:
        raise DataError(f"{images.images.path}: no images to extract features from")
    count = len(images.images)
    plan: store.Plan = {name: ((count, *shape), held) for name, shape in shapes.items()}
    plan |= {"labels": ((count,), torch.int64), "index": ((count,), torch.int64)}
    if names is not None:
        plan["names"] = ((len(names),), torch.uint8)
    return plan


def _on_host(
    stream: Iterator[tuple[Features, Tensor, Tensor]], first: int, held: torch.dtype, patches: bool
) -> Iterator[Rows]:
    for features, _, _ in stream:
        wanted = {"summary": summary_of(features)}
        if patches and features.patches is not None:
            wanted["patches"] = features.patches
        values, arrived = {name: tokens.to(held) for name, tokens in wanted.items()}, None
        if wanted["summary"].is_cuda:
            waiting = {name: torch.empty_like(t, device="cpu", pin_memory=True) for name, t in values.items()}
            values = {name: waiting[name].copy_(t, non_blocking=True) for name, t in values.items()}
            arrived = torch.cuda.Event()
            arrived.record()
        yield Rows(first, values, arrived)
        first += len(wanted["summary"])


def _one_ahead(stream: Iterator[Rows]) -> Iterator[Rows]:
    """The next batch is with the device before this one is written, so that the device never waits for the disk."""
    held = next(stream, None)
    while held is not None:
        upcoming = next(stream, None)
        yield held
        held = upcoming


def _facts(images: Once) -> dict[str, Tensor]:
    """Label and number of each of this rank's images; -1 where there are no labels."""
    index = torch.arange(images.part.start, images.part.stop)
    labels = torch.full_like(index, -1) if images.labels is None else torch.from_numpy(np.asarray(images.labels))[index]
    return {"labels": labels, "index": index}
