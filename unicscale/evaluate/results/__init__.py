"""Scores beside one another and beside the published ones; nothing here needs torch."""
