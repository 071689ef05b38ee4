"""What a run can be doing: the words of `unicscale jobs`, each with the sentence that docs/launch.md says of it."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of a run, as its folder and the queue tell it together."""

    says: str  # what the word means, for those who look after runs

    QUEUED = "queued", "its job waits for the first time"
    STARTING = "starting", "its job runs, and the run has not begun yet"
    RUNNING = "running", "its ranks are at work"
    ENDING = "ending", "the run is finished, and its job has not left the queue yet"
    FINISHED = "finished", "it took every step of its recipe"
    REQUEUED = "requeued", "its job waits to go on from the last checkpoint"
    STOPPED = "stopped", "it saved and left when asked to; the same command goes on"
    FAILED = "failed", "it left with an error; the reason stands below"
    DIED = "died", "it was killed without a word"
    CANCELLED = "cancelled", "somebody took its job out of the queue"
    GONE = "gone", "it never began, and no job of it is in the queue"
    UNKNOWN = "unknown", "only the queue knows, and does not answer"
    DAMAGED = "damaged", "its folder cannot be read; the reason stands below"

    def __new__(cls, word: str, says: str) -> State:
        """A word that is compared, printed and written to JSON as itself, and carries its sentence."""
        member = str.__new__(cls, word)
        member._value_, member.says = word, says
        return member
