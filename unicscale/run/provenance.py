"""Where a launch came from: the code's commit, the command line, and moments as people write them."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def commit(package: Path = PACKAGE) -> str | None:
    """The commit that this code is of, `-dirty` where it was changed since; None for an installed package."""
    kept = package.parent / "GIT"  # a job's own copy of the code: launch/snapshot.py notes what it was copied from
    if kept.is_file():
        head, _, changes = kept.read_text(encoding="utf-8", errors="replace").partition("\n")
        return head + "-dirty" * bool(changes.strip()) if head else None
    if not (package.parent / ".git").exists():  # a virtual environment may lie inside a repository of something else
        return None
    command = ["git", "-C", str(package.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def command_line() -> str:
    """What started this process, so that a shell would read it back; values of secrets stand in no recipe."""
    return shlex.join(sys.orig_argv)


def moment(seconds: float) -> str:
    """`2026-03-01 09:12:44 +0100`, of this host."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))
