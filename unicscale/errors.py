"""What a user sees instead of a traceback: where, what, and the way out; one exit code each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The base of every error that is the user's to mend; the command line prints it without a traceback."""

    exit_code = 2
    of_one_rank = False  # what befell one rank only, that rank has to say itself


class RecipeError(UserError):
    """The recipe or the command line."""

    exit_code = 2


class HostError(RecipeError):
    """This host cannot do what the recipe wants of every host."""

    of_one_rank = True


class DataError(UserError):
    """Images, betons, labels, evaluation data."""

    exit_code = 3


class LoaderError(DataError):
    """What befell one rank's reading threads."""

    of_one_rank = True


class TeacherError(UserError):
    """A plug-in or a teacher's weights."""

    exit_code = 4


class TeacherFailed(TeacherError):
    """What a teacher did, or answered, when one rank asked it."""

    of_one_rank = True


class PluginLeft(TeacherFailed):
    """A plug-in called exit() on one rank."""

    of_one_rank = True


class CheckpointError(UserError):
    """A checkpoint or the run folder."""

    exit_code = 5


class RunError(UserError):
    """The run itself: non-finite losses, a lost rank, no progress."""

    exit_code = 6
    of_one_rank = True


class RankLost(RunError):
    """Another rank, its node or the network is gone; the last checkpoint is intact, another launch may do better."""

    exit_code = 6


class BlewUp(RunError):
    """Step after step was skipped for a gradient that was not finite; what is in memory is the state of before."""

    exit_code = 6


class OutOfMemory(RunError):
    """The device or the host ran out of memory; the last checkpoint is intact."""

    exit_code = 6


class StoppedOnRequest(UserError):
    """Not an error: a signal or a time limit asked, everything is saved, the same command goes on."""

    exit_code = 75


class Interrupted(UserError):
    """Not an error: what was finished is kept. Ranks hear a signal each for itself, so nobody waits for the others."""

    exit_code = 75


class ReachedLimit(StoppedOnRequest):
    """`--max-steps` was reached: the command did what it was told, so it leaves with 0."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """`" Did you mean 'drop_path'?"`, or nothing when nothing is near."""
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.55)
    return f" Did you mean '{close[0]}'?" if close else ""
