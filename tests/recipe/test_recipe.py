"""Recipes: what is accepted, and what a person reads when it is not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from unicscale.errors import RecipeError
from unicscale.recipe import Recipe, dump, load
from unicscale.recipe.foreign import WORDS

GOOD = """\
schema: 1
out: runs/x
data: {train: [images], images_per_step: 64}
student: {arch: vit_base, drop_path: 0.1}
teachers:
  a: {plugin: dino}
loss: {balance: {kind: teacher_dropping, p: 0.5}}
stages:
  - {name: low, size: 224, epochs: 2, lr: {peak: 3e-4}}
"""


def write(tmp_path: Path, text: str, name: str = "r.yaml") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def said(path: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(Path(path).parent) + "/", "")


def test_a_number_that_yaml_reads_as_text_is_a_number(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD)).stages[0].lr.peak == 3e-4


def test_the_resolved_recipe_reads_back_to_itself(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, GOOD))
    assert load(write(tmp_path, dump(recipe), "again.yaml")) == recipe


def test_an_unknown_key_names_the_line_the_nearest_key_and_what_the_section_takes(tmp_path: Path) -> None:
    text = said(write(tmp_path, GOOD.replace("drop_path: 0.1", "droppath: 0.1")))
    assert text == (
        "r.yaml:4: 'student.droppath' is not a key. Did you mean 'drop_path'?\n"
        "  'student' takes: arch, drop_path, freeze, init, init_partial, layer_scale, options, patch, registers, stem"
    )


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    broken = GOOD.replace("0.5}}", "1.5}}").replace("epochs: 2", "epochs: x").replace("out: runs/x\n", "")
    text = said(write(tmp_path, broken))
    assert "'loss.balance.p' is '1.5'; it must be at most 1.0." in text
    assert "'stages.0.epochs' is 'x'; it must be a number." in text
    assert "'out' is missing. Say where the run goes: 'out: runs/NAME'." in text


BROKEN = {
    "unset variable": (
        GOOD.replace("[images]", '["${UNICSCALE_NOT_SET}/train"]'),
        "r.yaml:3: 'data.train.0' uses ${UNICSCALE_NOT_SET}, which is not set.",
    ),
    "duplicate key": (GOOD + "out: runs/y\n", "r.yaml:10: 'out' is written twice; first at "),
    "tab": (GOOD.replace("  a: {", "\ta: {"), "a tab where YAML wants spaces. Indent with two spaces."),
    "empty": ("", "r.yaml is empty. A recipe starts with 'schema: 1'"),
    "comment only": ("# nothing\n", "r.yaml is empty."),
    "a list": ("- a\n- b\n", "r.yaml:1: a recipe is a mapping ('key: value' lines), this is a list."),
    "angle of patches": (
        GOOD.replace("loss: {", "loss: {patches: {angle: 1}, "),
        "'loss.patches': angle is for summaries: it is measured against the cone of a teacher's summaries",
    ),
    "angle of standardised summaries": (
        GOOD.replace("loss: {", "loss: {summary: {angle: 1}, "),
        "loss.summary.angle wants summaries as they are: standardised ones have no cone, their mean is 0.",
    ),
    "angle against nothing": (
        GOOD.replace("loss: {", "standardize: {kind: none}\nloss: {summary: {angle: 1}, "),
        "loss.summary.angle: say how long the cone is estimated, standardize.freeze_after: 3000 steps",
    ),
    "two paces": (
        GOOD + "standardize: {kind: running, patches: phi_s}\n",
        "'standardize': running statistics move to the end of the run and the others are frozen",
    ),
    "no terms": (
        GOOD.replace("loss: {", "loss: {patches: {mse: 0}, "),
        "'loss.patches': all of them are 0: nothing is left to minimise",
    ),
    "token by token on two grids": (
        GOOD.replace("p: 0.5", "per: patch").replace("loss: {", "loss: {grid: larger, "),
        "'loss': balance.per: patch compares teachers token by token, on one grid: leave out grid: larger",
    ),
    "token by token without a summary": (
        GOOD.replace("p: 0.5", "per: patch").replace("plugin: dino", "plugin: dino, tokens: [patches]"),
        "loss.balance.per: patch compares teachers token by token, and teachers.a.tokens names one kind only.",
    ),
    "no tokens": (GOOD.replace("plugin: dino", "plugin: dino, tokens: []"), "'teachers.a.tokens': the list is empty"),
    "a size twice": (
        GOOD.replace("plugin: dino", "plugin: dino, resolution: [224, 224]"),
        "'teachers.a.resolution': the list says something twice",
    ),
    "no weight": (
        GOOD.replace("plugin: dino", "plugin: dino, weight: {summary: 0, patches: 0}"),
        "'teachers.a.weight': summary and patches both weigh 0: leave the teacher out",
    ),
    "not YAML": (GOOD.replace("teachers:", "teachers: ["), "not YAML:"),
    "unknown kind": (
        GOOD.replace("teacher_dropping", "teacher_droping"),
        "'loss.balance.kind' is 'teacher_droping'. Did you mean 'teacher_dropping'?",
    ),
    "two lengths": (
        GOOD.replace("epochs: 2", "epochs: 2, steps: 3"),
        "'stages.0': say how long: exactly one of epochs, steps, images",
    ),
    "no teachers": (
        GOOD.replace("  a: {plugin: dino}\n", "").replace("teachers:", "teachers: {}"),
        "'teachers' is empty; it must be at least one item.",
    ),
    "negative": (
        GOOD.replace("images_per_step: 64", "images_per_step: -1"),
        "r.yaml:3: 'data.images_per_step' is '-1'; it must be at least 1.",
    ),
    "wrong schema": (GOOD.replace("schema: 1", "schema: 2"), "r.yaml:1: 'schema' is '2'."),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_a_broken_recipe_says_where_and_what(tmp_path: Path, case: str) -> None:
    text, expected = BROKEN[case]
    assert expected in said(write(tmp_path, text))


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "unic_l.yaml")
    assert "Did you mean 'unic_l.yaml'?" in said(str(tmp_path / "unic-l.yaml"))


def test_a_directory_and_a_binary_file_are_no_recipes(tmp_path: Path) -> None:
    assert "is a directory" in said(str(tmp_path))
    (tmp_path / "b.yaml").write_bytes(b"\x89PNG\x00\xff\xfe")
    assert "is not text" in said(str(tmp_path / "b.yaml"))


def test_overrides_take_numbers_booleans_lists_and_list_items(tmp_path: Path) -> None:
    changes = [
        "stages.0.epochs=1",
        "engine.compile=true",
        "engine.betas=[0.8, 0.9]",
        "stages.0.lr.peak=1e-3",
        "out=a/b",
    ]
    recipe = load(write(tmp_path, GOOD), changes)
    assert recipe.stages[0].epochs == 1
    assert recipe.engine.compile is True
    assert recipe.engine.betas == (0.8, 0.9)
    assert recipe.stages[0].lr.peak == 1e-3
    assert recipe.out == "a/b"


def test_a_wrong_override_names_itself(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert said(path, "stages.3.epochs=1") == "'stages.3.epochs=1': 'stages' is a list and holds 0..0, not '3'."
    assert said(path, "nonsense").startswith("'nonsense' is not an override. Write KEY=VALUE")
    assert "'student.dropath=1': 'student.dropath' is not a key. Did you mean 'drop_path'?" in said(
        path, "student.dropath=1"
    )


def test_what_an_override_makes_disagree_is_said_of_the_override(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    manual = "loss.balance={kind: manual, weights: {b: 2}}"
    assert said(path, manual).startswith(f"'{manual}': loss.balance.weights names ['b']")
    assert said(path, "stages.0.steps=3").startswith("'stages.0.steps=3': 'stages.0': say how long")
    odd = write(tmp_path, GOOD.replace("size: 224", "size: 100"), "odd.yaml")
    assert said(odd).startswith("odd.yaml:9: stages.0.size: 100 is not a multiple"), (
        "the line that says it, not the first"
    )


def test_a_section_that_only_the_command_line_names_is_said_of_the_command_line(tmp_path: Path) -> None:
    assert said(write(tmp_path, GOOD), "optimizer.lr=0.1").startswith("'optimizer.lr=0.1': 'optimizer' is not a key.")


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("batch_size=64", "Here it is data.images_per_step"),
        ("data.batch_size=64", "Here it is data.images_per_step"),
        ("engine.precision=bf16", "Here it is engine.dtype: bf16."),
        ("amp=true", "Here it is engine.dtype: bf16."),
        ("engine.lr=1e-3", "Here it is stages[].lr.peak: 3e-4."),
        ("stages.0.learning_rate=1e-3", "Here it is stages[].lr.peak: 3e-4."),
        ("epochs=3", "Here it is stages[].epochs."),
        ("optimizer={name: adamw, lr: 1e-3}", "Here it is engine (weight_decay, betas, clip) and stages[].lr."),
        ("num_workers=8", "Here it is data.workers."),
        ("student.img_size=224", "Here it is stages[].size."),
        ("wandb=true", "Here it is track.wandb: {project: NAME}."),
        ("track.wandb=true", "it must be a mapping of keys. Such as track.wandb: {project: NAME}."),
    ],
)
def test_words_of_other_tools_are_answered_with_ours(tmp_path: Path, word: str, ours: str) -> None:
    assert ours in said(write(tmp_path, GOOD), word)


def test_what_other_tools_words_are_answered_with_are_keys_of_ours() -> None:
    schema = Recipe.model_json_schema(by_alias=True)
    known = set(schema["properties"]) | {key for part in schema["$defs"].values() for key in part.get("properties", {})}
    for word, ours in WORDS.items():
        for key in re.findall(r"[a-z_]+(?:\[\])?(?:\.[a-z_]+)+", ours):
            assert set(key.replace("[]", "").split(".")) <= known, f"{word}: {key}"


def test_another_kind_leaves_the_keys_of_the_old_one_behind(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, GOOD), ["loss.balance.kind=none"])
    assert recipe.loss.balance.kind == "none"


def test_extends_changes_only_what_it_says_and_errors_name_the_right_file(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "base.yaml")
    child = write(tmp_path, "extends: base.yaml\nout: runs/child\nloss: {balance: {kind: none}}\n", "child.yaml")
    recipe = load(child)
    assert (recipe.out, recipe.loss.balance.kind, recipe.student.arch) == ("runs/child", "none", "vit_base")
    broken = write(tmp_path, "extends: base.yaml\nstudent: {drop_path: 2}\n", "broken.yaml")
    assert said(broken) == "broken.yaml:2: 'student.drop_path' is '2'; it must be less than 1.0."
    grandchild = write(tmp_path, "extends: child.yaml\n", "grandchild.yaml")
    assert "extends nothing itself" in said(grandchild)


def test_the_schema_completes_keys() -> None:
    schema = Recipe.model_json_schema(by_alias=True)
    assert {"schema", "out", "teachers", "stages"} <= set(schema["properties"])


def test_dumped_recipes_are_plain_yaml(tmp_path: Path) -> None:
    assert yaml.safe_load(dump(load(write(tmp_path, GOOD))))["schema"] == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("stages.0.size=[224, 225]", "student.patch=14"),
         "stages.0.size: 225 is not a multiple of the student's patch, 14. The nearest sizes are 224 or 238."),
        (("projector={kind: ladder, blocks: [12]}",), "projector.blocks: there is no block 12; the student has 12"),
        (("loss.balance.kind=own_data",), "loss.balance.kind: own_data, and no data set names its teachers."),
        (("data.train=[{path: x, teachers: [b]}]",), "data.train: 'b' is not one of the teachers a."),
        (("loss.relation.kind=arkd", "teachers.a.tokens=[patches]"),
         "loss.relation is between summaries, and teachers.a.tokens names none."),
        (("loss.relation={kind: rkd, weight: 2}", "data.micro_batch=8"),
         "loss.relation is between all images of a step: data.micro_batch would cut them apart."),
        (("loss.relation={}", "data.images_per_step=2"), "data.images_per_step must be 3 or more"),
        (("teachers.a.mosaic=true", "teachers.a.tokens=[summary, patches]"),
         "teachers.a.mosaic: a canvas of several images has one summary for all of them."),
        (("teachers.a.mosaic=true", "teachers.a.resolution=native"),
         "teachers.a.mosaic shows images at the student's grid: leave out its resolution."),
        (("data.shift=0.5", "loss.balance.per=patch"), "data.shift: not all teachers see every patch then."),
        (("data.shift=0.5", "stages.0.size=[48, 224]"), "data.shift moves windows by a patch, and a grid of 3 a side"),
        (("data.shift=1.5",), "'data.shift' is '1.5'"),
        (("standardize.kind=file",), "kind 'file' needs a 'path'"),
        (("standardize={kind: frozen, freeze_after: soon}",), "freeze_after 'soon' is no duration: say '500 steps'"),
        (("stages.0.warmup=a bit",), "warmup 'a bit' is no duration: say '500 steps'"),
        (("loss={balance: {kind: manual, weights: {b: 1}}}",), "['b'], which are not among the teachers"),
        (("loss.balance.p=-0.1",), "'loss.balance.p' is '-0.1'; it must be at least 0"),
    ],
)  # fmt: skip
def test_sections_that_do_not_fit_each_other_are_refused_by_their_keys(
    tmp_path: Path, change: tuple[str, ...], text: str
) -> None:
    assert text in said(write(tmp_path, GOOD), *change)


def test_names_that_torch_has_already_are_those_of_torch() -> None:
    """In a process of its own: libraries that other tests import hang more names on torch's modules."""
    from unicscale.recipe.sections.names import RESERVED

    script = "from torch.nn import ModuleDict; print(*(n for n in dir(ModuleDict()) if not n.startswith('_')))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert len(said) > 40 and set(said) <= RESERVED


ODD = [
    ("teachers.keys={plugin: dino}", "'keys' names a teacher, and means something else in torch. Call it 'keys_1'"),
    ("teachers.training={plugin: dino}", "'training' names a teacher, and means something else in torch"),
    ("teachers._modules={plugin: dino}", "'_modules' names a teacher, and means something else in torch"),
    (
        f"teachers.{'a' * 5000}={{plugin: dino}}",
        "'aaaaaaaaaaaaaaaa...' names a teacher in 5,000 letters; 64 are the most",
    ),
    ("stages.0.epochs=.inf", "'stages.0.epochs' is 'inf'; it must be"),
    ("stages.0.epochs=1e300", "'stages.0.epochs' is '1e300'; it must be at most 1000000000000"),
    ("stages.0.warmup_epochs=.nan", "'stages.0.warmup_epochs' is 'nan'; it must be"),
    ("stages.0.warmup='1e999 epochs'", "warmup '1e999 epochs' is no duration"),
    ("stages.0={name: a, size: 224, steps: 1e300, lr: {peak: 1}}", "'stages.0.steps' is '1e300'; it must be"),
    ("stages.0={name: a, size: 224, steps: 99999999999999999999, lr: {peak: 1}}", "'stages.0.steps' is '9999999999"),
    (f"stages.0.name={'a' * 5000}", "it must be shorter: 64 letters at most"),
    ("stages.0.size=[]", "'stages.0.size' is an empty list; it must be at least one item"),
    ("stages.0.size=0", "'stages.0.size' is '0'; it must be at least 1"),
    ("stages.0.size=1000000", "'stages.0.size' is '1000000'; it must be at most 16384"),
    ("stages.0.lr.peak=.inf", "'stages.0.lr.peak' is 'inf'; it must be"),
    ("stages.²=1", "'stages' is a list and holds 0..0, not '²'"),
    ("engine.betas=[1, 1]", "'engine.betas.0' is '1'; it must be less than 1"),
    ("engine.weight_decay=1e300", "'engine.weight_decay' is '1e300'; it must be at most"),
    ("teachers.a.resolution=0", "'teachers.a.resolution' is '0'; it must be at least 1"),
    ("data.workers=1e22", "'data.workers' is '1e22'; it must be"),
    ("data.augment.blur_kernel=999", "'data.augment.blur_kernel' is '999'; it must be at most 255"),
    ("data.augment.scale=[1.e-300, .inf]", "'data.augment.scale.1' is 'inf'; it must be"),
    ("data.augment.scale=[0.5, 0.2]", "scale runs from 0.5 to 0.2: the smaller number comes first"),
    ("data.train=[{path: x, weight: 257}]", "'data.train.0.weight' is '257'; it must be at most 256"),
    ("out=2020-13-45", "month must be in 1..12. Text is written in quotes."),
    ("out=2020-12-12", "'out' is '2020-12-12'; it must be text"),
    ("out=!!bool x", "'x' is no bool. Text is written in quotes."),
    ("out=!!int ''", "'' is no int. Text is written in quotes."),
    ("out=[a]", "'out' is a list; it must be text"),
    ("out=", "'out' is empty; it must be text"),
    ("out='  '", "'out': it is empty. Say where the run goes: 'out: runs/NAME'"),
    (f"out={'a' * 300}", "is too long: 255 bytes for each part of a path"),
    (f"out={'a/' * 3000}", "is too long: 255 bytes for each part of a path, 4,000 for all of it"),
    ("student.options={depth: deep}", None),
]


@pytest.mark.parametrize(("change", "text"), ODD, ids=[change[:40] for change, _ in ODD])
def test_odd_values_are_refused_in_words(tmp_path: Path, change: str, text: str | None) -> None:
    if text is None:  # timm's to refuse
        load(write(tmp_path, GOOD), [change])
        return
    refused = said(write(tmp_path, GOOD), change)
    assert text in refused and len(refused) < 1500


def test_what_a_teacher_and_a_loss_may_say_of_tokens_reads_back_to_itself(tmp_path: Path) -> None:
    more = "plugin: dino, tokens: [patches], weight: {patches: 2}, loss: {patches: {mse: 1}}, resolution: [224, 256]"
    text = GOOD.replace("loss: {", "loss: {summary: {cosine: 1}, grid: larger, beta: 2.0, ")
    text = text.replace("plugin: dino", more)
    recipe = load(write(tmp_path, text + "standardize: {kind: phi_s, summary: none}\n"))
    assert load(write(tmp_path, dump(recipe), "again.yaml")) == recipe
    arguments = recipe.loss_arguments()
    assert arguments["own"] == {"a": {"patches": {"mse": 1.0}}}
    assert arguments["weights"] == {"a": {"summary": 1.0, "patches": 2.0}}
    assert (arguments["summary"], arguments["patches"], arguments["beta"]) == ({"cosine": 1.0}, None, 2.0)


def test_a_recipe_of_before_resolves_to_what_it_did(tmp_path: Path) -> None:
    new = ("summary", "patches", "beta", "grid", "tokens", "weight", "norm", "bias")
    resolved = dump(load(write(tmp_path, GOOD + "projector: {kind: mlp}\n")))
    assert not [key for key in new if f"{key}:" in resolved]
