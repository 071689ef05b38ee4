"""What goes wrong inside a launch: each function is called in the process before `unicscale train` begins."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE_OPERATIONS = ("fsync", "rename", "replace", "unlink", "rmdir")


def die_at_operation(number: int) -> None:
    """SIGKILL at the n-th file operation of the thread that writes checkpoints."""
    done = 0

    def counted(operate: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*arguments: Any, **more: Any) -> Any:
            nonlocal done
            if threading.current_thread().name == "checkpoint":
                done += 1
                if done == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return operate(*arguments, **more)

        return inner

    for name in FILE_OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def die_in_a_file(save: int) -> None:
    """SIGKILL when half of the n-th checkpoint's tensors are on the disk."""
    from unicscale.checkpoint import committing

    whole, done = committing.save_file, 0

    def half(tensors: dict[str, Any], path: str) -> None:
        nonlocal done
        whole(tensors, path)
        done += 1
        if done == save:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    committing.save_file = half


def ask_for_too_much_memory(step: int) -> None:
    """The loss of one step wants a tensor that no machine holds."""
    from unicscale import train

    def act(loss: Any) -> Any:
        import torch

        torch.empty(1 << 52)
        return loss

    _at_steps(train, range(step, step + 1), act)


def spoil_the_loss(first: int, count: int) -> None:
    """This rank's loss is NaN for `count` steps."""
    from unicscale import train

    _at_steps(train, range(first, first + count), lambda loss: loss._replace(sum=loss.sum * float("nan")))


def _at_steps(module: Any, steps: range, act: Callable[[Any], Any]) -> None:
    true = module.distil

    def distil(*arguments: Any, key: tuple[int, int], **more: Any) -> Any:
        loss = true(*arguments, key=key, **more)
        return act(loss) if key[1] in steps else loss

    module.distil = distil


def save_the_same_step_again(folder: str, recipe: str, value: float) -> None:
    """Write step 9 with every number equal to `value`."""
    import torch

    from unicscale.checkpoint import Saver
    from unicscale.contracts import Progress
    from unicscale.engine import Piece
    from unicscale.ranks.world import World
    from unicscale.recipe import load

    class Numbers:
        def pieces(self) -> dict[str, Piece]:
            return {f"weights/{name}": Piece(torch.full((50,), value), 0, (50,)) for name in "abc"}

    saver = Saver(Path(folder), load(recipe), World(), parameters=["a", "b", "c"])
    saver.save(Progress(0, 9, 72), Numbers(), {}, wait=True)  # type: ignore[arg-type]


def rewrite(recipe: str) -> None:
    """Read the newest checkpoint into the recipe's engine and write it again, without a step in between."""
    from unicscale.assembly import assemble, survey
    from unicscale.ranks.world import World
    from unicscale.recipe import load
    from unicscale.run.launches import owned_run

    world = World.start(load(recipe).engine)
    with owned_run(load(recipe), world) as (run, resolved):
        parts = assemble(resolved, world, run, loader=survey(resolved, world))
        parts.saver.save(parts.progress, parts.engine, parts.states, wait=True)
        parts.loader.close()
    world.close()


def tell_of_evaluations(file: str) -> None:
    """A file appears when the first evaluation begins, and the evaluation takes a while."""
    from unicscale import train

    true = train.measure

    def measure(parts: Any) -> Any:
        Path(file).touch()
        time.sleep(0.5)
        return true(parts)

    train.measure = measure


def stall_the_loader(batch: int, seconds: float) -> None:
    """The n-th batch comes late."""
    from unicscale.data import loader

    true = loader.Loader.start

    def start(self: Any, *arguments: Any, **more: Any) -> Any:
        for number, each in enumerate(true(self, *arguments, **more), start=1):
            if number == batch:
                time.sleep(seconds)
            yield each

    loader.Loader.start = start


def break_the_reader(reader: str, call: int, stalls: bool, mark: str) -> None:
    """The n-th call of a reader raises, or never comes back; `mark` appears as it begins."""
    from unicscale.data.sets import beton, folder, images

    images.ffcv_missing()  # imports the module, where there is one
    kinds = {"folder": (folder.Folder, "image"), "beton": (beton.Beton, "image")}
    if reader == "ffcv":
        from unicscale.data.sets.ffcv import FFCV

        kinds["ffcv"] = (FFCV, "fill")
    kind, method = kinds[reader]
    true, done, counting = getattr(kind, method), 0, threading.Lock()

    def broken(self: Any, index: Any, *arguments: Any) -> Any:
        nonlocal done
        with counting:
            done += 1
            fails = done == call
        if fails:
            Path(mark).touch()
            if stalls:
                time.sleep(600)
            raise MemoryError("no more of that")
        return true(self, index, *arguments)

    setattr(kind, method, broken)
