"""What is said to a terminal: it may be gone, which is no reason to lose work, and it obeys some characters."""

from __future__ import annotations

import contextlib
import os
import sys


def tell(text: object) -> None:
    """A line on stderr, from a signal handler too; a reader that has left, or a full disk behind it, costs the line."""
    with contextlib.suppress(OSError):
        os.write(2, (plain(str(text)) + "\n").encode())


def plain(text: str) -> str:
    """The text without what a terminal would obey: names of folders and lines of logs come from anywhere."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def settle() -> None:
    """Flush both streams before leaving; one that nobody reads leads nowhere from now on, or Python would exit 120."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except (OSError, ValueError):  # ValueError: somebody closed it
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)
