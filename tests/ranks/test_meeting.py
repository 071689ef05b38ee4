"""Ranks that do not find each other say where they wait, and why they gave up."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from unicscale.errors import RankLost
from unicscale.ranks.meeting import meeting

ALONE = """
import sys
from datetime import timedelta
import torch.distributed as dist
from unicscale.errors import UserError
from unicscale.ranks.meeting import meeting
try:
    with meeting(1, 2, quiet=0.5):
        dist.init_process_group("gloo", timeout=timedelta(seconds=2), rank=1, world_size=2)
except UserError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_rank_whose_peer_never_comes_says_where_it_waits_and_leaves_with_6() -> None:
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    command = [sys.executable, "-c", ALONE]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=200)
    assert ran.returncode == 6, ran.stderr
    assert "rank 1 waits for all 2 ranks at 127.0.0.1:9, which is where rank 0 listens" in ran.stderr
    assert ran.stdout.startswith("rank 1: the 2 ranks did not meet at 127.0.0.1:9: ")
    assert "$MASTER_ADDR and $MASTER_PORT name it" in ran.stdout


def test_nothing_is_said_where_all_come_in_time(capfd: pytest.CaptureFixture[str]) -> None:
    with meeting(0, 2, quiet=0.2):
        pass
    time.sleep(0.4)
    assert capfd.readouterr().err == ""
    with pytest.raises(RankLost, match=r"rank 0: the 2 ranks did not meet at .*: no route"), meeting(0, 2):
        raise OSError("no route")
