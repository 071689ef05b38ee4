"""Run folders -> one HTML page and its figures; several runs are compared."""

from unicscale.report.page import write
from unicscale.report.story import Story, read
from unicscale.report.table import comparison, text_table

__all__ = ["Story", "comparison", "read", "text_table", "write"]
