"""ZeRO-3: DeepSpeed gathers every block and rung while it computes; each rank holds slices and updates its own."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from unicscale.engine.base import BaseEngine, Pieces, materialise, move, round_buffers
from unicscale.engine.facts import Held, Trained
from unicscale.engine.pieces import Piece, piece_of, slice_of
from unicscale.engine.placement import memory_of
from unicscale.engine.running import Running
from unicscale.engine.units import LADDER, prepare, stacks, units
from unicscale.engine.update import MOMENTS, adamw, order
from unicscale.errors import RecipeError
from unicscale.recipe.sections import EngineSection

BUCKETS = {"cpu": 20_000_000, "cuda": 100_000_000}  # gradients that are collected before they are reduced
PERSISTENT = 10_000  # parameters up to this many numbers stay gathered: not worth a collective each


class Zero3Engine(BaseEngine):
    """DeepSpeed shards, gathers and reduces; the verdict on each gradient and AdamW are those of all engines.

    DeepSpeed reads the norm once per step for its own check: the one host synchronisation that this engine keeps,
    besides the verdict's way to the host where the optimiser is offloaded.
    """

    @classmethod
    def holds(
        cls, section: EngineSection, model: Trained, *, ranks: int, memory: int | None, accumulates: bool
    ) -> Held:
        """Slices in the recipe's dtype, two units gathered, and DeepSpeed's buckets."""
        beside = model.total * model.small * (model.small < 4) // ranks + 2 * model.unit * model.small
        buckets = 4 * BUCKETS["cpu" if memory is None else "cuda"]
        gradients = 4 * model.total // ranks + model.unit * (4 + model.small) + buckets
        return Held(beside, gradients, on_host=section.offload.optimizer)

    def _open(self, student: Any) -> None:
        deepspeed = import_deepspeed(self.world.device)
        if self.dtype is torch.float16 and not deepspeed.get_accelerator().is_fp16_supported():
            raise RecipeError("engine.dtype 'fp16': DeepSpeed cannot compute in it on this device. Say bf16 or fp32.")
        prepare(student, self.section, compile_ladder=False)  # rungs are gathered layer by layer, by hooks inside
        student.projector.fused = False  # it would reach into rungs that are not gathered
        config = self._config(PERSISTENT)
        self.running = Running(student, self.world)
        shard(student, self.world.device, config, self.dtype, 0.0)
        parameters: dict[str, Any] = dict(student.named_parameters())  # with DeepSpeed's own attributes
        trained = {n: p for n, p in parameters.items() if p.requires_grad}
        self.inner = adamw(
            self.section,
            trained,
            {n: tuple(p.ds_shape) for n, p in trained.items()},
            self.blueprint.rates(self.section),
        )
        as_built = dict(student.named_buffers())
        self.student, self.zero, _, _ = deepspeed.initialize(model=student, optimizer=self.inner, config=config)
        for name, buffer in as_built.items():  # DeepSpeed rounds them all
            path, _, leaf = name.rpartition(".")
            student.get_submodule(path)._buffers[leaf] = buffer.to(self.world.device)
        round_buffers(student, self.dtype)
        self.inner = self.zero.optimizer  # DeepSpeed's copy of the groups works on flat fp32 masters
        self.parameters = trained
        self.weights = {n: self._master(p) if p.requires_grad else piece_of(p) for n, p in parameters.items()}

    def _close(self) -> None:
        gathering = self.zero.parameter_offload
        holders = [*self.student.modules(), gathering.get_param_coordinator(), gathering, self.zero]
        self.student.destroy()  # type: ignore[operator]  (DeepSpeed's hooks)
        for holder in holders:  # DeepSpeed remembers modules as long as the process lives: let them be empty
            vars(holder).clear()
        del self.student, self.weights, self.running, self.parameters, self.zero, self.inner

    def _remember(self, moments: Pieces) -> None:
        self.steps = torch.zeros(1, device=self.world.device)
        flats = self.zero.fp32_partitioned_groups_flat
        for flat in flats:
            self.inner.state[flat] = {"step": torch.zeros((), device=flat.device)}
        for kind in MOMENTS:
            for group, flat in enumerate(flats):  # one after the other: the old ones go as the new ones come
                self.inner.state[flat][kind] = torch.zeros_like(flat)
                named = {f"{kind}/{n}": self._master(p, kind) for n, p in self._of_group(group)}
                move(named, moments, {})

    def _of_group(self, group: int) -> list[tuple[str, Any]]:
        owner = self.zero.grad_position
        return [(n, p) for n, p in self.parameters.items() if owner[self.zero.get_param_id(p)][0] == group]

    def _master(self, parameter: nn.Parameter, kind: str | None = None) -> Piece:
        """This rank's slice of the fp32 master weight, or of a moment."""
        group, start, count = self.zero.grad_position[self.zero.get_param_id(parameter)]
        flat = self.zero.fp32_partitioned_groups_flat[group]
        return slice_of(
            parameter, (flat if kind is None else self.inner.state[flat][kind]).detach().narrow(0, start, count)
        )

    def _config(self, persistent: int) -> dict[str, Any]:
        device, offload = self.world.device.type, self.section.offload
        bucket = BUCKETS[device]
        stage = {
            "stage": 3,
            "overlap_comm": device == "cuda",
            "reduce_bucket_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": persistent,
            "sub_group_size": 30_000_000 if device == "cpu" else 1_000_000_000,
        }
        if offload.optimizer:
            stage["offload_optimizer"] = {"device": "cpu", "pin_memory": device == "cuda"}
        if offload.parameters:
            stage["offload_param"] = {"device": "cpu", "pin_memory": device == "cuda"}
        config = {
            "train_micro_batch_size_per_gpu": 1,  # batches never pass through DeepSpeed; it only wants a number
            "zero_optimization": stage,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": 0.0,  # it would be 1.0; the verdict clips
            "communication_data_type": "fp32",
            "data_types": {"grad_accum_dtype": "fp32"},
        }
        if self.dtype is torch.bfloat16:
            config["bf16"] = {"enabled": True}
        elif self.dtype is torch.float16:
            config["fp16"] = {"enabled": True, "loss_scale": 1.0}  # ours is on the device, see update.py
        return config

    def shard_teacher(self, module: nn.Module, how: str) -> nn.Module:
        """Sliced by a second, frozen DeepSpeed engine; or whole, where the device has room."""
        size = sum(p.numel() * p.element_size() for p in module.parameters())
        module.requires_grad_(False)
        if self.places(how, size, memory_of(self.world.device)) == "none":
            return materialise(module, self.world.device, torch.nan)
        deepspeed = import_deepspeed(self.world.device)
        dtype = next(module.parameters()).dtype
        config = self._config(0) | {
            "bf16": {"enabled": dtype is torch.bfloat16},
            "fp16": {"enabled": dtype is torch.float16},
        }
        shard(module, self.world.device, config, dtype, torch.nan)
        deepspeed.initialize(model=module, config=config)
        return module  # the hooks sit on the module itself

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Slices accumulate in fp32 on every micro-batch; DeepSpeed has no other way."""
        self.student.set_gradient_accumulation_boundary(last)  # type: ignore[operator]
        self.student.backward(self.judge.scaled(loss), scale_wrt_gas=False)  # type: ignore[operator]
        self.running.note()
        if not last:
            self.student.step()  # type: ignore[operator]  (moves DeepSpeed's count of micro-batches)

    def step(self, lr: float, weight: Tensor, *, trunk_rests: bool = False) -> Tensor:
        """DeepSpeed averaged over ranks; AdamW divides while it updates."""
        from deepspeed.utils import safe_get_local_grad

        gradients = [slice_of(p, safe_get_local_grad(p)).flat for p in self.parameters.values()]
        verdict = self.judge([g for g in gradients if g.numel()], weight, averaged=True)
        order(self.inner, lr, verdict.at(self.zero.fp32_partitioned_groups_flat[0].device), trunk_rests)
        self.student.step()  # type: ignore[operator]
        self.running.follow(verdict.broken)
        self.average.follow()
        return verdict.norm

    def _optimizer_state(self) -> Pieces:
        self.steps.copy_(self.inner.state[self.zero.fp32_partitioned_groups_flat[0]]["step"])
        moments = {f"{k}/{n}": self._master(p, k) for k in MOMENTS for n, p in self.parameters.items()}
        return moments | {"optimizer/step": Piece(self.steps, 0, (1,))}

    def restored(self) -> None:
        """The slices that compute are rounded copies of the masters; small parameters are whole on every rank."""
        self.zero._partition_all_parameters()  # drops what was gathered from the numbers of before
        for group, flat in enumerate(self.zero.fp32_partitioned_groups_flat):
            self.inner.state[flat]["step"].copy_(self.steps[0])
            self.zero._reassign_or_swap_out_partitioned_parameters(group)
        if self.zero.persistent_parameters:
            self.zero.persistent_parameters[0].all_gather(self.zero.persistent_parameters)


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed is an extra, and chooses its accelerator when it is imported."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    if device.type == "cuda":  # it takes this for the device's number, which it is not where a task sees one GPU only
        os.environ["LOCAL_RANK"] = str(device.index)
    try:
        import deepspeed
    except ImportError:
        raise RecipeError("engine.kind 'zero3' needs DeepSpeed: pip install 'unicscale[deepspeed]'.") from None
    # a kernel for inference that would be compiled at first use: half a minute, and a compiler, for nothing
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    return deepspeed


def shard(module: nn.Module, device: torch.device, config: dict[str, Any], dtype: torch.dtype, value: float) -> None:
    """From meta to slices one unit at a time, so that no rank ever holds the whole."""
    import deepspeed
    from deepspeed.utils import set_z3_leaf_modules

    blocks = units(module)
    for part in [*blocks, module]:
        for owner in part.modules():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                if parameter.is_meta:
                    real = torch.full(parameter.shape, value, dtype=dtype, device=device)
                    setattr(owner, name, nn.Parameter(real, requires_grad=parameter.requires_grad))
            for name, buffer in list(owner.named_buffers(recurse=False)):
                # masks and rotary tables: whole on every rank; a teacher's are filled with its weights
                setattr(owner, name, torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device))
        deepspeed.zero.Init(module=part, config_dict_or_path=config, mem_efficient_linear=False)
    # gathered as a whole; rungs cannot be: a leaf's gradients leave through a hook that only sees flat outputs
    inside = [stack for path, stack in stacks(module) if path.split(".")[0] != LADDER]
    if kinds := {type(unit) for stack in inside for unit in stack}:  # a teacher of one block has no stack
        set_z3_leaf_modules(module, list(kinds))
