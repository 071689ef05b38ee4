"""A frozen teacher's forward as one CUDA graph per shape: recorded when the shape is first met, replayed ever after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unicscale.contracts import Features
from unicscale.errors import RecipeError, TeacherError, TeacherFailed

WARM = 3  # forwards before one is recorded: compilers, libraries and tables of kernels have settled then

Encode = Callable[[Tensor], Features]


class Recording(NamedTuple):
    """Always the same memory in, always the same memory out."""

    given: Tensor
    play: Callable[[], None]
    said: Features


Record = Callable[[str, Encode, Tensor], Recording]  # teacher, its forward, pixels of the shape


class Replayed:
    """One teacher's forward: at most one recording for each size and number of images.

    What is handed on is a copy. The next replay writes over what this one said, and so may that of any other recording,
    because all share their memory, in whatever order sizes are met; a copy is small beside the forward, and
    nobody's but the caller's, through all micro-batches.
    """

    def __init__(self, name: str, encode: Encode, record: Record) -> None:
        self.name, self.encode, self.record = name, encode, record
        self.recordings: dict[Any, Recording] = {}

    def __call__(self, pixels: Tensor) -> Features:
        form = pixels.shape, pixels.dtype
        if form not in self.recordings:
            self.recordings[form] = self.record(self.name, self.encode, pixels)
        given, play, said = self.recordings[form]
        given.copy_(pixels)
        play()
        return said.each(torch.clone)


class Recorder:
    """Records on this rank's GPU."""

    def __init__(self) -> None:
        self.pool: Any = None  # of memory, shared by all recordings

    def __call__(self, name: str, encode: Encode, pixels: Tensor) -> Recording:
        # evaluations ask in inference mode and training does not: memory that both write is no inference tensor
        with torch.inference_mode(False), torch.no_grad():
            given = pixels.clone()
            try:
                return self._recorded(encode, given)
            except (RuntimeError, TeacherFailed) as problem:
                raise TeacherError(
                    f"teacher '{name}': its forward of {tuple(given.shape)} could not be recorded: "
                    f"{(str(problem) or type(problem).__name__).splitlines()[0]}\n"
                    "  engine.cuda_graphs wants forwards that ask nothing of the host. Leave it out."
                ) from problem

    def _recorded(self, encode: Encode, given: Tensor) -> Recording:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM):
                encode(given)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # other threads load images meanwhile: what they ask of the device is no part of it, and no error
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            said = encode(given)
        self.pool = graph.pool()
        return Recording(given, graph.replay, said)


def refuse_unrecordable(device: torch.device, sharded: bool) -> None:
    """Before the first image."""
    if device.type != "cuda":
        raise RecipeError("engine.cuda_graphs records what a GPU does, and this run is on the CPU. Leave it out.")
    if sharded:
        raise RecipeError(
            "engine.cuda_graphs: a sharded teacher is gathered anew for each forward, at no fixed place.\n"
            "  Set `shard: none` for every teacher, or leave engine.cuda_graphs out."
        )
