"""The student: a trunk, and a projector that answers every teacher.

images (B, C, H, W) -> trunk: every block's or stage's tokens, summary first, and the final features
                    -> projector: of those that it reads, one answer per teacher -> Seen(features, answers)
Built on meta; model.initial says what fills each parameter, a function of (seed, name).
"""

from unicscale.student.model import Student, build_student

__all__ = ["Student", "build_student"]
