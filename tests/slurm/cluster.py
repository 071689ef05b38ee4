"""A real Slurm on this machine: munged, slurmctld and two slurmd on loopback ports, all in one temporary folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
NODES = ("n1", "n2")

CONF = """
ClusterName=unicscale
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
SlurmUser={user}
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=requeue_delay=0
JobRequeue=1
ReturnToService=2
MpiDefault=none
KillWait=20
SlurmdTimeout=60
MinJobAge=3600
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why a Slurm cannot be started here, or None."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    lacking = [p for p in PROGRAMS if shutil.which(p, path=path) is None]
    if lacking:
        return f"{', '.join(lacking)} not found: apt-get install slurm-wlm munge"
    return "slurmd must be started by root" if os.geteuid() != 0 else None


class Cluster:
    """Two nodes of four CPUs each, whatever this machine has."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: a socket's path has 107 bytes
        self.folder.chmod(0o755)
        self.conf = self.folder / "slurm.conf"
        self.daemons: dict[str, subprocess.Popen] = {}
        self.env = os.environ | {"SLURM_CONF": str(self.conf), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}

    def start(self) -> None:
        """Returns when both nodes are idle."""
        for name in ("state", "spool-n1", "spool-n2", "munge"):
            (self.folder / name).mkdir()
        ports = [_free_port() for _ in range(1 + len(NODES))]
        host = socket.gethostname()
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000 State=UNKNOWN"
            for name, port in zip(NODES, ports[1:], strict=True)
        )
        self.conf.write_text(CONF.format(folder=self.folder, host=host, user="root", ctld_port=ports[0], nodes=nodes))
        self._start_munge()
        self._spawn("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        for name in NODES:
            self.start_node(name)
        deadline = time.monotonic() + 60
        while self.run("sinfo", "-h", "-o", "%T").strip() != "idle":
            if time.monotonic() > deadline:
                raise RuntimeError(f"Slurm did not come up in 60 s; its logs are in {self.folder}")
            time.sleep(0.3)

    def start_node(self, name: str) -> None:
        """One slurmd; called again after a test killed it."""
        self._spawn(name, "slurmd", "-D", "-N", name, "-f", str(self.conf))

    def run(self, *command: str) -> str:
        """Standard output of a Slurm command; empty where it failed."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60).stdout

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says, as a dictionary; empty when it is forgotten."""
        words = self.run("scontrol", "-o", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def seconds_since_start(self, number: str) -> float:
        """How long the job has been running, this time."""
        return time.time() - time.mktime(time.strptime(self.job(number)["StartTime"], "%Y-%m-%dT%H:%M:%S"))

    def stop(self) -> None:
        """End every job, then the daemons in the order that lets them say goodbye."""
        self.run("scancel", "--state=PENDING", "-u", "root")
        self.run("scancel", "--full", "--signal=KILL", "-u", "root")
        self.run("scancel", "-u", "root")
        time.sleep(1)
        for process in reversed(self.daemons.values()):
            process.terminate()
        for process in self.daemons.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        for path in (folder, key):
            shutil.chown(path, "munge", "munge")
        folder.chmod(0o711)
        options = [
            f"--{k}={folder}/{v}"
            for k, v in {
                "socket": "socket",
                "key-file": "key",
                "log-file": "log",
                "pid-file": "pid",
                "seed-file": "seed",
            }.items()
        ]
        self._spawn("munged", "munged", "--foreground", *options, user="munge")
        deadline = time.monotonic() + 20
        while not (folder / "socket").exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"munged did not start; its log is {folder}/log")
            time.sleep(0.1)

    def _spawn(self, name: str, *command: str, user: str | None = None) -> None:
        log = (self.folder / f"{name}.out").open("ab")
        self.daemons[name] = subprocess.Popen(
            command, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, user=user, start_new_session=True
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
