"""What a door may do with a hostile input: refuse it as a user's error, soon, in little memory, and write nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from unicscale.errors import UserError

SECONDS, MEGABYTES = 10.0, 700  # of the processor, for one input
BY_THE_CLOCK = 60.0  # of one that waits instead; a busy machine is several times slower than a quiet one
RUNS = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn"}
WRITES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil.move",
}  # fmt: skip
ALLOWED = ("/dev/null", "/dev/shm", "/dev/tty")


class TooLong(BaseException):
    """Not an Exception: nobody on the way may catch it."""


class Guard:
    """Watches this process; install once, then `with guard.watched(folder):` around each input."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.strange: list[str] = []
        self.thread = threading.get_ident()
        sys.addaudithook(self._heard)
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, self._late)

    def _late(self, number: int, frame: FrameType | None) -> None:
        raise TooLong

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or threading.get_ident() != self.thread:
            return
        if event in RUNS and arguments[:1] != ("squeue",):  # which is asked about every run
            self.strange.append(f"ran a program: {event} {arguments[:2]!r:.200}")
        elif event in WRITES or (event == "open" and _writes(arguments)):
            if event != "open" and any(isinstance(one, int) and one >= 0 for one in arguments[-1:]):
                return  # below a folder that was opened before: rmtree does so
            for place in arguments[:2] if event in ("os.rename", "shutil.move") else arguments[:1]:
                if isinstance(place, str | bytes | os.PathLike) and not self._ours(os.fsdecode(place)):
                    self.strange.append(f"wrote outside: {event} {os.fsdecode(place)}")

    def _ours(self, place: str) -> bool:
        path = os.path.abspath(place)
        return path.startswith((str(self.folder), *ALLOWED)) or "/__pycache__" in path

    def judge(self, folder: Path, door: Callable[[], object]) -> tuple[str, str]:
        """How it went: (`refused` | `read` | a fault, what was said)."""
        forget_peak()
        self.folder, self.strange = folder, []
        before, began = peak(), time.monotonic()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, BY_THE_CLOCK)
        try:
            with quiet():
                door()
            how, said = "read", ""
        except UserError as refused:
            how, said = "refused", str(refused)
        except TooLong:
            how, said = "hang", _where(sys.exc_info()[2])
        except BaseException as fault:
            how, said = type(fault).__name__, f"{str(fault)[:200]} at {_where(fault.__traceback__)}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.folder = None
        grown = peak() - before
        if grown > MEGABYTES:
            return "memory", f"{grown:.0f} MB more, {how} after {time.monotonic() - began:.1f} s: {said[:200]}"
        return ("strange", "; ".join(self.strange[:3])) if self.strange else (how, said)


def peak() -> float:
    """The most memory that this program has held, in MB; ru_maxrss would be that of whoever started it, if larger."""
    said = Path("/proc/self/status").read_text()
    return int(said.partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak() -> None:
    """So that each input is judged by its own; where the kernel does not let us, by all before it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What doors print is not looked at."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def limited() -> None:
    """A bound on memory that a machine survives; set once torch is loaded, whose own mappings are huge."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (6 << 30), resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1:3] if len(arguments) > 2 else (None, 0)
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _where(trace: Any) -> str:
    frames = [f for f in traceback.extract_tb(trace) if "/tests/" not in f.filename]
    ours = [f for f in frames if any(part in f.filename for part in ("/unicscale/", "/teachers/", "/launch/"))]
    last = [f"{Path(f.filename).name}:{f.lineno}" for f in [*ours[-2:], *frames[-1:]]]
    return " < ".join(reversed(dict.fromkeys(last)))
