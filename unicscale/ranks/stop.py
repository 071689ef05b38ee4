"""Who asked this process to stop: a signal, the time limit, a request in the run folder, or the death of its launcher.

Handlers only set a flag. Ranks compare flags at a step boundary (`World.agreed`), because a handler that saves
would start a collective that the other ranks do not know of.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from unicscale.ranks.environment import seconds
from unicscale.ranks.scheduler import scheduler
from unicscale.ranks.terminal import settle, tell

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)  # Slurm's warning, pre-emption, Ctrl-C
POLL = 1.0  # seconds between looks at the run folder


class Now(BaseException):
    """A signal, where nobody asks at step boundaries; no Exception, or what measures would take it for a failure."""


class StopSign:
    """Up or down, with a reason; it never comes down again."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.at_once = False  # signals raise `Now` where they are heard: nothing has to be saved
        self._asked_at = 0.0
        self._deadline: float | None = None  # on the monotonic clock
        self._last_look: float | None = None
        self._longest = 0.0
        self._request: Path | None = None
        self._next_poll = 0.0
        self._before: dict[int, object] = {}

    def raise_(self, reason: str) -> None:
        """Ask to stop at the next step boundary; the first reason counts."""
        if self.reason is None:
            self.reason, self._asked_at = reason, time.time()
            tell(f"asked to stop ({reason}): saving at the end of this step")

    def raised(self) -> bool:
        """Whether to stop now; called once a step, it also learns how long a step (or a save) can take."""
        now = time.monotonic()
        if self._last_look is not None:  # not the first step: it loads and compiles
            self._longest = max(now - self._last_look, self._longest * 0.99)
        self._last_look = now
        if self.reason is None and self._deadline is not None and now > self._deadline - 2 * self._longest:
            self.raise_("time limit")
        if self.reason is None and self._request is not None and now >= self._next_poll:
            self._next_poll = now + POLL
            if self._request.exists():
                self.raise_("unicscale stop")
        return self.reason is not None

    def seconds_since(self) -> float:
        """How long ago the first request came."""
        return time.time() - self._asked_at

    def limit(self, seconds: float) -> None:
        """The process ends in so many seconds, whatever it does: leave early enough to save."""
        self._deadline = time.monotonic() + seconds - min(120.0, max(10.0, seconds * 0.05))

    def watch(self, request: Path) -> None:
        """Also stop when this file appears: `unicscale stop` reaches any host that shares the folder."""
        self._request = request

    def listen(self) -> None:
        """Install the handlers (main thread only: a library user's thread keeps its own)."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._heard)
        if "TORCHELASTIC_RUN_ID" in os.environ or scheduler().seat(os.environ) is not None:
            # ranks have no reason to outlive what launched them
            threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()

    def forget(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def _heard(self, number: int, frame: FrameType | None) -> None:
        # a terminal and a launcher may both deliver one Ctrl-C: only a later one means "now"
        again = number == signal.SIGINT and self.reason == "SIGINT" and self.seconds_since() > 1.0
        if again:
            tell(f"asked again: leaving {'at once' if self.at_once else 'without saving'}")
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        if not self.at_once:
            self.raise_(signal.Signals(number).name)
        elif self.reason is None:
            self.reason, self._asked_at = signal.Signals(number).name, time.time()
            raise Now(self.reason)


_sign = StopSign()  # one per process, because signal handlers are


def listen() -> StopSign:
    """The process's one stop sign, listening; commands call it before the slow imports, World again later."""
    _sign.listen()
    return _sign


def deafen() -> None:
    """For the last moments of a process."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """One of several ranks, at once: libraries that clean up at exit could wait for a rank that is gone."""
    deafen()  # srun ends the step with SIGTERM as soon as one rank has left: all is saved, keep the exit code
    settle()
    os._exit(code)


def forget() -> None:
    """Give the signals back and take the sign down: another run may start in this process."""
    global _sign
    _sign.forget()
    _sign = StopSign()


def seconds_left() -> float | None:
    """Until the time limit, from UNICSCALE_SECONDS or from the scheduler."""
    said = seconds("UNICSCALE_SECONDS")
    return scheduler().seconds_left() if said is None else said


def _leave_with_parent(parent: int) -> None:
    """A killed slurmstepd or elastic agent leaves its ranks behind, waiting for each other for ever."""
    while os.getppid() == parent:
        time.sleep(2)
    seat = scheduler().seat(os.environ)
    rank = os.environ.get("RANK", seat.rank if seat else "?")
    tell(f"rank {rank}: the launcher (process {parent}) is gone; leaving")
    os._exit(143)
