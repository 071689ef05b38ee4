"""A student as its users hold it: pixels in, tokens out; frozen unless it was loaded to train."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ImageOps
from PIL.Image import Image
from safetensors import SafetensorError
from timm.layers.drop import DropPath
from torch import Tensor, nn

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, Features, Seen, normalise
from unicscale.data.once import whole
from unicscale.data.sets import decode
from unicscale.data.sets.arrays import pixels
from unicscale.errors import CheckpointError, DataError, RecipeError
from unicscale.interop import native
from unicscale.interop.opened import Opened, Statistics
from unicscale.teacher.door import refuse_unnormalised

Picture = Tensor | Image | np.ndarray | str | Path
FROZEN = (
    "this model is frozen: nothing in it would learn.\n"
    "  `unicscale.load(PATH, trainable=True)` gives one that trains. To train only what stands behind a frozen one, "
    "keep it outside the module whose train() you call."
)


class Model(nn.Module):
    """A student. uint8 pixels are normalised inside, floats are taken as normalised; pictures are cut to its size."""

    looked = False  # whether floats have been looked at: once, for on a GPU the host waits for it

    def __init__(self, opened: Opened, *, projectors: bool, trainable: bool = False) -> None:
        super().__init__()
        student = opened.student
        self.student, self.size, self.projectors, self.trainable = student, opened.size, projectors, trainable
        kinds = {n: zip("01", pair, strict=True) for n, pair in opened.statistics.items()}  # of summary, of patches
        self.statistics = nn.ModuleDict(
            {n: nn.ModuleDict({kind: s for kind, s in pair if s is not None}) for n, pair in kinds.items()}
        )
        self.width, self.patch = student.trunk.width, student.trunk.patch
        self.mean, self.std, self.description = opened.mean, opened.std, opened.description
        if trainable:
            _draw_by_torch(student.trunk)
        student.requires_grad_(trainable)
        self.eval()

    @property
    def meaning(self) -> str:
        """What decides its tokens beside its weights, where it is not as usual."""
        usual = tuple(self.mean) == IMAGENET_MEAN and tuple(self.std) == IMAGENET_STD
        return "" if usual else repr((tuple(self.mean), tuple(self.std)))

    def train(self, mode: bool = True) -> Model:
        """As every module, where it was loaded to train; a frozen one refuses, and never trains in silence."""
        if mode and not self.trainable:
            raise RecipeError(FROZEN)
        return super().train(mode)

    def requires_grad_(self, requires_grad: bool = True) -> Model:
        """As every module, where it was loaded to train."""
        if requires_grad and not self.trainable:
            raise RecipeError(FROZEN)
        return super().requires_grad_(requires_grad)

    def forward(self, images: Picture | Sequence[Picture]) -> Features | Seen:
        """(B, C, H, W), one (C, H, W), a picture, a path, or a list of these -> Features, or Seen with projectors.

        A picture is a PIL image, or an array (H, W, C) of uint8, as OpenCV and imageio give it; its colours are RGB.

        Answers are still standardised.
        """
        batch = self._batch(images)
        if not batch.is_floating_point():
            batch = normalise(batch, self.mean, self.std)
        if not self.trainable and (self.student.training or any(p.requires_grad for p in self.student.parameters())):
            raise RecipeError(FROZEN)  # a parent's train() and requires_grad_() ask none of its children
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            seen = self.student(batch)
        return seen if self.projectors else seen.features

    def transform(self, picture: Image) -> Tensor:
        """A PIL image as evaluation sees it: the centre of it at the model's size, (3, S, S) normalised floats."""
        return self._cut(decode.to_rgb(ImageOps.exif_transpose(picture)), "a picture")

    def _cut(self, image: np.ndarray, name: str) -> Tensor:
        if image.shape[2] != len(self.mean):
            raise DataError(f"{name}: it has {image.shape[2]} channels; this model sees {len(self.mean)}.")
        pixels = torch.from_numpy(whole(image, self.size, True).copy())
        return normalise(pixels.permute(2, 0, 1), self.mean, self.std)

    def unstandardise(self, teacher: str, answer: Features) -> Features:
        """An answer as the teacher's own tokens: for its classifier, its text tower, its heads."""
        if teacher not in self.statistics:
            raise CheckpointError(f"no statistics of '{teacher}' here, only of {sorted(self.statistics)}.")
        held: Any = self.statistics[teacher]
        kinds = zip("01", answer, strict=True)
        return Features(*(None if t is None or kind not in held else held[kind].invert(t) for kind, t in kinds))

    def answers_summary(self, teacher: str) -> bool:
        """Whether a guess of this teacher's summary can be had: some teach patches only."""
        held: Any = self.statistics[teacher]
        return "0" in held

    def save(self, path: str | Path) -> None:
        """One safetensors file that `load` reads back: the weights, the statistics, and what they are."""
        description = self.description
        if description is None or (self.student.projector is not None and description.projector is None):
            what = "this student" if description is None else "these projectors: load it without them"
            raise CheckpointError(f"{path}: no recipe can say {what}, so no file of ours can hold it.")
        held: Any = self.statistics
        statistics: Statistics = {n: (_held(of, "0"), _held(of, "1")) for n, of in held.items()}
        opened = Opened(self.student, self.size, statistics, description, self.mean, self.std)
        part = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.part")
        try:
            native.write(part, opened, description)
            os.replace(part, path)
        except (OSError, SafetensorError) as problem:
            raise CheckpointError(f"{path} cannot be written: {native.reason(problem)}.") from None
        finally:
            part.unlink(missing_ok=True)

    def _batch(self, images: Picture | Sequence[Picture]) -> Tensor:
        if isinstance(images, Tensor):
            count = len(self.mean)
            if images.dim() not in (3, 4) or images.shape[-3] != count:
                raise DataError(
                    f"images are (B, {count}, H, W) or one ({count}, H, W): uint8, or floats that are normalised; "
                    f"this is {tuple(images.shape)}."
                )
            self._look(images)
            return images if images.dim() == 4 else images[None]
        pictures = [images] if isinstance(images, str | Path) or not isinstance(images, Sequence) else images
        device = next(self.student.parameters()).device
        return torch.stack([self._one(picture) for picture in pictures]).to(device)

    def _look(self, images: Tensor) -> None:
        if not self.looked and images.is_floating_point() and not torch.compiler.is_compiling():
            refuse_unnormalised(images, self.mean, self.std, "model.mean and model.std", 7)
            self.looked = True

    def _one(self, picture: Picture) -> Tensor:
        if isinstance(picture, Tensor):
            self._look(picture)
            return picture if picture.is_floating_point() else normalise(picture, self.mean, self.std)
        if isinstance(picture, np.ndarray):
            if picture.ndim != 3 or picture.dtype != np.uint8:
                raise DataError(
                    f"an array is one picture, (H, W, C) of uint8; this is {picture.shape} of {picture.dtype}."
                )
            return self._cut(picture, "an array")
        if isinstance(picture, Image):
            return self.transform(picture)
        if not isinstance(picture, str | Path):
            raise DataError(
                f"images are tensors, PIL images, arrays, paths or a list of them; this is {type(picture)}."
            )
        try:
            return self._cut(pixels(str(picture)), str(picture))
        except decode.Undecodable as problem:
            raise DataError(f"{picture}: {problem}") from None


def _held(of: Any, kind: str) -> Any:
    return of[kind] if kind in of else None  # noqa: SIM401 (a ModuleDict has no get)


def _draw_by_torch(trunk: nn.Module) -> None:
    """Runs key what they drop by sample and step; in somebody's own loop there is only torch's generator."""
    for number, block in enumerate(trunk.get_submodule("blocks").children()):
        rate = number * float(trunk.drop_path_step)  # type: ignore[arg-type]
        for name in ("drop_path1", "drop_path2"):
            setattr(block, name, DropPath(rate) if rate else nn.Identity())
