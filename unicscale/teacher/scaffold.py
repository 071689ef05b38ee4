"""`unicscale teachers new`: a distribution that installs, passes the contract, and waits to be filled in."""

from __future__ import annotations

import keyword
from pathlib import Path

from unicscale.errors import RecipeError

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "unicscale-{dashed}"
version = "0.1.0"
description = "{title} as a teacher for unicscale"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["unicscale", "timm>=1.0.20"]

[project.entry-points."unicscale.teachers"]
{name} = "unicscale_{name}:{title}"

[tool.setuptools]
py-modules = ["unicscale_{name}"]
"""

ADAPTER = '''\
"""{title} as a teacher: what it is and how it is built; the core does everything else."""

from typing import Any

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, Features, TeacherSpec, Weights
from unicscale.teacher import Teacher, TeacherOptions


class Options(TeacherOptions):
    """What a recipe may say about this teacher."""

    depth: int = 12
    """How many blocks."""


class {title}(Teacher):
    """A ViT-Ti/16; put your own encoder in its place."""

    api_version = 1
    Options = Options
    licence = "Apache-2.0"
    files = {{"tiny": "https://example.org/{name}.safetensors"}}  # size -> address of the official file
    small = {{"depth": 2}}  # options that tests can afford

    def spec(self, options: Options) -> TeacherSpec:
        return TeacherSpec(
            dim=192, patch=16, size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD, licence=self.licence,
            weights=Weights(self.files["tiny"]),
            # tokens=("patches",) where it has no summary; patch_dim=... where its patches have another width;
            # patch is the stride: how many pixels a side one cell stands for; multiple=... where sides need another
        )

    def build(self, options: Options) -> Any:
        import timm  # here and not above: listing teachers must not wait for torch

        module = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, depth=options.depth)
        module.forward = module.forward_features  # sharded modules are entered through forward alone
        return module

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        return state  # the file's entries under the module's names; none may be missing or left over

    def forward(self, module: Any, images: Any) -> Features:
        tokens = module(images)  # (B, 1 + N, D)
        return Features(summary=tokens[:, 0], patches=tokens[:, 1:])
'''

CONTRACT = '''\
"""{title} keeps the contract that unicscale relies on."""

from unicscale.testing import TeacherContract


class Test{title}(TeacherContract):
    teacher = "{name}"
'''

README = """\
# {title} for unicscale

    pip install -e .
    python -m pytest                        # the contract
    unicscale teachers show {name}

In a recipe:

    teachers:
      {name}: {{plugin: {name}, weights: /path/to/{name}.safetensors}}
"""


def scaffold(name: str, out: Path) -> Path:
    """The folder unicscale-NAME below `out`; nothing that exists is overwritten."""
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise RecipeError(
            f"'{name}' cannot name a teacher: lower-case letters, digits and '_', for example my_teacher."
        )
    names = {"name": name, "dashed": name.replace("_", "-"), "title": name.title().replace("_", "")}
    folder = out / f"unicscale-{names['dashed']}"
    if folder.exists():
        raise RecipeError(f"{folder} exists already. Remove it, or choose another name or --out.")
    (folder / "tests").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(**names))
    (folder / f"unicscale_{name}.py").write_text(ADAPTER.format(**names))
    (folder / "tests" / "test_contract.py").write_text(CONTRACT.format(**names))
    (folder / "README.md").write_text(README.format(**names))
    return folder
