"""The student: a trunk, and a projector that answers every teacher."""

from unicscale.student.model import Student, build_student

__all__ = ["Student", "build_student"]
