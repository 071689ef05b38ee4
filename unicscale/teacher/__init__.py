"""Teachers: what a plug-in says, how one is found, filled, frozen and asked.

section -> finding: the plug-in by its name -> importing: in a process of its own first -> described: options, spec
-> files and fetch: where weights lie -> weights: read safely, matched strictly -> frozen: one forward
-> targets: pixels in its own terms (grid), answers held against its spec (door), standardised: {name: Features}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unicscale.teacher.finding import find
from unicscale.teacher.plugin import Teacher, TeacherOptions, entry

if TYPE_CHECKING:
    from unicscale.teacher.frozen import open_teacher

__all__ = ["Teacher", "TeacherOptions", "entry", "find", "open_teacher"]


def __getattr__(name: str) -> Any:
    if name == "open_teacher":  # the only one that needs torch
        from unicscale.teacher.frozen import open_teacher

        return open_teacher
    raise AttributeError(f"module 'unicscale.teacher' has no attribute '{name}'")
