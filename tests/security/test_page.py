"""docs/security.md names the test that holds each line; a test that moves takes its line with it."""

from __future__ import annotations

import json
import re

from benchmarks import redteam
from tests.fuzz.doors import DOORS
from tests.kit import places


def test_every_test_that_the_page_names_is_there() -> None:
    page = (places.REPOSITORY / "docs" / "security.md").read_text()
    named = set(re.findall(r"\b([a-z]+/test_\w+\.py)\b", page))
    lost = [name for name in named if not (places.REPOSITORY / "tests" / name).is_file()]
    assert len(named) > 20 and not lost, lost


def test_every_reproduction_names_tests_that_are_there_and_held_when_it_was_last_run() -> None:
    lost = []
    for _, held in redteam.LINES.values():
        for node in held:
            file, _, name = node.partition("::")
            if node.startswith("fuzz:"):
                there = node.removeprefix("fuzz:") in DOORS
            else:
                there = f"def {name}(" in (places.REPOSITORY / "tests" / file).read_text()
            lost += [node] * (not there)
    assert not lost
    kept = json.loads(redteam.RESULTS.read_text())["lines"]
    assert {line: one["tests"] for line, one in kept.items()} == {
        line: held for line, (_, held) in redteam.LINES.items()
    }
    assert [line for line, one in kept.items() if not one["holds"]] == []
