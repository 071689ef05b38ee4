"""A plug-in or a library that calls exit() says nothing of how a run ended: it is an error, and named."""

from __future__ import annotations

import builtins
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from unicscale.errors import PluginLeft


@contextmanager
def nobody_leaves(what: str) -> Iterator[None]:
    """SystemExit out of here becomes PluginLeft, or exit(0) in somebody's build() would look like a finished run."""
    try:
        yield
    except SystemExit as leaving:
        frames = [f for f in traceback.extract_tb(leaving.__traceback__) if f.filename not in _files_of_exit()]
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
        code = "" if leaving.code is None else leaving.code
        raise PluginLeft(
            f"{what}: {place} calls exit({code}), which would end the run.\n"
            "  Raise an exception there, which says what is wrong; unicscale.errors.TeacherError is told as text."
        ) from leaving


def _files_of_exit() -> set[str]:
    """Where exit() itself is written, which is not where it was called: wandb puts a function of its own there."""
    ways = (sys.exit, type(getattr(builtins, "exit", None)).__call__)
    return {way.__code__.co_filename for way in ways if hasattr(way, "__code__")}
