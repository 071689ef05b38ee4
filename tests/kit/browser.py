"""A real Chromium without a window: what a page says, asks for and looks like, at any width, light or dark."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
QUIETLY = (
    "headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", "no-proxy-server", "disable-background-networking",
    "disable-component-update", "disable-dev-shm-usage",
)  # fmt: skip
WIDTHS = (1280, 390)  # a desk, a phone


class Opened(NamedTuple):
    """What opening a page did."""

    errors: list[str]  # of its console
    asked: list[str]  # addresses outside of the disk
    overflow: int  # pixels that it is wider than the window
    smallest: float  # of its letters that are shown, in pixels
    background: str


def missing() -> str:
    """Why there is no browser here; empty where there is."""
    if CHROMIUM is None or DRIVER is None:
        return "no Chromium with its chromedriver here"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    return ""


needs_browser = pytest.mark.skipif(bool(missing()), reason=missing())


@contextmanager
def browser() -> Iterator[Any]:
    """One of its own, without a profile and without a network proxy."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(CHROMIUM)
    for argument in QUIETLY:
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def visit(driver: Any, page: Path, width: int, *, dark: bool, height: int = 900) -> Opened:
    """Open a file as a reader would."""
    driver.execute_script("try { localStorage.clear() } catch (nowhere) {}")  # a page may remember light or dark
    driver.get("about:blank")  # which hears nothing of what changes now, and has nothing late to say
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get_log("browser"), driver.get_log("performance")
    driver.get(page.resolve().as_uri())
    seen = driver.execute_script(MEASURE)
    errors = [f"{one['level']}: {one['message']}" for one in driver.get_log("browser") if one["level"] != "INFO"]
    events = [json.loads(one["message"])["message"] for one in driver.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    outside = [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]
    return Opened(errors, outside, seen["overflow"], seen["smallest"], seen["background"])


MEASURE = """
const wide = document.documentElement.scrollWidth - window.innerWidth;
let smallest = 99;
for (const node of document.querySelectorAll('p, td, th, figcaption, svg text, li, a')) {
  const box = node.getBoundingClientRect();
  if (!box.width || !node.textContent.trim()) continue;
  const svg = node.closest('svg');
  const scale = svg && svg.viewBox.baseVal.width ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  smallest = Math.min(smallest, scale * parseFloat(getComputedStyle(node).fontSize));
}
return {overflow: wide, smallest: smallest, background: getComputedStyle(document.body).backgroundColor};
"""


def photograph(driver: Any, page: Path, file: Path, width: int, *, dark: bool, height: int, colours: int = 256) -> None:
    """A screenshot with as few colours as it needs: it lies in the repository."""
    import base64
    import io

    from PIL import Image

    visit(driver, page, width, dark=dark, height=height)
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    file.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(colours).save(file, optimize=True)
