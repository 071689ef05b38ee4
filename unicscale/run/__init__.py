"""The run folder: who holds it, what every launch did, what was measured, and how a run is doing now."""
