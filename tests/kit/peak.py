"""How many bytes of tensors are alive at once while something runs, wherever they lie."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Alive(TorchDispatchMode):
    """`peak`: of all storages that were made inside, beside those that `also` names; views count once."""

    def __init__(self, also: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.now = self.peak = 0
        for tensor in also:
            self._note(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        for one in torch.utils._pytree.tree_leaves(out):
            if isinstance(one, Tensor):
                self._note(one)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage: Any = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.held:
            self.held[key] = storage.nbytes()
            self.now += self.held[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.held.pop(key, 0)
