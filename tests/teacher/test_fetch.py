"""Weights come into the cache whole, go on where they broke off, and only from commands that are meant to fetch."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unicscale.contracts import Weights
from unicscale.errors import TeacherError
from unicscale.teacher import files
from unicscale.teacher.fetch import fetch, resolve

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    asked: list[str | None] = []
    breaks_at: int | None = None
    version = '"one"'
    login: str | None = None

    def do_GET(self) -> None:
        if self.path == "/page/weights.pth":
            return self.answer(200, b"<html>log in</html>", "text/html")
        Server.login = self.headers.get("Authorization")
        if self.path.partition("?")[0] != "/some/weights.pth":
            return self.answer(404, b"", "text/plain")
        asked = self.headers.get("Range")
        Server.asked.append(asked)
        start = 0
        if asked == f"bytes={len(CONTENT)}-":
            return self.refuse_range()
        if asked and self.headers.get("If-Range") == Server.version:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        self.answer(206 if start else 200, CONTENT[start:], "application/octet-stream")

    def refuse_range(self) -> None:
        self.send_response(416)
        self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", Server.version)
        self.end_headers()
        self.wfile.write(body if Server.breaks_at is None else body[: Server.breaks_at])
        if Server.breaks_at is not None:
            self.close_connection = True

    def log_message(self, *words: object) -> None:
        """Quiet."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("UNICSCALE_CACHE", str(tmp_path))
    Server.asked, Server.breaks_at, Server.version = [], None, '"one"'
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def wanted(address: str, path: str = "/some/weights.pth", sha256: str | None = None) -> files.Wanted:
    return files.wanted("auto", Weights(address + path, sha256), None, "t")


def test_a_file_is_fetched_once_and_noted(address: str) -> None:
    file = wanted(address, sha256=SHA256)
    assert fetch(file, "t") and not fetch(file, "t")
    assert file.path.read_bytes() == CONTENT
    assert file.path.name.startswith("some--") and file.path.name.endswith("--weights.pth")
    assert json.loads(files.note_of(file.path).read_text())["sha256"] == SHA256
    assert len(Server.asked) == 1


def test_a_broken_download_goes_on_where_it_broke(address: str) -> None:
    Server.breaks_at = 3_000_000
    with pytest.raises(TeacherError, match=r"3,000,000 bytes are kept and the same command goes on"):
        fetch(wanted(address), "t")
    assert not wanted(address).present
    Server.breaks_at = None
    fetch(wanted(address, sha256=SHA256), "t")
    assert Server.asked == [None, "bytes=3000000-"]
    assert wanted(address).path.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(address: str) -> None:
    Server.breaks_at = 3_000_000
    with pytest.raises(TeacherError):
        fetch(wanted(address), "t")
    Server.breaks_at, Server.version = None, '"two"'
    fetch(wanted(address, sha256=SHA256), "t")
    assert wanted(address).path.read_bytes() == CONTENT


def test_a_file_with_another_hash_never_enters_the_cache(address: str) -> None:
    file = wanted(address, sha256="0" * 64)
    with pytest.raises(TeacherError, match="is not the official file, and was deleted") as refused:
        fetch(file, "t")
    assert SHA256 in str(refused.value)
    assert not list(file.path.parent.glob("*.pth*")) or not file.present


def test_a_file_that_changed_since_it_was_fetched_is_refused(address: str) -> None:
    file = wanted(address)
    fetch(file, "t")
    file.path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(TeacherError, match="is not the file it should be"):
        files.require(file, "t")


def test_a_fetch_that_was_killed_when_all_had_come_is_finished_by_the_next(address: str) -> None:
    file = wanted(address, sha256=SHA256)
    part = file.path.with_name(file.path.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    files.note_of(part).write_text(json.dumps({"version": Server.version}))
    assert fetch(file, "t")
    assert file.path.read_bytes() == CONTENT and Server.asked == [f"bytes={len(CONTENT)}-"]


def test_two_fetches_at_once_bring_one_whole_file(address: str) -> None:
    file = wanted(address, sha256=SHA256)
    brought: list[bool] = []
    both = [threading.Thread(target=lambda: brought.append(fetch(file, "t"))) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(60)
    assert sorted(brought) == [False, True] and len(Server.asked) == 1
    assert file.path.read_bytes() == CONTENT and not list(file.path.parent.glob("*.part*"))


@pytest.mark.parametrize("other", ["https://host/v2/weights/model.pth", "https://mirror/v1/weights/model.pth"])
def test_files_that_end_alike_do_not_share_a_place_in_the_cache(other: str) -> None:
    assert files.file_name("https://host/v1/weights/model.pth") != files.file_name(other)


def test_a_password_is_used_and_neither_printed_nor_kept(address: str) -> None:
    secret = address.replace("//", "//anna:s3cret-word@") + "/some/weights.pth?token=s3cret-too"
    file = files.wanted(secret, None, None, "t")
    assert file.path == files.wanted(address + "/some/weights.pth", None, None, "t").path
    fetch(file, "t")
    assert Server.login == "Basic " + base64.b64encode(b"anna:s3cret-word").decode()
    kept = "".join(path.read_text(errors="ignore") for path in file.path.parent.glob("*.json"))
    assert "s3cret" not in kept and "some/weights.pth" in kept
    with pytest.raises(TeacherError) as refused:
        fetch(files.wanted(secret.replace("some", "none"), None, None, "t"), "t")
    assert "s3cret" not in str(refused.value)


def test_a_web_page_is_not_taken_for_weights(address: str) -> None:
    with pytest.raises(TeacherError, match="answered with a web page, not with weights"):
        fetch(wanted(address, "/page/weights.pth"), "t")


def test_a_wrong_address_says_so(address: str) -> None:
    with pytest.raises(TeacherError, match=r"404.*\n.*Nothing lies there"):
        fetch(wanted(address, "/nowhere/weights.pth"), "t")


def test_no_network_says_where_the_file_may_be_put_by_hand(address: str) -> None:
    with pytest.raises(TeacherError, match=r"by hand to .*some--\w+--weights\.pth"):
        fetch(wanted("http://127.0.0.1:9"), "t")


def test_hub_names_become_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror")
    assert resolve("hf:org/repo") == "https://mirror/org/repo/resolve/main/model.safetensors"
    assert resolve("hf:org/repo/sub/w.bin@v1") == "https://mirror/org/repo/resolve/v1/sub/w.bin"
    assert (
        resolve("timm:vit_base_patch16_224.dino")
        == "https://mirror/timm/vit_base_patch16_224.dino/resolve/main/model.safetensors"
    )
    with pytest.raises(TeacherError, match="should read hf:ORG/REPO"):
        resolve("hf:repo")


@pytest.mark.parametrize("url", ["https://host/", "https://host/a/..", "https://host/a/%2e%2e/.."])
def test_an_address_cannot_leave_the_cache(url: str) -> None:
    try:
        path = files.folder() / files.file_name(url)
    except TeacherError:
        return
    assert path.resolve().parent == files.folder().resolve()


def test_the_three_files_of_one_name_do_not_collide() -> None:
    from unicscale.teacher.finding import find

    names = [files.file_name(url) for url in find("ibot").files.values()]
    assert len(set(names)) == len(names)


def test_a_file_that_an_older_version_fetched_from_the_same_address_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNICSCALE_CACHE", str(tmp_path))
    old = tmp_path / "teachers" / "v1--model.pth"
    old.parent.mkdir()
    old.touch()
    files.note_of(old).write_text('{"url": "https://here/v1/model.pth"}')
    assert files.place_of("https://here/v1/model.pth") == old
    assert files.place_of("https://there/v1/model.pth") != old
