"""docs/security.md names the test that holds each line; a test that moves takes its line with it."""

from __future__ import annotations

import re

from tests.kit import places


def test_every_test_that_the_page_names_is_there() -> None:
    page = (places.REPOSITORY / "docs" / "security.md").read_text()
    named = set(re.findall(r"\b([a-z]+/test_\w+\.py)\b", page))
    lost = [name for name in named if not (places.REPOSITORY / "tests" / name).is_file()]
    assert len(named) > 20 and not lost, lost
