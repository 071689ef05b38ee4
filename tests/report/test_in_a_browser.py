"""The page in a real Chromium: on a desk and on a phone, by day and by night."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.kit import browser
from tests.kit.browser import needs_browser
from tests.report.test_report import a_run
from unicscale.cli import app
from unicscale.evaluate.pictures import sheet
from unicscale.evaluate.pictures.sheet import Cell, Row, Sheet

pytestmark = needs_browser
SCORES = {
    "synthetic": True,
    "scores": {
        name: {"k-NN class": 60.0 + n, "linear texture": 20.0 + n, "mIoU": 30.0 + n, "depth RMSE": 0.1 + n}
        for n, name in enumerate(("classes", "dense", "student"))
    },
}


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser.browser() as one:
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that a page can show, and names that are longer than a phone is wide."""
    import json
    import os

    folder = tmp_path_factory.mktemp("page")
    before = os.getcwd()
    os.chdir(folder)
    try:
        run = a_run("runs/" + "a-name-that-is-longer-than-a-phone-is-wide-" * 3, range(1, 15), range(9, 20), knn=40.0)
        (run.evaluation / "demo.json").write_text(json.dumps(SCORES))
        cells = [Cell(image=sheet.drawing(np.full((14, 14, 3), n * 20)), says="mIoU 30 %") for n in range(8)]
        rows = [Row(name=f"a class with a name {n}", cells=cells) for n in range(4)]
        columns = [f"column {n}" for n in range(8)]
        sheet.write(
            run.pictures, {"patches": Sheet(title="Patches", finding="They agree.", columns=columns, rows=rows)}
        )
        done = CliRunner().invoke(app, ["report", str(run.root)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return (run.report / "index.html").resolve()
    finally:
        os.chdir(before)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", browser.WIDTHS)
def test_the_page_fits_asks_nobody_and_complains_of_nothing(driver: Any, page: Path, width: int, dark: bool) -> None:
    seen = browser.visit(driver, page, width, dark=dark)
    assert seen.errors == [] and seen.asked == []
    assert seen.overflow <= 0, f"{seen.overflow} pixels wider than the window"
    assert seen.smallest >= 9, "letters of a chart that nobody can read"
    red, green, blue = map(int, seen.background.removeprefix("rgb(").removesuffix(")").split(","))
    assert (red + green + blue < 200) == dark


def test_the_gain_is_seen_on_a_phone_without_a_swipe(driver: Any, page: Path) -> None:
    browser.visit(driver, page, 390, dark=False)
    right = driver.execute_script(
        "const heads = [...document.querySelectorAll('th')].filter(h => h.textContent.startsWith('gain'));"
        "return heads[0].getBoundingClientRect().right;"
    )
    assert 0 < right <= 390


def test_what_is_wider_than_the_page_scrolls_by_itself_and_by_keyboard(driver: Any, page: Path) -> None:
    browser.visit(driver, page, 390, dark=False)
    wide = driver.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth)"
        ".map(s => [s.tabIndex, s.getAttribute('role'), !!s.getAttribute('aria-label')]);"
    )
    assert wide and all(one == [0, "region", True] for one in wide)
