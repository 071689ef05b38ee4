"""A machine that should have GPUs and cannot use them is refused in words, never silently left for the CPU."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import torch

from tests.kit.recipe import write_recipe
from unicscale.engine import build_engine
from unicscale.errors import HostError
from unicscale.evaluate.features import shelf
from unicscale.evaluate.terms import Settings
from unicscale.ranks import device
from unicscale.ranks.world import World
from unicscale.recipe import load
from unicscale.recipe.sections import EngineSection
from unicscale.student.model import build_student

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


CPU = torch.device("cpu")
IMITATED = "no instructions for {}: torch imitates them, many times slower than fp32; say fp32"


@pytest.mark.parametrize("can", [False, True])
def test_a_precision_that_a_cpu_only_imitates_is_called_slow(monkeypatch: pytest.MonkeyPatch, can: bool) -> None:
    monkeypatch.setattr(device, "computes_bf16", lambda _: can)
    monkeypatch.setattr(device, "computes_fp16", lambda _: not can)
    assert device.slow_in("fp32", CPU) == device.slow_in("auto", CPU) == ""
    assert (IMITATED.format("fp16") in device.slow_in("fp16", CPU)) is can
    assert (IMITATED.format("bf16") in device.slow_in("bf16", CPU)) is not can
    assert device.slow_in("bf16", torch.device("cuda")) == device.slow_in("fp16", torch.device("cuda")) == ""


def test_a_run_and_an_evaluation_say_it_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(device, "computes_bf16", lambda _: False)
    recipe = load(write_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run"))
    for dtype in ("bf16", "fp32"):
        student = build_student(recipe.student, recipe.projector, {"one": 8}, 32)
        section = EngineSection.model_validate({"dtype": dtype, "device": "cpu"})
        build_engine(section, student, seed=0, world=World(device=CPU), micro_batches=1, size=32)
    shelf._tell_once.cache_clear()
    for _ in range(2):  # as for two checkpoints of a run
        shelf.Shelf(tmp_path, tmp_path, Settings(dtype="bf16"), World(device=CPU))
    assert [f"engine.dtype 'bf16': this CPU has {IMITATED.format('bf16')}"] == caplog.messages
    assert capfd.readouterr().err.count(f"--dtype bf16: this CPU has {IMITATED.format('bf16')}") == 1
