"""Run folders -> one HTML page and its figures; several runs are compared.

run folder -> course: metrics.jsonl, told once -> story: with launches and results -> figures, table -> page
Nothing is computed that a run has not written down; torch is not imported.
"""

from unicscale.report.page import write
from unicscale.report.story import Story, read
from unicscale.report.table import comparison, text_table

__all__ = ["Story", "comparison", "read", "text_table", "write"]
