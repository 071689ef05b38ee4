"""What a student is made of: every architecture gives its blocks or stages in one form."""

from unicscale.student.trunk.base import Trunk
from unicscale.student.trunk.building import build_trunk
from unicscale.student.trunk.positions import Grid, check_size, resize_positions

__all__ = ["Grid", "Trunk", "build_trunk", "check_size", "resize_positions"]
