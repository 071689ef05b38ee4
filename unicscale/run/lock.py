"""One run, one owner: a lock file that names its holder, is kept fresh while it lives, recovered when it died."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from unicscale.errors import CheckpointError
from unicscale.ranks.scheduler import Phase, scheduler
from unicscale.ranks.terminal import tell

BEAT = 15.0  # seconds between signs of life
SETTLE = 0.2  # seconds in which a lock that was moved by mistake is back
SILENCE = 180.0  # without one for so long the holder is dead; NFS shows a change within 60 s


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a run folder."""

    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)
    born: int = field(default_factory=lambda: _born(os.getpid()) or 0)  # process ids are reused, start times are not
    boot: str = field(default_factory=lambda: _boot())
    job: str | None = field(default_factory=lambda: scheduler().job())
    restart: int = field(default_factory=lambda: scheduler().restarts())
    since: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def __str__(self) -> str:
        job = f"job {self.job}, " if self.job else ""
        return f"{job}process {self.pid} on {self.host}, since {self.since}"


class Lock:
    """Held from `take` to `release`; a thread keeps its time stamp fresh."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        self.me = Holder()
        self._released = threading.Event()

    def take(self) -> None:
        """Hold the folder, or say who does."""
        for _ in range(5):  # a lost race against another newcomer is judged anew
            holder = read(self.path)
            if holder is not None and alive(self.path, holder):
                raise in_use(self.path.parent, holder)
            if self.path.exists() and not self._set_aside(holder):
                continue
            if self._publish() and self._kept():
                threading.Thread(target=self._beat, daemon=True).start()
                return
        raise CheckpointError(
            f"{self.path} changes hands too fast: several launches want {self.path.parent}. Try again."
        )

    def release(self) -> None:
        """Let go, unless somebody else holds it by now."""
        self._released.set()
        holder = read(self.path)
        if holder is not None and holder.token == self.me.token:
            self.path.unlink(missing_ok=True)

    def _publish(self) -> bool:
        """A hard link appears whole or not at all, on NFS too."""
        mine = self.path.with_name(f".lock-{self.me.token}")
        mine.write_text(json.dumps(asdict(self.me)) + "\n")
        try:
            os.link(mine, self.path)
            return True
        except FileExistsError:
            return mine.stat().st_nlink == 2  # NFS may lose the answer to the link it made, and make it "again"
        except OSError as problem:
            raise CheckpointError(
                f"{self.path.parent} cannot be locked: its file system makes no hard links ({problem.strerror}).\n"
                f"  Choose a folder on another file system with out=FOLDER."
            ) from None
        finally:
            mine.unlink(missing_ok=True)

    def _kept(self) -> bool:
        """Whether it is still ours once a newcomer that moved it by mistake, and put it back, is done."""
        for _ in range(4):
            time.sleep(SETTLE)
            if (holder := read(self.path)) is not None:
                return holder.token == self.me.token
        return False

    def _set_aside(self, judged: Holder | None) -> bool:
        """Remove the dead holder's lock, but not that of a newcomer who was faster."""
        now = read(self.path)
        if now is not None and judged is not None and now.token != judged.token:
            return False  # judging may have taken seconds: Slurm was asked
        aside = self.path.with_name(f".lock-{self.me.token}-stale")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return True
        try:
            moved = read(aside)
            if moved is not None and (judged is None or moved.token != judged.token):
                os.link(aside, self.path)
                return False
            if judged is not None:
                tell(f"recovered {self.path.parent} from {judged}, who is gone")
            return True
        except FileExistsError:
            return False
        finally:
            aside.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            try:
                holder = _parse(self.path.read_text())
            except FileNotFoundError:
                holder = None
            except (OSError, ValueError, TypeError, KeyError, RecursionError):
                continue  # the file server hiccups: ask again
            if self._released.is_set():
                return
            if holder is None or holder.token != self.me.token:
                by = f"by {holder}" if holder else "(the lock file is gone)"
                tell(f"{self.path.parent} was taken over {by}; leaving before two runs write it")
                os._exit(CheckpointError.exit_code)
            with contextlib.suppress(OSError):  # a thread that dies here would let a live run look dead
                os.utime(self.path)


def in_use(folder: Path, holder: Holder) -> CheckpointError:
    """The refusal that names the holder."""
    return CheckpointError(
        f"{folder} is in use: {holder}.\n"
        f"  Wait, or end it with `unicscale stop {folder}`, or choose another folder with out=FOLDER."
    )


def read(path: Path) -> Holder | None:
    """The holder a lock names; None where there is no lock, or nothing readable in it."""
    try:
        return _parse(path.read_text())
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _parse(text: str) -> Holder:
    said = json.loads(text)
    holder = Holder(**{key.name: said[key.name] for key in fields(Holder)})  # newer code may have written more
    if any(type(number) is not int for number in (holder.pid, holder.born, holder.restart)):
        raise ValueError("not a lock of ours")
    return holder


def alive(path: Path, holder: Holder, phase_of: Callable[[str], Phase | None] | None = None) -> bool:
    """Whether the holder may still be running: asked of the kernel, of the queue, or of the file's time stamp."""
    if holder.host == platform.node() and holder.boot == _boot():
        return _born(holder.pid) == holder.born
    if holder.job is not None:
        if holder.job == scheduler().job():
            return holder.restart >= scheduler().restarts()
        phase = (phase_of or scheduler().phase)(holder.job)
        if phase is not None:
            return phase in (Phase.RUNNING, Phase.LEAVING)
    return abs(age(path)) < SILENCE  # a sign from the future was not given by this clock: who lives gives another


def age(path: Path) -> float:
    """Seconds since the last sign of life, both ends measured by the file server's clock."""
    probe = path.with_name(f".age-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):  # a file system that is read-only for whoever looks
            probe.unlink()


def _born(pid: int) -> int | None:
    """The process's start, in clock ticks since boot; None where it is dead or a zombie."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if said[0] in "ZX" else int(said[19])


def _boot() -> str:
    """This boot and this container: elsewhere the same process id is another process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
