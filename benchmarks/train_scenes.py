"""Trains the demo's two teachers on drawn scenes; ten minutes for both side by side, on two busy cores.

    python benchmarks/train_scenes.py classes
    python benchmarks/train_scenes.py dense

`classes` learns the nearest object's shape from its CLS token; while it learns to see at all, its patches are also
asked what they cover (the class alone stays at chance for hundreds of steps), and that fades out. `dense` learns cover
and depth from its patches and a coarse depth map from its CLS token, and is never told the class of a scene.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from unicscale_teachers.scenes import DIM, SIZE, Scenes

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD
from unicscale.data.scenes import SHAPES, draw_in_pieces

TEACHERS = Path(__file__).resolve().parent.parent / "teachers"
SIZES = {64: 0.65, 48: 0.35}  # pixels and how often: the demo's two stages
COVER_FADES = 0.45  # of the training: when `classes` stops hearing about its patches
SCENES_SEED = 1000  # the demo draws other seeds


class Lesson(NamedTuple):
    """Scenes with their truth pooled to one patch grid."""

    images: Tensor  # (B, 3, S, S) float in [0, 1]
    shape: Tensor  # (B,)
    cover: Tensor  # (B, 1 + shapes, g, g), how much of each patch is what
    depth: Tensor  # (B, g, g)


class Book:
    """All scenes, kept small: truths at the grids of SIZES instead of per pixel."""

    def __init__(self, count: int) -> None:
        # filled in place: lists of small tensors between large temporaries keep gigabytes of the heap alive
        self.images = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
        self.shape = torch.empty(count, dtype=torch.int64)
        kinds = 1 + len(SHAPES)
        self.truth = {size // 8: torch.empty(count, kinds + 1, size // 8, size // 8).half() for size in SIZES}
        first = 0
        for scenes in draw_in_pieces(count, seed=SCENES_SEED):
            rows = slice(first, first := first + len(scenes.shape))
            self.images[rows] = torch.from_numpy(scenes.images).permute(0, 3, 1, 2)
            self.shape[rows] = torch.from_numpy(scenes.shape)
            cover = torch.from_numpy(scenes.mask)[:, None] == torch.arange(kinds)[:, None, None]
            pixels = torch.cat([cover.float(), torch.from_numpy(scenes.depth)[:, None]], dim=1)
            for grid, truth in self.truth.items():
                truth[rows] = F.adaptive_avg_pool2d(pixels, grid).half()

    def lesson(self, batch: int, draws: torch.Generator) -> Lesson:
        """Random scenes at a random size, mirrored half of the time."""
        index = torch.randint(len(self.images), (batch,), generator=draws)
        chance, mirror = torch.rand(2, generator=draws).tolist()
        size = SIZE if chance < SIZES[SIZE] else 48
        images, truth = self.images[index].float() / 255, self.truth[size // 8][index].float()
        if size != SIZE:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        if mirror < 0.5:
            images, truth = images.flip(3), truth.flip(3)
        return Lesson(images, self.shape[index], truth[:, :-1], truth[:, -1])


class Heads(nn.Module):
    """What reads the tokens while they are trained; thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = nn.Linear(DIM, len(SHAPES))
        self.cover = nn.Linear(DIM, 1 + len(SHAPES))
        self.depth = nn.Linear(DIM, 1)
        self.layout = nn.Linear(DIM, 16)  # mean depth of each of 4 x 4 tiles

    def classes(self, summary: Tensor, patches: Tensor, lesson: Lesson, done: float) -> Tensor:
        fading = 2 * max(0.0, 1 - done / COVER_FADES)
        return F.cross_entropy(self.shape(summary), lesson.shape) + fading * self._cover_loss(patches, lesson)

    def dense(self, summary: Tensor, patches: Tensor, lesson: Lesson, done: float) -> Tensor:
        tiles = F.adaptive_avg_pool2d(lesson.depth, 4).flatten(1)
        depth = F.smooth_l1_loss(self.depth(patches)[..., 0], lesson.depth.flatten(1), beta=0.05)
        layout = F.smooth_l1_loss(self.layout(summary), tiles, beta=0.05)
        return 2 * self._cover_loss(patches, lesson) + 5 * depth + 3 * layout

    def _cover_loss(self, patches: Tensor, lesson: Lesson) -> Tensor:
        return F.cross_entropy(self.cover(patches).transpose(1, 2), lesson.cover.flatten(2))


def train(knows: str, *, steps: int, scenes: int, batch: int = 64, peak: float = 1.5e-3) -> nn.Module:
    """One teacher; the same weights for the same arguments on the same machine."""
    torch.manual_seed(("classes", "dense").index(knows))
    plugin, book, draws = Scenes(), Book(scenes), torch.Generator().manual_seed(5)
    module, heads = plugin.build(plugin.Options(knows=knows)), Heads()
    parameters = [*module.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    warmup = max(min(200, steps // 10), 1)
    for step in range(steps):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / warmup) * (0.01 + 0.5 * (1 + math.cos(math.pi * done)))
        lesson = book.lesson(batch, draws)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = plugin.forward(module, (lesson.images - mean) / std)
        loss = getattr(heads, knows)(tokens.summary.float(), tokens.patches.float(), lesson, done)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"{knows} step {step}/{steps}  loss {loss.item():.4f}", flush=True)
    return module


def main(arguments: list[str] | None = None) -> None:
    """Train and write the weights where the plug-in looks for them."""
    parser = argparse.ArgumentParser(description="Train one of the demo's teachers.")
    parser.add_argument("knows", choices=("classes", "dense"))
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--scenes", type=int, default=32768)
    parser.add_argument("--out", type=Path, default=TEACHERS, help="folder for the safetensors")
    given = parser.parse_args(arguments)
    module = train(given.knows, steps=given.steps, scenes=given.scenes)
    file = given.out / f"scenes_{given.knows}.safetensors"
    # half precision: a teacher's answer moves by less than 1e-3 and the package stays small
    state = {name: value.detach().half().contiguous() for name, value in module.state_dict().items()}
    save_file(state, file, metadata={"knows": given.knows, "steps": str(given.steps), "scenes": str(given.scenes)})
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
