"""Bring an official weights file into the cache: a progress bar, resumed where it broke off, checked at the end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from unicscale.errors import TeacherError
from unicscale.recipe.secrets import without_secrets
from unicscale.teacher.files import Wanted, note_of, sha256_of

CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds of silence


def fetch(file: Wanted, name: str) -> bool:
    """Make sure the file is in the cache; True where it had to be fetched."""
    if not file.present:
        assert file.url is not None, "the user's own files are not fetched"
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file.path, name):
            if not file.present:  # another fetch may have brought it while this one waited
                _bring(file, resolve(file.url), name)
                return True
    if file.sha256 is not None and sha256_of(file.path) != file.sha256.lower():
        raise TeacherError(f"teacher '{name}': {file.path} is there and has another sha256. Delete it, then fetch.")
    return False


@contextlib.contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    """One fetch at a time writes a file; the kernel takes the lock back from one that was killed."""
    with path.with_name(f".{path.name}.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: {path.name} is being fetched by another process; waiting for it", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield


def _bring(file: Wanted, address: str, name: str) -> None:
    part, told = file.path.with_name(file.path.name + ".part"), without_secrets(address)
    try:
        _download(address, part, name)
    except (urllib.error.URLError, HTTPException, OSError) as problem:
        raise TeacherError(_explain(problem, told, part, name)) from problem
    found = sha256_of(part)
    if file.sha256 is not None and found != file.sha256.lower():
        part.unlink()
        raise TeacherError(
            f"teacher '{name}': what {told} sent is not the official file, and was deleted.\n"
            f"  sha256 expected {file.sha256}\n         found    {found}"
        )
    url = without_secrets(file.url or "")
    note_of(file.path).write_text(json.dumps({"url": url, "sha256": found, "bytes": part.stat().st_size}))
    part.rename(file.path)
    note_of(part).unlink(missing_ok=True)


def resolve(url: str) -> str:
    """The https address behind `hf:org/repo[/file][@revision]` and `timm:id`; others are addresses already."""
    if url.startswith("timm:"):
        from timm.models import get_pretrained_cfg

        known = get_pretrained_cfg(url.removeprefix("timm:"), allow_unregistered=False)
        if known is None or not (known.hf_hub_id or known.url):
            raise TeacherError(f"timm knows no weights called '{url.removeprefix('timm:')}'.")
        return resolve(f"hf:{known.hf_hub_id}") if known.hf_hub_id else str(known.url)
    if not url.startswith("hf:"):
        return url
    path, _, revision = url.removeprefix("hf:").partition("@")
    parts = path.strip("/").split("/")
    if len(parts) < 2:
        raise TeacherError(f"'{url}' should read hf:ORG/REPO or hf:ORG/REPO/FILE.")
    inside = "/".join(parts[2:]) or "model.safetensors"
    return f"{hub()}/{parts[0]}/{parts[1]}/resolve/{revision or 'main'}/{inside}"


def hub() -> str:
    """Hugging Face, or the mirror that HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _download(address: str, part: Path, name: str) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    have = part.stat().st_size if part.exists() else 0
    try:
        response = _ask(address, have, part)
    except urllib.error.HTTPError as refusal:
        if refusal.code != 416:
            raise
        if refusal.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
            return  # all of it is here: only its hash was not taken yet
        part.unlink()  # more than the server has: it is of another file
        have, response = 0, _ask(address, 0, part)
    resumed = response.status == 206
    if response.headers.get_content_type() == "text/html":
        raise TeacherError(
            f"teacher '{name}': {without_secrets(address)} answered with a web page, not with weights.\n"
            f"  Open it in a browser (behind a login or a licence?) and save the file as {part.with_suffix('')}"
        )
    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
    note_of(part).write_text(json.dumps({"version": version}))
    have = have if resumed else 0
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else None
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with response, part.open("ab" if resumed else "wb") as out, Progress(*columns) as progress:
        bar = progress.add_task(part.with_suffix("").name, total=total, completed=have)
        while chunk := response.read(CHUNK):
            out.write(chunk)
            progress.advance(bar, len(chunk))
    if total is not None and part.stat().st_size != total:
        raise HTTPException(f"the connection ended at {part.stat().st_size:,} of {total:,} bytes")


def _ask(address: str, have: int, part: Path) -> HTTPResponse:
    """Open the address, from byte `have` on where the server still has the same file."""
    parts = urlsplit(address)
    login, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers={"User-Agent": "unicscale"})
    if login:
        request.add_unredirected_header("Authorization", f"Basic {b64encode(unquote(login).encode()).decode()}")
    token = os.environ.get("HF_TOKEN")
    if token and address.startswith(f"{hub()}/"):
        # the hub redirects to other hosts, which must not see it
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    note = note_of(part)
    version = _version(note) if note.is_file() else None
    if have and version:  # without it nobody knows whether the rest belongs to the same file
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def _version(note: Path) -> str | None:
    """Of the file that the part belongs to; a note that was cut short knows nothing."""
    try:
        return json.loads(note.read_text())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _explain(problem: Exception, address: str, part: Path, name: str) -> str:
    said = f"teacher '{name}': {address}: {problem}"
    if isinstance(problem, urllib.error.HTTPError) and problem.code in (401, 403):
        return f"{said}\n  It asks who you are: accept its licence in a browser, then set HF_TOKEN."
    if isinstance(problem, urllib.error.HTTPError) and problem.code == 404:
        return f"{said}\n  Nothing lies there. A file of another name: `--weights hf:ORG/REPO/FILE`."
    kept = f"{part.stat().st_size:,} bytes are kept and the same command goes on" if part.exists() else "nothing came"
    return f"{said}\n  {kept}. Or bring the file by hand to {part.with_suffix('')}"
