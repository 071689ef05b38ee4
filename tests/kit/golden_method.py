"""Reads tests/golden/method_{a,b}: what the authors' released code computes on random weights and inputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.kit import places
from unicscale.contracts import Features
from unicscale.interop.unic import rename
from unicscale.recipe import sections
from unicscale.student.model import Student, build_student

GOLDEN = places.GOLDEN
KINDS = ("cls", "patch")


@dataclass(frozen=True)
class Method:
    """One golden file: tensors, and the numbers beside them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    @property
    def dims(self) -> dict[str, int]:
        return self.facts["config"]["teacher_dims"]

    def tokens(self, step: int, teacher: str, what: str) -> Features:
        return Features(*(self.tensors[f"step{step}.teacher.{teacher}.{kind}.{what}"] for kind in KINDS))

    def targets(self, step: int) -> dict[str, Features]:
        return {name: self.tokens(step, name, "target") for name in self.dims}

    def answers(self, step: int) -> dict[str, Features]:
        return {
            name: Features(*(self.tensors[f"step{step}.student_out.{name}.{kind}"] for kind in KINDS))
            for name in self.dims
        }

    def gradients(self, dropping: int) -> dict[str, Tensor]:
        prefix = f"grad_drop{dropping}."
        return rename({k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)})

    def student(self) -> Student:
        """The golden student with the golden weights."""
        config = self.facts["config"]
        shape = {"embed_dim": config["embed_dim"], "depth": config["depth"], "num_heads": config["num_heads"]}
        student = build_student(
            sections.Student(arch="vit_tiny", patch=config["patch_size"], drop_path=0.0, options=shape),
            sections.Ladder(
                hidden=config["hidden_dim"],
                last_hidden=config["last_hidden_dim"],
                blocks=config["which_blocks"] or "all",
            ),
            self.dims,
            config["img_size"],
        ).to_empty(device="cpu")
        weights = {k.removeprefix("student."): v for k, v in self.tensors.items() if k.startswith("student.")}
        student.load_state_dict(rename(weights))
        return student


def method(letter: str) -> Method:
    """`a` or `b`."""
    return Method(
        load_file(GOLDEN / f"method_{letter}.safetensors"), json.loads((GOLDEN / f"method_{letter}.json").read_text())
    )


def assert_near(found: Tensor, wanted: Tensor, relative: float = 1e-5) -> None:
    """Largest difference against the largest value: what 'relative' means throughout."""
    torch.testing.assert_close(found.shape, wanted.shape)
    error = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)
    assert error <= relative, f"off by {error:.2e}, more than {relative:.0e}"
