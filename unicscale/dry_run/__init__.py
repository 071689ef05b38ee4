"""The dry run: the loop of `train` on drawn pixels, random weights and a few images, beside what was planned."""

from unicscale.dry_run.rehearsal import rehearse

__all__ = ["rehearse"]
