"""How many pixels a teacher is shown, and on which grid its tokens lie."""

from __future__ import annotations

import zlib

from unicscale import rng
from unicscale.contracts import TeacherSpec
from unicscale.errors import RecipeError

Policy = str | int | list[int]


def drawn(policy: Policy, name: str, key: tuple[int, int] | None) -> str | int:
    """Of a list one size per step, from (seed, step) and the teacher's name; without a key, its first.

    All ranks agree, and the student's own size has no say in it (EUPE, arXiv:2603.22387).
    """
    if not isinstance(policy, list):
        return policy
    if key is None:
        return policy[0]
    return policy[rng.key(key[0], rng.Purpose.TEACHER_SIZE, key[1], zlib.crc32(name.encode())) % len(policy)]


def every_size(spec: TeacherSpec, policy: Policy, size: int, student_patch: int, name: str) -> list[int]:
    """All that this teacher may be shown when the student sees `size`; refuses those that cannot be."""
    each = policy if isinstance(policy, list) else [policy]
    return [input_size(spec, one, size, student_patch, name) for one in each]


def input_size(spec: TeacherSpec, policy: str | int, size: int, student_patch: int, name: str) -> int:
    """How many pixels this teacher is shown when the student sees `size`."""
    if policy == "native":
        return spec.size
    wanted = int({"same_grid": size // student_patch * spec.patch, "student": size}.get(str(policy), policy))
    if spec.fixed_size and wanted != spec.size:
        if policy == "same_grid":
            return spec.size  # its patch map is resized instead
        raise RecipeError(
            f"'teachers.{name}.resolution': this teacher understands {spec.size} pixels only, not {wanted}."
        )
    multiple = spec.multiple or spec.patch
    if wanted % multiple and policy == "same_grid":
        return -(-wanted // multiple) * multiple  # the next that it takes; its patch map is resized
    if wanted % multiple:
        of = f"its patch of {multiple}" if multiple == spec.patch else f"{multiple}, which its sides must be"
        raise RecipeError(
            f"'teachers.{name}.resolution': {wanted} pixels are no multiple of {of}.\n"
            "  `same_grid` shows it the size that gives the student's grid."
        )
    return wanted
