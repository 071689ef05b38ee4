"""`unicscale pack` and `unicscale data show`, as people call them."""

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from tests.kit.pictures import needs_ffcv, tree
from unicscale.cli import app

RECIPE = """
schema: 1
out: {out}
data: {{train: ["{path}"], images_per_step: 6}}
teachers: {{scenes: {{}}}}
stages:
  - {{name: low, size: [32, 48], steps: 4, lr: {{peak: 1.0e-3}}}}
  - {{name: high, size: 64, steps: 4, lr: {{peak: 1.0e-3}}}}
"""


@needs_ffcv
def test_pack_says_what_it_wrote_and_what_it_skipped(tmp_path):
    source = tree(tmp_path / "tree", 6)
    (source / "class0" / "text.jpg").write_text("hello")
    target = tmp_path / "set.beton"
    result = CliRunner().invoke(app, ["pack", str(source), str(target), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "skipped class0/text.jpg: not an image" in result.output
    assert f"{target}: 6 images" in result.output.replace("\n", "")
    assert target.exists() and Path(f"{target}.json").exists()


def test_packing_without_ffcv_says_what_is_missing(tmp_path):
    tree(tmp_path / "tree", 6)
    command = f"pack {tmp_path}/tree {tmp_path}/set.beton".split()
    hidden = "import sys; sys.modules['ffcv'] = None; from unicscale.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", hidden, *command], capture_output=True, text=True)
    assert ran.returncode == 3, ran.stderr
    assert "packing needs FFCV: it is not installed" in ran.stderr
    assert "apt-get install g++ pkg-config libopencv-dev libturbojpeg0-dev" in ran.stderr
    assert os.listdir(tmp_path) == ["tree"]


def test_a_contact_sheet_has_a_row_for_every_size(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(out=tmp_path / "run", path=tree(tmp_path / "tree", 12)))
    out = tmp_path / "sheet.png"
    command = ["data", "show", str(tmp_path / "recipe.yaml"), "--out", str(out), "--images", "8"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    with Image.open(out) as sheet:
        assert sheet.size == (8 * 68 + 4, 3 * 26 + 36 + 52 + 68)
