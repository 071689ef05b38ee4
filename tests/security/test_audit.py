"""`make audit`: fails for a known vulnerability, and for nothing else; where nobody answers it says so."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.kit import places

ANSWERS = {
    "a vulnerability": ("echo 'Found 1 known vulnerability in 1 package' >&2; exit 1", 1, "Found 1 known"),
    "none": ("exit 0", 0, "none with a known vulnerability"),
    "no network": ("echo 'ConnectionError: nobody' >&2; exit 1", 0, "got no answer, so the dependencies"),
    "no program": ("", 0, "no pip-audit here"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_the_audit(case: str, tmp_path: Path) -> None:
    script, code, said = ANSWERS[case]
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "audit").write_text((places.REPOSITORY / ".ci" / "audit").read_text())
    (tmp_path / "constraints.txt").write_text("a==1\n")
    (tmp_path / "bin").mkdir()
    if script:
        (tmp_path / "bin" / "pip-audit").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "pip-audit").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    ran = subprocess.run(
        ["bash", ".ci/audit"], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert (ran.returncode, said in ran.stderr) == (code, True), ran.stderr
