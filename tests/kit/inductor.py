"""How many kernels Inductor would make of a function, on shapes alone: its scheduler is asked, nothing is generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.utils import detect_fake_mode
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx
from torch._inductor.debug import DebugContext
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import NopKernelSchedulerNode
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode

# whose fusions are counted, and how much a GPU computes again rather than writes
AS_ON_A_GPU = {"cpu_backend": "triton", "realize_opcount_threshold": 30, "realize_acc_reads_threshold": 8}


class Counted:
    """Compiles with `compiled`; `forward` and `backward` are lists, a number of kernels per graph."""

    def __init__(self) -> None:
        self.forward: list[int] = []
        self.backward: list[int] = []

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which computes as it did eagerly and is counted when it is first called."""
        return torch.compile(function, backend=self._backend, fullgraph=True, dynamic=False)

    def _backend(self, graph: Any, inputs: Any) -> Any:
        return compile_fx(graph, inputs, inner_compile=self._count)

    def _count(self, graph: Any, inputs: Any, **said: Any) -> Any:
        mode = detect_fake_mode(inputs) or FakeTensorMode(allow_non_fake_inputs=True)
        fakes = [
            mode.from_tensor(x) if isinstance(x, torch.Tensor) and detect_fake_mode([x]) is None else x for x in inputs
        ]
        results = next(node for node in graph.graph.nodes if node.op == "output")
        values = [getattr(one, "meta", {}).get("val") for one in results.args[0]]
        strides = [value.stride() if isinstance(value, torch.Tensor) else None for value in values]
        results.meta.setdefault("original_output_strides", strides)
        results.meta.setdefault("user_visible_output_idxs", [])
        lowering = GraphLowering(graph, fakes, shape_env=mode.shape_env)
        gpu = patch.multiple(config, **AS_ON_A_GPU)
        with gpu, V.set_graph_handler(lowering), V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
            lowering.run(*fakes)
            lowering._update_scheduler()
            kernels = [node for node in lowering.scheduler.nodes if not isinstance(node, NopKernelSchedulerNode)]
        (self.backward if said.get("is_backward") else self.forward).append(len(kernels))
        return make_boxed_func(graph.forward)
