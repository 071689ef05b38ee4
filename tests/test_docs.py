"""Every command in README.md and docs/ is one that works: run here, or its cheapest honest form is."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# what a test cannot do here (start two hours of work, write to a cluster), and what it does instead; the demo, the
# launchers and the sweeps have tests of their own that run them for real
INSTEAD = {
    r"make (demo|real|test|check|setup|docs|faults|bench)\b.*": "{match} -n",
    r"python benchmarks/\w+\.py .*": "{match} --help",
    r"python -m benchmarks\.real\b.*": "python -m benchmarks.real --cost",
    r"source .*": None,
    r"(export|cd) .*": None,
    r"pip install .*": None,
    r"(python launch/slurm\.py .*)": "{match} --print-sbatch --skip-checks",
    r"(python launch/local\.py .*|torchrun .*|srun .*)": "unicscale check recipes/unic_l.yaml",
    r"unicscale (init|train|evaluate|features|export|look|report|watch)\b.*": "unicscale {command} --help",
    r"unicscale (pack|demo|stop|logs)\b.*": "unicscale {command} --help",
    r"unicscale data show .*": "unicscale data --help",
    r"unicscale teachers (fetch|new|check|stats|compare)\b.*": "unicscale teachers {command} --help",
}


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in (re.sub(r"\s+#.*", "", line).strip() for line in lines) if line and line[0] != "#"]


def what_to_run(command: str) -> str | None:
    for pattern, instead in INSTEAD.items():
        match = re.fullmatch(pattern, command)
        if match:
            word = re.search(r"unicscale (?:teachers |data )?(\w+)", command)
            return instead and instead.format(match=match[0], command=word[1] if word else "")
    return command


CASES = sorted({(page.name, command) for page in PAGES for command in commands(page)})


@pytest.mark.parametrize(("page", "command"), CASES, ids=[f"{p}: {c}" for p, c in CASES])
def test_a_documented_command_works(page: str, command: str) -> None:
    chosen = what_to_run(command)
    if chosen is None:
        return
    words = shlex.split(chosen)
    if words[0] == "unicscale":
        words = [sys.executable, "-m", *words]
    elif words[0] == "python":
        words[0] = sys.executable
    environment = os.environ | {"IMAGENET": "/data/imagenet", "COLUMNS": "80"}
    ran = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, env=environment, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_file_that_the_readme_names_is_there() -> None:
    text = (REPOSITORY / "README.md").read_text()
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
        assert (REPOSITORY / link).exists(), link
    for name in re.findall(r"`((?:unicscale|teachers|launch|recipes|docs|benchmarks)/[\w./-]*)`", text):
        assert (REPOSITORY / name).exists(), name


def test_the_page_of_floors_is_that_of_the_code() -> None:
    from benchmarks.architecture import PAGE, page

    assert PAGE.read_text() == page(), "run `python benchmarks/architecture.py`"


def test_the_walks_of_the_page_are_those_of_the_data_and_name_tests_that_are_there() -> None:
    kept = json.loads((REPOSITORY / "benchmarks" / "results" / "walks.json").read_text())
    page = (REPOSITORY / "docs" / "measured.md").read_text()
    for task, found in kept["tasks"].items():
        assert f"| {task} | {found['before']} | {found['met']} | {found['remains'] or '-'} |" in page
        assert found["met"] == len(found["mended"])
    assert len(kept["points"]) == 25
    assert not [one for one in kept["points"] if not (REPOSITORY / "tests" / one["held_by"]).exists()]
