"""Parameters, FLOPs, bytes and hours of a recipe, before a byte of it is loaded."""

from __future__ import annotations

from unicscale.cost.report import Costs, costs, cure, report

__all__ = ["Costs", "costs", "cure", "report"]
