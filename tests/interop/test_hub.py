"""What a push sends, by the real client of the Hugging Face hub, to a hub on this machine."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

PUSH = """
import sys
from pathlib import Path
from unicscale.errors import UserError
from unicscale.interop import hub
try:
    print(hub.push(Path(sys.argv[1]), hub.repository("hf:me/mine")))
except UserError as problem:
    sys.exit(str(problem))
"""


class Hub(ThreadingHTTPServer):
    """As much of the hub as a commit of small files needs."""

    def __init__(self, *, full: bool) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.full = full
        self.asked: list[str] = []
        self.files: dict[str, bytes] = {}


class Answers(BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def do_GET(self) -> None:
        """Who asks."""
        self.server.asked.append(self.path)
        self._say({"name": "me", "type": "user", "orgs": [], "auth": {"type": "access_token"}})

    def do_POST(self) -> None:
        """A repository, how files are to be sent, and the files themselves."""
        self.server.asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/repos/create"):
            self._say({"url": f"http://{self.headers['Host']}/me/mine"})
        elif self.path.endswith("/validate-yaml"):
            self._say({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            self._say({"files": [one | {"shouldIgnore": False, "oid": None} for one in files]})
        elif "/commit/" in self.path and self.server.full:
            self._say({"error": "no room is left in this account"}, 413)
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            where = f"http://{self.headers['Host']}/me/mine/commit/0123"
            self._say({"success": True, "commitOid": "0123", "commitUrl": where, "hookOutput": ""})
        else:
            self._say({}, 404)

    def _say(self, said: Any, status: int = 200) -> None:
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the terminal."""


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    """Answering until the test is over."""
    with Hub(full=getattr(request, "param", False)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def pushed(hub: Hub, folder: Path) -> subprocess.CompletedProcess[str]:
    place = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_TOKEN": "hf_nobody", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", PUSH, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | place, timeout=120)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A folder as exports are, small."""
    (tmp_path / "README.md").write_text("# A student\n")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_the_whole_folder_goes_in_one_commit(hub: Hub, export: Path) -> None:
    ran = pushed(hub, export)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip().endswith("/me/mine/commit/0123")
    assert hub.files == {file.name: file.read_bytes() for file in export.iterdir()}
    # newer clients ask other things first
    known, work = (next(n for n, path in enumerate(hub.asked) if part in path) for part in ("whoami", "me/mine"))
    assert known < work, "a token that is not known is met before the work"


@pytest.mark.parametrize("hub", [True], indirect=True)
def test_a_hub_that_refuses_leaves_the_export(hub: Hub, export: Path) -> None:
    ran = pushed(hub, export)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "--push-to hf:me/mine: " in ran.stderr and f"The export itself is whole, in {export}." in ran.stderr
    assert (export / "config.json").exists() and not hub.files
