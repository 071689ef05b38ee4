"""The folder of fetched weights: which file `weights:` means, and how it comes there. Without torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from unicscale.contracts import Weights
from unicscale.errors import TeacherError
from unicscale.recipe.secrets import without_secrets

REMOTE = ("http://", "https://", "hf:", "timm:")


def folder() -> Path:
    """Where fetched weights lie: `$UNICSCALE_CACHE`, or ~/.cache/unicscale."""
    said = os.path.expanduser(os.environ.get("UNICSCALE_CACHE") or "~/.cache/unicscale")
    if said.startswith("~"):  # a container's user without an entry, or a name that nobody has
        raise TeacherError(
            f"the cache of weights would be {said}, and no such home is known here.\n"
            "  Set $UNICSCALE_CACHE to a folder that you can write."
        )
    return Path(said) / "teachers"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One weights file: where it lies or will lie, where it comes from, what it must hash to."""

    path: Path
    url: str | None = None  # None: the user's own file, nothing to fetch
    sha256: str | None = None

    @property
    def present(self) -> bool:
        """Whether it is there; not whether it is whole."""
        return self.path.is_file()


def wanted(weights: str, official: Weights | None, bundled: Path | None, name: str) -> Wanted:
    """The file that a recipe's `weights:` means; any of its forms may end in #sha256=HEX."""
    if weights == "auto" and bundled is not None:
        return Wanted(bundled)
    if weights == "auto":
        if official is None:
            raise TeacherError(
                f"teacher '{name}' has no official file in this form.\n"
                "  Give one: `weights: PATH`, `weights: hf:ORG/REPO`, or `weights: random` for a dry run."
            )
        return Wanted(place_of(official.url), official.url, official.sha256)
    source, _, sha256 = weights.partition("#sha256=")
    if source.startswith(REMOTE):
        return Wanted(place_of(source), source, sha256 or None)
    return Wanted(Path(os.path.expanduser(source)), None, sha256 or None)


def place_of(url: str) -> Path:
    """Where the file of an address lies, or will; one that 0.1.0 fetched from this very address stays in use."""
    path = folder() / file_name(url)
    old = path.with_name(re.sub(r"--[0-9a-f]{8}--", "--", path.name, count=1))
    if not path.exists() and old.is_file():
        try:
            if json.loads(note_of(old).read_text())["url"] in (url, without_secrets(url)):
                return old
        except (ValueError, KeyError, TypeError, OSError):
            pass  # nobody knows where it came from
    return path


def file_name(url: str) -> str:
    """The name in the cache: a part to read, and a digest of the whole address, or two of them would share a file."""
    told = without_secrets(url)
    if url.startswith(("hf:", "timm:")):
        return told.replace(":", "--").replace("/", "--")
    *_, parent, name = ["", *told.partition("?")[0].rstrip("/").split("/")]
    if name in ("", ".", ".."):
        raise TeacherError(f"'weights: {told}' names no file.")
    return f"{parent}--{hashlib.sha256(told.encode()).hexdigest()[:8]}--{name}"


def require(file: Wanted, name: str) -> Path:
    """Its path, once it is there and hashes to what is known of it; TeacherError says what puts it there."""
    if not file.present and file.url is None:
        near = [p.name for p in file.path.parent.glob("*") if p.is_file()] if file.path.parent.is_dir() else []
        held = (
            f"{file.path.parent} holds {', '.join(sorted(near)[:6])}" if near else f"{file.path.parent} holds no file"
        )
        raise TeacherError(f"teacher '{name}': 'weights: {file.path}' does not exist.\n  {held}.")
    if not file.present:
        whose = f"timm model={name.removeprefix('timm:')}" if name.startswith("timm:") else "RECIPE"
        raise TeacherError(
            f"teacher '{name}': its weights are not in the cache: {file.path}\n"
            "  Fetch them where there is a network, for example on the login node: "
            f"`unicscale teachers fetch {whose}`\n"
            "  (compute nodes never download; $UNICSCALE_CACHE moves the cache to a disk that both see)."
        )
    known = file.sha256 or fetched_sha256(file.path)
    if known is not None and (found := sha256_of(file.path)) != known.lower():
        raise TeacherError(
            f"teacher '{name}': {file.path} is not the file it should be.\n"
            f"  sha256 expected {known}\n         found    {found}\n"
            "  Delete it and fetch it again, or correct the hash if you mean this file."
        )
    return file.path


def sha256_of(path: Path) -> str:
    """In hexadecimal; a file that has not changed since is not read twice."""
    known = path.stat()
    return _digest(path, known.st_size, known.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def note_of(path: Path) -> Path:
    """The note beside a fetched file: where it came from and what it hashed to then."""
    return path.with_name(path.name + ".json")


def fetched_sha256(path: Path) -> str | None:
    """What the file hashed to when it was fetched."""
    note = note_of(path)
    try:
        return str(json.loads(note.read_text())["sha256"]) if note.is_file() else None
    except (ValueError, KeyError, OSError):
        return None
