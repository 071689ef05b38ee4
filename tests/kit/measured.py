"""What tests of evaluation measure: a student with projectors for two teachers, at its initial values, quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unicscale.interop.native import Description, write
from unicscale.interop.opened import Opened
from unicscale.objective.standardize import Standardizer
from unicscale.recipe import sections
from unicscale.student.model import build_student

FAST: dict[str, Any] = {
    "dense_size": 32, "dense_steps": 3, "epochs": 2, "batch": 16, "dtype": "fp32", "device": "cpu",
}  # fmt: skip


def student(folder: Path, seed: int = 0) -> Path:
    """The file of one; another seed is another model."""
    section = sections.Student(patch=8, options={"embed_dim": 48, "depth": 2, "num_heads": 2})
    dims = {"deit3": 32, "metaclip": 32}
    one = build_student(section, sections.Ladder(), dims, 32)
    values = {name: one.initial(name, tuple(p.shape), seed) for name, p in one.named_parameters()}
    one.load_state_dict(values, assign=True)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "student.safetensors"
    statistics = {name: (Standardizer(dim), Standardizer(dim)) for name, dim in dims.items()}
    write(file, Opened(one, 32, statistics), Description(student=section, projector=sections.Ladder()))
    return file
