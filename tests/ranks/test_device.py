"""A machine that should have GPUs and cannot use them is refused in words, never silently left for the CPU."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import torch

from unicscale.errors import HostError
from unicscale.ranks import device
from unicscale.recipe.sections import EngineSection

HERE = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*device.ASKED_FOR, "CC"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(HERE, reason="torch can use this machine's GPU")
@pytest.mark.parametrize(("name", "value"), [("SLURM_GPUS_ON_NODE", "4"), ("CUDA_VISIBLE_DEVICES", "0")])
def test_a_gpu_job_without_a_usable_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(HostError, match=rf"should have GPUs \({name}={value}\).*can use none of them") as refused:
        device.device_of("auto", 0)
    assert "engine.device=cpu" in str(refused.value)
    assert device.device_of("cpu", 0) == torch.device("cpu")


@pytest.mark.parametrize(("name", "value"), [("CUDA_VISIBLE_DEVICES", "-1"), ("SLURM_GPUS", "0"), ("SLURM_GPUS", "")])
def test_no_gpu_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert device.sign_of_gpus(tmp_path) == ""


def test_a_device_file_is_a_sign(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()
    assert device.sign_of_gpus(tmp_path) == f"{tmp_path / 'nvidia0'} is there"


def test_what_triton_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device.without_compiler() == "no C compiler (cc, gcc or clang)"
    (tmp_path / "gcc").touch(mode=0o755)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert device.without_compiler() == f"no {tmp_path / 'Python.h'}, which Debian keeps in python3-dev"
    device.refuse_without_compiler(torch.device("cpu"))
    with pytest.raises(HostError, match=r"set engine\.compile=false"):
        device.refuse_without_compiler(torch.device("cuda"))
    (tmp_path / "Python.h").touch()
    assert device.without_compiler() == ""


def test_what_was_compiled_once_is_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/site")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    device.keep_compiled(EngineSection(compile=True), tmp_path / "compiled")
    assert device.os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled" / "inductor")
    assert device.os.environ["TRITON_CACHE_DIR"] == "/site"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
