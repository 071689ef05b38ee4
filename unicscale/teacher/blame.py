"""What goes wrong inside a plug-in is said to be its own, with the line where it happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unicscale.errors import TeacherError, TeacherFailed, UserError
from unicscale.ranks.exits import nobody_leaves
from unicscale.teacher.plugin import Teacher

# what a RuntimeError says of the machine rather than of the plug-in; ranks/failures.py explains these
MACHINE = ("out of memory", "allocate memory", "CUDA error", "NCCL", "Connection", "Socket", "Broken pipe", "Timed out")


@contextmanager
def named(name: str, plugin: Teacher, part: str) -> Iterator[None]:
    """`part` is the method of the plug-in that is asked."""
    try:
        with nobody_leaves(f"teacher '{name}'"):
            yield
    except (UserError, MemoryError):
        raise
    except Exception as problem:
        if isinstance(problem, RuntimeError) and any(text in str(problem) for text in MACHINE):
            raise
        said = f"{type(problem).__name__}: {problem}".splitlines()[0]
        kind = TeacherFailed if part == "forward" else TeacherError  # the rest is asked by all ranks alike
        raise kind(f"teacher '{name}': its {part} failed{_where(problem, plugin)}: {said}") from problem


def _where(problem: BaseException, plugin: Teacher) -> str:
    """`" at mine.py:12"`: the innermost line of the plug-in's own file; nothing where it was not there."""
    module, at, trace = type(plugin).__module__.rpartition(".")[2], "", problem.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if trace.tb_frame.f_globals.get("__name__", "").rpartition(".")[2] == module:
            at = f" at {file.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return at
