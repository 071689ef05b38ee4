"""Bring an official weights file into the cache: a progress bar, resumed where it broke off, checked at the end."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from unicscale.errors import TeacherError
from unicscale.teacher.files import Wanted, note_of, sha256_of

CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds of silence


def fetch(file: Wanted, name: str) -> bool:
    """Make sure the file is in the cache; True where it had to be fetched."""
    if file.present:
        if file.sha256 is not None and sha256_of(file.path) != file.sha256.lower():
            raise TeacherError(f"teacher '{name}': {file.path} is there and has another sha256. Delete it, then fetch.")
        return False
    assert file.url is not None, "the user's own files are not fetched"
    address = resolve(file.url)
    file.path.parent.mkdir(parents=True, exist_ok=True)
    part = file.path.with_name(file.path.name + ".part")
    try:
        _download(address, part, name)
    except (urllib.error.URLError, HTTPException, OSError) as problem:
        raise TeacherError(_explain(problem, address, part, name)) from problem
    found = sha256_of(part)
    if file.sha256 is not None and found != file.sha256.lower():
        part.unlink()
        raise TeacherError(
            f"teacher '{name}': what {address} sent is not the official file, and was deleted.\n"
            f"  sha256 expected {file.sha256}\n         found    {found}"
        )
    note_of(file.path).write_text(json.dumps({"url": file.url, "sha256": found, "bytes": part.stat().st_size}))
    part.rename(file.path)
    note_of(part).unlink(missing_ok=True)
    return True


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
    response = _ask(address, have, part)
    resumed = response.status == 206
    if response.headers.get_content_type() == "text/html":
        raise TeacherError(
            f"teacher '{name}': {address} answered with a web page, not with weights.\n"
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
    request = urllib.request.Request(address, headers={"User-Agent": "unicscale"})
    token = os.environ.get("HF_TOKEN")
    if token and address.startswith(f"{hub()}/"):
        # the hub redirects to other hosts, which must not see it
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    note = note_of(part)
    version = json.loads(note.read_text())["version"] if note.is_file() else None
    if have and version:  # without it nobody knows whether the rest belongs to the same file
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def _explain(problem: Exception, address: str, part: Path, name: str) -> str:
    said = f"teacher '{name}': {address}: {problem}"
    if isinstance(problem, urllib.error.HTTPError) and problem.code in (401, 403):
        return f"{said}\n  It asks who you are: accept its licence in a browser, then set HF_TOKEN."
    if isinstance(problem, urllib.error.HTTPError) and problem.code == 404:
        return f"{said}\n  Nothing lies there. A file of another name: `--weights hf:ORG/REPO/FILE`."
    kept = f"{part.stat().st_size:,} bytes are kept and the same command goes on" if part.exists() else "nothing came"
    return f"{said}\n  {kept}. Or bring the file by hand to {part.with_suffix('')}"
