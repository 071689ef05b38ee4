"""The contract, over every installed teacher."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.kit import places
from unicscale.teacher.finding import listing
from unicscale.testing import Subject, TeacherContract

INSTALLED = [listed.name for listed in listing()]


def program() -> dict[str, Any]:
    """An exported patch embedding in a file, for the teacher that is whatever its file does."""
    module = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.GroupNorm(1, 8)).eval()
    file = Path(tempfile.mkdtemp()) / "program.pt2"
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=(batch,)), file)
    half = (0.5, 0.5, 0.5)
    return {"path": str(file), "trust": True, "size": 32, "mean": half, "std": half}


# a teacher that cannot be small by itself, because it is whatever its file says
OPTIONS = {"unicscale": {"run": str(places.GOLDEN / "unic_official_tiny.pth")}}


class TestEveryInstalledTeacher(TeacherContract):
    @pytest.fixture(scope="class", params=INSTALLED)
    @classmethod
    def subject(cls, request: pytest.FixtureRequest) -> Subject:
        options = program() if request.param == "file" else OPTIONS.get(request.param)
        return Subject(request.param, options, None)
