"""What works on this machine: each line is tried, not guessed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import NamedTuple

import typer


def register(app: typer.Typer) -> None:
    """`unicscale doctor`."""
    app.command()(doctor)


class Finding(NamedTuple):
    """One line of the table."""

    works: bool
    said: str
    remedy: str = ""


def doctor() -> None:
    """What this machine can do, what is missing, and the command that adds it."""
    # exit code 0 whatever is found: a missing extra is no error
    from rich.console import Console
    from rich.table import Table

    shown = Table(
        title=f"unicscale {version('unicscale')} on {platform.node()}", title_justify="left", box=None, pad_edge=False
    )
    for heading in ("", "what", "found"):
        shown.add_column(heading, overflow="fold")
    remedies = []
    for name, look in LOOKS.items():
        try:
            finding = look()
        except Exception as problem:  # a broken library must not break the table that would say so
            finding = Finding(False, f"{type(problem).__name__}: {problem}"[:160])
        shown.add_row("[green]yes[/]" if finding.works else "[yellow]no[/]", name, finding.said)
        if finding.remedy and not finding.works:
            remedies.append((name, finding.remedy))
    console = Console()
    console.print(shown)
    if remedies:
        console.print("\nTo add what is missing:")
        for name, remedy in remedies:
            console.print(f"  {name}: [bold]{remedy}[/]", soft_wrap=True)


def _python() -> Finding:
    return Finding(True, f"{platform.python_version()}, {platform.platform(terse=True)}")


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0))
    return Finding(True, f"{usable} usable of {os.cpu_count()}")


def _memory() -> Finding:
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES")
    return Finding(True, f"{pages * page / 2**30:.0f} GiB, {free * page / 2**30:.0f} free")


def _disk() -> Finding:
    usage = shutil.disk_usage(".")
    enough = usage.free > 10 * 2**30
    return Finding(enough, f"{usage.free / 2**30:.0f} GiB free here", "runs and betons want more than 10 GiB")


def _torch() -> Finding:
    import torch

    from unicscale.ranks.device import computes_bf16

    halves = "bf16 and fp32" if computes_bf16("cpu") else "fp32; bf16 is imitated, and slow"
    return Finding(True, f"{torch.__version__}, {torch.get_num_threads()} threads, the CPU computes in {halves}")


def _cuda() -> Finding:
    import torch

    from unicscale.ranks.device import sign_of_gpus

    if not torch.cuda.is_available():
        if sign := sign_of_gpus():
            said = f"GPUs are here ({sign}), and torch {torch.__version__} with CUDA {torch.version.cuda} can use none"
            return Finding(False, said, f"a driver for CUDA {torch.version.cuda}, or a torch for the driver you have")
        return Finding(False, "no device: training runs on the CPU", "a machine with an NVIDIA GPU and its driver")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding(True, f"{len(names)} x {names[0]}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")


def _compiler() -> Finding:
    from unicscale.ranks.device import without_compiler

    lacks = without_compiler()
    return Finding(not lacks, lacks or "a C compiler and Python.h", "apt-get install gcc python3-dev")


def _collectives() -> Finding:
    import torch.distributed as dist

    found = [n for n, ok in (("gloo", dist.is_gloo_available()), ("nccl", dist.is_nccl_available())) if ok]
    return Finding(bool(found), ", ".join(found))


def _ffcv() -> Finding:
    try:
        import_module("ffcv")
    except ImportError:
        remedy = "apt-get install g++ pkg-config libopencv-dev libturbojpeg0-dev && make setup"
        return Finding(False, "betons are read by the pure-Python reader, none can be packed", remedy)
    return Finding(True, version("ffcv"))


def _deepspeed() -> Finding:
    try:
        found = version("deepspeed")
    except ImportError:
        return Finding(False, "engine.kind zero3 is not available", "pip install 'unicscale[deepspeed]'")
    return Finding(True, found)


def _slurm() -> Finding:
    if shutil.which("sbatch") is None:
        return Finding(False, "no sbatch: launch/local.py and torchrun work", "run launch/slurm.py on a login node")
    answers = subprocess.run(["sinfo", "-h", "-o", "%P %D"], capture_output=True, text=True, timeout=5, check=False)
    if answers.returncode != 0:
        return Finding(False, "no controller answers here", "run launch/slurm.py on a login node")
    return Finding(True, f"partitions and nodes: {' '.join(answers.stdout.split())}")


def _wandb() -> Finding:
    key = bool(os.environ.get("WANDB_API_KEY")) or os.path.exists(os.path.expanduser("~/.netrc"))
    return Finding(True, f"{version('wandb')}, {'an account is set up' if key else 'no account: offline mode'}")


def _plugins() -> Finding:
    from importlib.metadata import entry_points

    names = sorted(e.name for e in entry_points(group="unicscale.teachers"))
    return Finding(bool(names), ", ".join(names), "make setup")


LOOKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    "cores": _cores,
    "memory": _memory,
    "disk": _disk,
    "torch": _torch,
    "CUDA": _cuda,
    "compile": _compiler,
    "collectives": _collectives,
    "FFCV": _ffcv,
    "DeepSpeed": _deepspeed,
    "Slurm": _slurm,
    "wandb": _wandb,
    "teachers": _plugins,
}
