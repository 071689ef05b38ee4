"""The documentation site: its links lead somewhere, its errors exist, it builds strictly and opens on a phone."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit import browser
from tests.kit.browser import needs_browser

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed: pip install -e '.[docs]'"
)


def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head.lower())).strip("-") for head in heads}


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    written = {f"reference/{name}.md" for name in hooks().PAGES}
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        there = target.exists() or (page.parent == DOCS and file in written)
        assert there, f"{page.name}: {link}"
        if anchor and target.exists() and target.suffix == ".md":
            assert anchor in anchors(target.read_text()), f"{page.name}: {link}"


def test_the_navigation_names_pages_that_are_there() -> None:
    class Loader(yaml.SafeLoader):
        pass

    held = yaml.load((REPOSITORY / "mkdocs.yml").read_text(), Loader)
    written = {f"reference/{name}.md" for name in hooks().PAGES}
    named = set(hooks()._pages_of(held["nav"]))
    assert all(name in written or (DOCS / name).exists() for name in named), named


def test_every_error_that_the_page_of_troubles_quotes_is_one_that_the_code_says() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert len(quoted) >= 20
    sources = [file.read_text() for place in ("unicscale", "launch") for file in (REPOSITORY / place).rglob("*.py")]
    code = re.sub(r"\"\s*\n\s*f?\"", "", "\n".join(sources))
    for words in quoted:
        assert words in code, words
    named = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert named == {0, 1, 2, 3, 4, 5, 6, 75, 130}


def test_every_whole_recipe_on_a_page_is_one(tmp_path: Path) -> None:
    from unicscale.recipe import load

    found = 0
    for page in [REPOSITORY / "README.md", *PAGES]:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            if block.startswith("schema: 1"):
                (tmp_path / "r.yaml").write_text(block)
                load(str(tmp_path / "r.yaml"), unset="keep")
                found += 1
    assert found >= 2


def test_what_the_pages_of_clusters_say_of_launch_is_what_it_takes() -> None:
    from unicscale.recipe.sections import Launch

    blocks = [
        block
        for name in ("launch.md", "administrators.md")
        for block in re.findall(r"^```yaml\n(.*?)^```", (DOCS / name).read_text(), re.DOTALL | re.MULTILINE)
    ]
    assert len(blocks) >= 4
    for block in blocks:
        Launch.model_validate(yaml.safe_load(block))


def test_every_class_of_error_is_on_the_page_of_troubles() -> None:
    from unicscale import errors

    text = (DOCS / "troubleshooting.md").read_text()
    known = {n for n, one in vars(errors).items() if isinstance(one, type) and issubclass(one, errors.UserError)}
    assert known - {"UserError"} <= set(re.findall(r"`(\w+)`", text)), "the report of a run names them as `kind`"


def test_every_key_of_a_recipe_is_on_its_page_with_its_default() -> None:
    page = hooks().recipe()
    for row in (
        "| `data.images_per_step` | a whole number",
        "| `teachers.NAME.weights` |",
        "| `stages[n].lr.peak` |",
        "| `launch.nodes` |",
        "### projector: ladder",
        "### projector: transformer",
        "#### loss.balance: adaloss",
    ):
        assert row in page, row
    assert "| `track.every_steps` | a whole number ≥ 1 ≤ 1e+12 | `50` |" in page


def test_every_command_and_exit_code_is_on_its_page() -> None:
    commands, errors = hooks().commands(), hooks().errors()
    for name in ("train", "watch", "look", "report", "teachers list"):
        assert f"## unicscale {name}\n" in commands
    assert "`--fresh`" in commands
    assert "| 75 | `StoppedOnRequest` |" in errors and "| 6 | `BlewUp` |" in errors


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it."""
    out = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    start = time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"built in {time.monotonic() - start:.1f} s")
    return out


@pytest.mark.slow
@needs_mkdocs
def test_the_site_builds_strictly_and_names_no_other_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]* (?:src|href)=[\"']?(https?://[^\"' >]+)", text)
        assert not [url for url in loaded if "canonical" not in url], f"{page.name}: {loaded}"
    assert (site / "search" / "search_index.js").exists(), "the search works from a disk"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser.browser() as one:
        yield one


@pytest.mark.slow
@needs_mkdocs
@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", browser.WIDTHS)
def test_every_page_of_the_site_fits_and_asks_nobody(site: Path, driver: Any, width: int, dark: bool) -> None:
    for page in sorted(set(site.rglob("*.html")) - {site / "404.html"}):  # which only a server shows, from its root
        seen = browser.visit(driver, page, width, dark=dark)
        assert seen.errors == [] and seen.asked == [], page.name
        assert seen.overflow <= 0, f"{page.name}: {seen.overflow} pixels wider than the window"
        assert (seen.background != "rgb(255, 255, 255)") == dark, page.name


@pytest.mark.slow
@needs_mkdocs
@needs_browser
def test_the_search_finds_a_key_without_a_network(site: Path, driver: Any) -> None:
    browser.visit(driver, site / "index.html", 1280, dark=False)
    driver.execute_script(
        "const box = document.querySelector('[data-md-component=search-query]');"
        "box.focus(); box.value = 'images_per_step';"
        "for (const kind of ['keyup', 'input']) box.dispatchEvent(new Event(kind));"
    )
    for _ in range(50):
        found = driver.execute_script("return document.querySelectorAll('.md-search-result__item').length")
        if found:
            return
        time.sleep(0.1)
    raise AssertionError("the search found nothing")
