"""The training step that UNIC's authors released, from a checkout that is named; it expects GPUs, so hosts stand in.

Nothing of it is copied here: its `main` runs as it is, with `cuda()` doing nothing, its process group over gloo, and
small teachers with values by chance registered under names of the form it expects.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.peers.clock import Asked, Clock


def main(asked: Asked, checkout: Path) -> None:
    """Until the clock ends it."""
    sys.path.insert(0, str(checkout))
    _on_a_host(asked.dtype)
    names = _small_teachers(asked, Path(asked.out))
    register_optimizer_step_post_hook(Clock(asked).tick)
    import utils  # type: ignore[import-not-found]  # theirs

    utils.init_distributed_mode = _joined
    said = {"arch": "vit_small", "patch_size": 14, "teachers": ",".join(names), "data_dir": asked.images,
            "image_size": asked.size, "use_fp16": asked.dtype == "bf16", "batch_size_per_gpu": asked.batch,
            "epochs": 1000, "output_dir": asked.out, "num_workers": 2}  # fmt: skip
    sys.argv = ["main_unic.py", *(f"--{name}={value}" for name, value in said.items())]
    runpy.run_path(str(checkout / "main_unic.py"), run_name="__main__")


def _joined(args: argparse.Namespace) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.environ.get("PEERS_PORT", "29611")}
    dist.init_process_group("gloo", rank=0, world_size=1)
    args.gpu = args.rank = 0
    args.world_size = 1


def _on_a_host(dtype: str) -> None:
    for kind in (torch.Tensor, nn.Module):
        kind.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]
    wrapped = nn.parallel.DistributedDataParallel
    nn.parallel.DistributedDataParallel = lambda m, device_ids=None, **how: wrapped(m, **how)  # type: ignore
    host = partial(torch.autocast, "cpu", torch.bfloat16)
    torch.cuda.amp.autocast = lambda enabled=True: host(enabled=enabled and dtype == "bf16")  # type: ignore
    torch.cuda.amp.GradScaler = partial(torch.amp.GradScaler, "cpu", enabled=False)  # type: ignore
    torch.cuda.synchronize = lambda *_: None  # type: ignore


def _small_teachers(asked: Asked, place: Path) -> list[str]:
    from teachers.config import TEACHER_CFG  # type: ignore[import-not-found]  # theirs
    from teachers.vit_dino import dino_vitsmall  # type: ignore[import-not-found]

    names = [f"small{number}_vitsmall_14" for number in range(asked.teachers)]
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = place / f"{name}.pth"
        torch.save({"model": dino_vitsmall(img_size=224, patch_size=14).state_dict()}, file)
        TEACHER_CFG[name] = {
            "loader": dino_vitsmall, "ckpt_path": str(file), "ckpt_key": "model", "num_features": 384, "resolution": 224
        }  # fmt: skip
    return names


if __name__ == "__main__":
    main(Asked.from_argument(sys.argv[1]), Path(sys.argv[2]))
