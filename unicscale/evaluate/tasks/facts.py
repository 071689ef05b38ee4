"""What a model's tokens look like (Table G), how large and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from unicscale.evaluate.features.extract import forward_all
from unicscale.evaluate.features.progress import progress
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.score import Score
from unicscale.evaluate.task import Task
from unicscale.evaluate.terms import Settings, Subject
from unicscale.objective.statistics import Looks


@dataclass(frozen=True)
class Statistics(Task):
    """Table G, on all of ImageNet's validation set."""

    name: str = "statistics"
    needs: tuple[str, ...] = ("imagenet",)

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {"tokens": "a summary and the mean of the patches per image", "images": "imagenet, test"}

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        images = shelf.once(shelf.split("imagenet", "test"), shelf.settings.size or subject.size)
        looks = Looks()
        with progress(f"{subject.name}: statistics", images.total, shelf.world) as advance:
            for features, labels, _ in forward_all(subject.encode, images, shelf.dtype):
                looks.add(features)
                advance(len(labels))
        for kind, look in looks.table().items():
            for name, value in look._asdict().items():
                yield Score(f"statistics/{kind} {name.replace('_', ' ')}", value)


@dataclass(frozen=True)
class Speed(Task):
    """Parameters and images per second of the bare forward."""

    name: str = "speed"
    seconds: float = 2.0

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {"batch": settings.batch, "device": "the machine's", "input": "random pixels, already on the device"}

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        count = sum(p.numel() for p in subject.module.parameters())
        yield Score("speed/parameters, million", count / 1e6, higher_is_better=False)
        size, batch, device = shelf.settings.size or subject.size, shelf.settings.batch, shelf.device
        generator = torch.Generator().manual_seed(shelf.settings.seed)
        pixels = torch.randint(256, (batch, subject.channels, size, size), generator=generator, dtype=torch.uint8)
        pixels = pixels.to(device)
        with torch.inference_mode(), torch.autocast(device.type, shelf.dtype, enabled=shelf.dtype != torch.float32):
            subject.encode(pixels)
            _wait(device)
            start, done = time.perf_counter(), 0
            while done == 0 or time.perf_counter() - start < self.seconds:
                subject.encode(pixels)
                _wait(device)
                done += batch
        yield Score("speed/images per second", done / (time.perf_counter() - start))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


TASKS: tuple[Task, ...] = (Statistics(), Speed())
