"""Import a third party's plug-in in a process of its own first: it may raise, leave or hang, and we go on.

python -m unicscale.plugin_probe module:Class | ./file.py:Class
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from functools import cache
from pathlib import Path

from unicscale.errors import TeacherError

PATIENCE = 3.0  # seconds of a plug-in's own import time
LIMIT = 120.0  # seconds altogether, libraries from a cold network disk included
# importing these may take a minute on a cluster's cold disk, which is not the plug-in's fault: the clock stands still
LIBRARIES = {"torch", "torchvision", "timm", "open_clip", "transformers", "numpy", "torchao", "huggingface_hub"}
FINE = 0
HANGS = 91
FAILED = 92


@cache  # once a process: a run finds its teachers more than once
def probe(target: str, what: str) -> None:
    """Raise TeacherError unless `target` imports, in a child process, within its time."""
    if int(os.environ.get("RANK", "0")) != 0:
        return  # rank 0 asks for all: its refusal ends the launch
    command = [sys.executable, "-m", "unicscale.teacher.importing", target]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise _refusal(what, f"hangs at import: nothing after {LIMIT:.0f} s") from None
    said = child.stderr.strip().splitlines()
    last = said[-1] if said else ""
    if child.returncode == HANGS:
        raise _refusal(what, f"hangs at import: {last}")
    if child.returncode == FAILED:
        raise _refusal(what, f"cannot be imported: {last}")
    if child.returncode != FINE or not child.stdout.endswith("imported\n"):
        raise _refusal(what, f"leaves the process at import, with exit code {child.returncode}")


def _refusal(what: str, cause: str) -> TeacherError:
    return TeacherError(
        f"the teacher plug-in {what} {cause}\n"
        "  Other teachers are unaffected. Mend or uninstall it, or name another in the recipe."
    )


def _watch(main: int) -> None:
    """End the process when the plug-in's own code has used up its patience, naming the line it stands in."""
    used, step = 0.0, 0.05
    while used < PATIENCE:
        time.sleep(step)
        frame = sys._current_frames().get(main)
        modules, place = set(), ""
        while frame is not None:
            modules.add(str(frame.f_globals.get("__name__", "")).partition(".")[0])
            if not place and not frame.f_code.co_filename.startswith("<"):
                place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        if not modules & LIBRARIES:
            used += step
    print(f"still in {place} after {PATIENCE:.0f} s", file=sys.stderr, flush=True)
    os._exit(HANGS)


def _import(target: str) -> None:
    from unicscale.teacher import finding  # our own imports come before the plug-in's clock starts

    threading.Thread(target=_watch, args=(threading.get_ident(),), daemon=True).start()
    path, _, attribute = target.rpartition(":")
    if path.endswith(".py"):
        finding.load_file(Path(path).expanduser(), attribute)
    else:
        finding._entry(target)


def _main() -> None:
    try:
        _import(sys.argv[1])
    except SystemExit as leaving:
        print(f"SystemExit: it calls exit({leaving.code})", file=sys.stderr, flush=True)
        os._exit(FAILED)
    except BaseException as problem:
        place = traceback.extract_tb(problem.__traceback__)[-1]
        message = str(problem).splitlines()[0] if str(problem) else ""
        print(f"{type(problem).__name__}: {message} ({place.filename}:{place.lineno})", file=sys.stderr, flush=True)
        os._exit(FAILED)
    print("imported", flush=True)
    os._exit(FINE)  # threads that a plug-in started at import must not keep us


if __name__ == "__main__":
    _main()
