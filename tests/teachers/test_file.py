"""A program in a file teaches, once its user says that it is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unicscale.errors import RecipeError, TeacherError
from unicscale.teacher.frozen import open_teacher


class Encoder(nn.Module):
    """Two convolutions, a norm and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.norm(self.stem(images))
        return maps.mean((2, 3)), maps


def written(kind: str, folder: Path) -> tuple[Encoder, dict[str, Any]]:
    encoder, example = Encoder().eval(), torch.randn(2, 3, 32, 32)
    file = folder / f"encoder.{kind}"
    if kind == "pt2":
        batch = torch.export.Dim("batch", min=1, max=512)
        program = torch.export.export(encoder, (example,), dynamic_shapes={"images": {0: batch}})
        torch.export.save(program, file)
    else:
        torch.jit.trace(encoder, example).save(str(file))
    half = (0.5, 0.5, 0.5)
    return encoder, {"path": str(file), "trust": True, "size": 32, "mean": half, "std": half}


@pytest.mark.parametrize("kind", ["pt2", "ts"])
@torch.no_grad()
def test_a_program_gives_the_tokens_of_the_module_that_it_was(kind: str, tmp_path: Path) -> None:
    encoder, options = written(kind, tmp_path)
    teacher = open_teacher("file", options=options)
    images = torch.randn(3, 3, 32, 32)
    found, (summary, maps) = teacher(images), encoder(images)
    assert teacher.spec.fixed_size == (kind == "pt2") and teacher.spec.patch == 8
    torch.testing.assert_close(found.summary, summary)
    torch.testing.assert_close(found.patches, maps.flatten(2).transpose(1, 2))


def test_a_program_is_not_opened_unless_it_is_trusted(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is a program and not only weights\. `trust: true` runs it"):
        open_teacher("file", options={"path": "x.pt2", "size": 32, "mean": (0, 0, 0), "std": (1, 1, 1)})


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    options = {"trust": True, "size": 32, "mean": (0, 0, 0), "std": (1, 1, 1)}
    (tmp_path / "a.pt2").write_bytes(b"no archive")
    with pytest.raises(TeacherError, match=r"neither a program of torch.export nor TorchScript: BadZipFile"):
        open_teacher("file", options={**options, "path": str(tmp_path / "a.pt2")})
    with pytest.raises(TeacherError, match="does not exist"):
        open_teacher("file", options={**options, "path": str(tmp_path / "b.pt2")})
