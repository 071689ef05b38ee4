"""What the parts of a recipe may be called: torch keeps a teacher's parts under its name, beside its own attributes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LONGEST = 64  # letters: names become folders, columns and keys of checkpoints
PART, PATH = 255, 4000  # bytes that file systems allow a part of a path, and the whole

# the public attributes of torch.nn.ModuleDict: a part of that name cannot be added; a test compares
RESERVED = frozenset([
    "T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "clear",
    "compile", "cpu", "cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward", "get_buffer",
    "get_extra_state", "get_parameter", "get_submodule", "half", "ipu", "items", "keys", "load_state_dict",
    "modules", "mtia", "named_buffers", "named_children", "named_modules", "named_parameters", "parameters",
    "pop", "register_backward_hook", "register_buffer", "register_forward_hook", "register_forward_pre_hook",
    "register_full_backward_hook", "register_full_backward_pre_hook", "register_load_state_dict_post_hook",
    "register_load_state_dict_pre_hook", "register_module", "register_parameter",
    "register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_", "set_extra_state",
    "set_submodule", "share_memory", "state_dict", "to", "to_empty", "train", "training", "type", "update",
    "values", "xpu", "zero_grad",
])  # fmt: skip

StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=LONGEST)]


def teacher_name(name: str) -> str:
    """The name, if it is fit for folders, for keys of checkpoints and for torch."""
    if not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"'{name[:LONGEST]}' names a teacher: letters, digits, '_' and '-' only")
    if len(name) > LONGEST:
        raise ValueError(f"'{name[:16]}...' names a teacher in {len(name):,} letters; {LONGEST} are the most")
    if name in RESERVED or name.startswith("_"):
        raise ValueError(f"'{name}' names a teacher, and means something else in torch. Call it '{name.strip('_')}_1'")
    return name


def path_of_run(out: str) -> str:
    """A path that file systems take; it need not be there."""
    if not out.strip():
        raise ValueError("it is empty. Say where the run goes: 'out: runs/NAME'")
    if len(out.encode()) > PATH or any(len(part.encode()) > PART for part in out.split("/")):
        raise ValueError(f"'{out[:32]}...' is too long: {PART} bytes for each part of a path, {PATH:,} for all of it")
    return out
