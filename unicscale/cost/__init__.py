"""Parameters, FLOPs, bytes and hours of a recipe, before a byte of it is loaded.

recipe -> shapes: the models on meta -> flops and memory: a formula each, meta where there is none
                                                          engines say what they hold (engine/facts.py)
       -> report: the page of `unicscale plan`
       -> limit: what a step would take if the device did nothing but products, for whoever logs the share of it
"""

from __future__ import annotations

from unicscale.cost.gpus import named
from unicscale.cost.report import Costs, costs, cure, report

__all__ = ["Costs", "costs", "cure", "named", "report"]
