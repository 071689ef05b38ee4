"""Checkpoints: written by a commit protocol as ranges of flattened tensors, read by any engine on any number of ranks.

checkpoints/step-00012345/{manifest.json, rank-0000.safetensors, ..., state.json, recipe.yaml}

    save     every rank's pieces -> layout: who writes which range -> writing: a snapshot, and a thread of its own
             -> committing: every file hashed, the manifest, one rename, LATEST -> retention and best: what goes
    resume   reading: the newest whole one -> resuming: is it this run's -> the same ranges, cut for these ranks
"""

from unicscale.checkpoint.best import Best, Rated, best_of
from unicscale.checkpoint.reading import Checkpoint, States, committed, glance, locate, newest, restore, weights_of
from unicscale.checkpoint.resuming import find, same_data
from unicscale.checkpoint.writing import Safe, Saver

__all__ = [
    "Best",
    "Checkpoint",
    "Rated",
    "Safe",
    "Saver",
    "States",
    "best_of",
    "committed",
    "find",
    "glance",
    "locate",
    "newest",
    "restore",
    "same_data",
    "weights_of",
]
