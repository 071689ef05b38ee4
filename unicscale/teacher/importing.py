"""Import a third party's plug-in in a process of its own first: it may raise, leave or hang, and we go on.

python -m unicscale.teacher.importing module:Class | ./file.py:Class
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any

from unicscale.errors import TeacherError
from unicscale.ranks.environment import whole

PATIENCE = 3.0  # seconds of a plug-in's own import time
LIMIT = 120.0  # seconds altogether, libraries from a cold network disk included
# importing these may take a minute on a cluster's cold disk, which is not the plug-in's fault: the clock stands still
LIBRARIES = {"torch", "torchvision", "timm", "open_clip", "transformers", "numpy", "torchao", "huggingface_hub"}
FINE = 0
HANGS = 91
FAILED = 92


def from_entry_point(target: str, what: str, *, trusted: bool) -> Any:
    """The class `module:Class`; one that is not ours is imported in a child process first."""
    if not trusted:
        probe(target, what)
    return _guarded(lambda: _entry(target), what)


def from_file(adapter: str) -> Any:
    path, _, attribute = adapter.rpartition(":")
    file = Path(os.path.expanduser(path))  # of a user nobody knows it stays as it is, and does not exist
    if not path or not attribute.isidentifier():
        raise TeacherError(f"'adapter: {adapter}' should read ./file.py:Class.")
    if not file.is_file():
        raise TeacherError(f"'adapter: {adapter}': {file.resolve()} does not exist.")
    probe(adapter, f"the adapter {adapter}")
    return _guarded(lambda: load_file(file, attribute), f"the adapter {adapter}")


def load_file(file: Path, attribute: str) -> Any:
    """A class out of a file that belongs to no package."""
    place = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:8]  # two files may have one name
    spec = importlib.util.spec_from_file_location(f"unicscale_adapter_{file.stem}_{place}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic looks up what `from __future__ import annotations` left as text
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return getattr(module, attribute)


def _guarded(imports: Any, what: str) -> Any:
    # SystemExit too: a plug-in that leaves at import must not take the run's exit code with it
    try:
        return imports()
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise TeacherError(
            f"the teacher plug-in {what} cannot be imported: {type(problem).__name__}: {problem}\n"
            "  Other teachers are unaffected. Mend or uninstall it, or name another in the recipe."
        ) from problem


def _entry(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache  # once a process: a run finds its teachers more than once
def probe(target: str, what: str) -> None:
    """Raise TeacherError unless `target` imports, in a child process, within its time."""
    if whole("RANK", 0) != 0:
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
    threading.Thread(target=_watch, args=(threading.get_ident(),), daemon=True).start()
    path, _, attribute = target.rpartition(":")
    if path.endswith(".py"):
        load_file(Path(os.path.expanduser(path)), attribute)
    else:
        _entry(target)


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
