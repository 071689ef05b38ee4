"""A student as other libraries know ViTs, in numbers; what none of them can say is refused here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.mlp import GluMlp, Mlp
from torch import Tensor, nn

from unicscale.errors import CheckpointError
from unicscale.interop.opened import Opened
from unicscale.student.stem import ConvolutionStem
from unicscale.student.trunk.plain import PlainViT


@dataclass(frozen=True, slots=True)
class Plain:
    """Patches, CLS, learned positions, pre-norm blocks, final norm: nothing else."""

    width: int
    depth: int
    heads: int
    hidden: int  # of the perceptron; of SwiGLU, one of its two halves
    patch: int
    size: int
    registers: int
    qkv_bias: bool
    layer_scale: bool
    swiglu: bool

    @property
    def prefix(self) -> int:
        """CLS and registers."""
        return 1 + self.registers


def plain(opened: Opened, target: str) -> Plain:
    """The student's numbers; CheckpointError says what `target` has no word for."""
    trunk = opened.student.trunk
    if type(trunk) is not PlainViT or trunk.cls_token is None or trunk.pos_embed is None:
        raise _refused(
            target, f"the student is no plain ViT with a CLS token and learned positions ({_called(opened)})"
        )
    first: Any = trunk.blocks[0]
    mlp, attention = first.mlp, first.attn
    odd = {
        "a stem of convolutions, and a ViT has one patch matrix there": isinstance(trunk.patch_embed, ConvolutionStem),
        "a norm before its blocks": not isinstance(trunk.norm_pre, nn.Identity),
        "norms of queries and keys": not isinstance(attention.q_norm, nn.Identity),
        f"{type(mlp).__name__} for a perceptron": type(mlp) not in (Mlp, GluMlp),
        f"{type(mlp.act).__name__} for an activation": not _known_activation(mlp),
        f"{type(trunk.norm).__name__} for a norm": not isinstance(trunk.norm, nn.LayerNorm) or trunk.norm.eps != 1e-6,
        "registers with positions of their own": trunk.prefix > 1 and trunk.positions_cover_prefix,
    }
    for what, true in odd.items():
        if true:
            raise _refused(target, f"the student has {what}")
    return Plain(
        width=trunk.width,
        depth=trunk.depth,
        heads=attention.num_heads,
        hidden=mlp.fc2.weight.shape[1],
        patch=trunk.patch,
        size=opened.size,
        registers=trunk.prefix - 1,
        qkv_bias=attention.qkv.bias is not None,
        layer_scale=not isinstance(first.ls1, nn.Identity),
        swiglu=isinstance(mlp, GluMlp),
    )


def dinov2_layout(opened: Opened) -> dict[str, Tensor]:
    """timm's tensors as DINOv2 lays them out: a mask token, scales in every block, positions that cover CLS alone."""
    trunk = opened.student.trunk
    assert isinstance(trunk, PlainViT)
    state = dict(trunk.state_dict())
    width = trunk.width
    ones = torch.ones(width)
    for block in range(trunk.depth):
        for half in ("ls1", "ls2"):
            state.setdefault(f"blocks.{block}.{half}.gamma", ones.clone())
    state["mask_token"] = torch.zeros(1, width)
    if not trunk.positions_cover_prefix:  # the CLS token has taken its position along
        state["pos_embed"] = torch.cat([torch.zeros(1, 1, width), state["pos_embed"]], dim=1)
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
    if isinstance(trunk.blocks[0].mlp, GluMlp):
        for ours, theirs in (("mlp.fc1.", "mlp.w12."), ("mlp.fc2.", "mlp.w3.")):
            state = {name.replace(ours, theirs): t for name, t in state.items()}
    return state


def _called(opened: Opened) -> str:
    return opened.description.student.arch if opened.description else type(opened.student.trunk).__name__


def _known_activation(mlp: nn.Module) -> bool:
    act = mlp.get_submodule("act")
    if isinstance(mlp, GluMlp):
        return isinstance(act, nn.SiLU)
    return isinstance(act, nn.GELU) and act.approximate == "none"


def _refused(target: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"--to {target}: {why}, for which it has no word.\n"
        "  These hold every student: --to onnx, --to torch, --to safetensors."
    )
