"""What a model's tokens look like (Table G), how large and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unicscale.evaluate.features.extract import forward_all
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.score import Score
from unicscale.evaluate.sets.subset import thin
from unicscale.evaluate.task import Task
from unicscale.evaluate.terms import Settings, Subject

IMAGES = 1000


def token_statistics(tokens: Tensor) -> dict[str, float]:  # (N, D)
    """Mean norm and deviation of a token, and the mean over channels of a channel's deviation over tokens."""
    x = tokens.double()
    return {
        "norm": x.norm(dim=1).mean().item(),
        "deviation per sample": x.std(dim=1).mean().item(),
        "deviation per channel": x.std(dim=0).mean().item(),
    }


@dataclass(frozen=True)
class Statistics(Task):
    """Table G, on images of ImageNet's validation set."""

    name: str = "statistics"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("imagenet",)

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {"images": IMAGES, "patches": "16 of each image, evenly spaced"}

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        images = thin(shelf.split("imagenet", "test"), IMAGES, shelf.settings.seed)
        cls, patches = [], []
        for features, _, _ in forward_all(
            subject.encode, shelf.once(images, shelf.settings.size or subject.size), shelf.dtype
        ):
            cls.append(features.summary.float().cpu())
            few = features.patches[:, :: max(1, features.patches.shape[1] // 16)]
            patches.append(few.float().cpu().flatten(0, 1))
        for kind, tokens in (("CLS", torch.cat(cls)), ("patch", torch.cat(patches))):
            for name, value in token_statistics(tokens).items():
                yield Score(f"statistics/{kind} {name}", value)


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
        pixels = torch.randint(256, (batch, 3, size, size), generator=generator, dtype=torch.uint8).to(device)
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
