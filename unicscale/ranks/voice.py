"""Who says what where: rank 0 speaks on the terminal, every rank writes to its own file."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

say = logging.getLogger("unicscale")


def open_voice(file: Path | None, rank: int, *, speaks: bool) -> None:
    """Attach this rank's log file, and the terminal where the rank is the one that speaks."""
    close_voice()
    say.setLevel(logging.INFO)
    say.propagate = False
    in_full = logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(message)s")
    if file is not None and _is_stderr(file):  # a launcher sent all output of this rank there, tracebacks too
        lines = logging.StreamHandler(sys.stderr)
        lines.setFormatter(in_full)
        say.addHandler(lines)
    else:
        if speaks:
            terminal = logging.StreamHandler(sys.stderr)
            terminal.setFormatter(logging.Formatter("%(message)s"))
            say.addHandler(terminal)
        if file is not None:
            lines = logging.FileHandler(file)
            lines.setFormatter(in_full)
            say.addHandler(lines)
    if not speaks:
        warnings.filterwarnings("ignore")  # sixty-four copies of one warning hide the one that matters


def note(text: str) -> None:
    """Into this rank's own file only, for what the terminal shows in its own way."""
    for handler in say.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(say.makeRecord(say.name, logging.INFO, "", 0, text, (), None))


def close_voice() -> None:
    """Another run may follow in this process, and a library's user keeps a quiet logger."""
    for handler in list(say.handlers):
        say.removeHandler(handler)
        handler.close()


def _is_stderr(file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(2), os.stat(file))
    except OSError:
        return False
