"""Which device a rank computes on, and what that machine must have for it."""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from unicscale.errors import HostError
from unicscale.recipe.sections import EngineSection

Answer = TypeVar("Answer")
ASKED_FOR = ("SLURM_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES")


def device_of(wanted: str, local_rank: int) -> torch.device:
    """What `engine.device` means here; GPUs that torch cannot use are an error, not a reason to train on the CPU."""
    available = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise HostError(
            f"'engine.device' is 'cuda', and torch sees no CUDA device on {platform.node()}.\n"
            "  `unicscale doctor` says why."
        )
    if wanted == "auto" and not available and (sign := sign_of_gpus()):
        raise HostError(
            f"{platform.node()} should have GPUs ({sign}), and torch {torch.__version__} can use none of them.\n"
            f"  Its CUDA is {torch.version.cuda}: an older driver, or a torch built for CPUs only, ends like this; "
            "`unicscale doctor` says more.\n"
            "  `engine.device=cpu` trains on the CPU on purpose."
        )
    if not available:
        return torch.device("cpu")
    torch.cuda.set_device(local_rank % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())


def one_graph(function: Callable[..., Answer], **how: Any) -> Callable[..., Answer]:
    """Compiled whole or not at all; every shape that a run has, of sizes, windows and batches, keeps its own graph."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return torch.compile(function, fullgraph=True, dynamic=False, **how)


def called(device: torch.device) -> str:
    """A device by the name of its model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def sign_of_gpus(devices: Path = Path("/dev")) -> str:
    """What tells that this process was given GPUs; empty where nothing does."""
    for name in ASKED_FOR:
        value = os.environ.get(name, "").strip()
        if name == "CUDA_VISIBLE_DEVICES" and value == "-1":
            return ""  # somebody hid them
        if (value and value not in ("0", "-1", "NoDevFiles")) or (value == "0" and name == "CUDA_VISIBLE_DEVICES"):
            return f"{name}={value}"
    found = sorted(path.name for path in devices.glob("nvidia[0-9]*"))
    return f"{devices / found[0]} is there" if found else ""


def without_compiler() -> str:
    """Why Triton could not build its launcher here, which it does at the first compiled step; empty where it can."""
    wanted = os.environ.get("CC")
    if not (shutil.which(wanted) if wanted else any(map(shutil.which, ("cc", "gcc", "clang")))):
        return f"no C compiler ({wanted or 'cc, gcc or clang'})"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return "" if header.is_file() else f"no {header}, which Debian keeps in python3-dev"


def refuse_without_compiler(device: torch.device) -> None:
    """Before models are built: step 1 would end in Triton's traceback."""
    if device.type == "cuda" and (lacks := without_compiler()):
        raise HostError(
            f"'engine.compile' needs a C compiler and Python's headers on every node; {platform.node()} has {lacks}.\n"
            "  Load a compiler module in launch.setup, or set engine.compile=false."
        )


def settled(section: EngineSection, device: torch.device) -> EngineSection:
    """`auto` as this device can: what GPUs are made for, and on CPUs what every CPU computes alike."""
    if not section.open:
        return section
    gpu = device.type == "cuda"
    return section.settled(bf16=gpu and torch.cuda.is_bf16_supported(), compiles=gpu and not without_compiler())


def computes_bf16(device: torch.device | str) -> bool:
    """Whether it has instructions for it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def computes_fp16(device: torch.device | str) -> bool:
    """Whether it has instructions for it; a torch without oneDNN cannot say, and would not use them."""
    if torch.device(device).type == "cuda":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported()


def slow_in(dtype: str, device: torch.device) -> str:
    """What to say of a precision that a CPU only imitates; empty where it computes in it."""
    computed = {"bf16": computes_bf16, "fp16": computes_fp16}
    if device.type != "cpu" or dtype not in computed or computed[dtype](device):
        return ""
    return f"this CPU has no instructions for {dtype}: torch imitates them, many times slower than fp32; say fp32"


def keep_compiled(section: EngineSection, folder: Path) -> None:
    """Kernels go where the next launch finds them, on whatever node: /tmp would be compiled anew after each requeue.

    A site that knows a better place has set these variables.
    """
    if section.compile is not True:
        return
    for name, part in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        os.environ.setdefault(name, str(folder.absolute() / part))
