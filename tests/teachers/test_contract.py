"""The contract, over every installed teacher."""

from __future__ import annotations

import pytest

from tests.kit import places
from tests.kit.programs import program
from unicscale.teacher.finding import listing
from unicscale.testing import Subject, TeacherContract

INSTALLED = [listed.name for listed in listing()]

# a teacher that cannot be small by itself, because it is whatever its file says
OPTIONS = {"unicscale": {"run": str(places.GOLDEN / "unic_official_tiny.pth")}}


class TestEveryInstalledTeacher(TeacherContract):
    @pytest.fixture(scope="class", params=INSTALLED)
    @classmethod
    def subject(cls, request: pytest.FixtureRequest) -> Subject:
        options = program() if request.param == "file" else OPTIONS.get(request.param)
        return Subject(request.param, options, None)
