"""A real Slurm with one node on this machine, and Slurm's commands as they answer when something is wrong.

python tests/support/slurm.py       installs Debian's packages of it, if this is root on such a machine
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=8000 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=120 State=UP
PartitionName=other Nodes={host} MaxTime=120 State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here, or None."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = [name for name in NEEDED if shutil.which(name, path=path) is None]
    return f"no {', '.join(lacking)} on this machine: python tests/support/slurm.py" if lacking else None


def install() -> str | None:
    """Install the packages where that is possible; returns why it is not, or None."""
    if missing() is None:
        return None
    if os.geteuid() or shutil.which("apt-get") is None:
        return (
            "Slurm's tests need slurm-wlm and munge, and this is not root on a machine with apt-get: they are skipped"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
        subprocess.run(["apt-get", "-qq", *words], env=environment, stdout=subprocess.DEVNULL, check=False)
    return missing()


@contextmanager
def running(folder: Path) -> Iterator[Path]:
    """A Slurm whose files lie in ``folder``; gives its slurm.conf, for ``SLURM_CONF``."""
    for part in ("state", "spool"):
        (folder / part).mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    cores = len(os.sched_getaffinity(0))
    conf.write_text(_CONF.format(host=host, folder=folder, user=user, cores=cores, ports=_free_ports(2)))
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    environment = {**os.environ, "SLURM_CONF": str(conf), "PATH": path}
    commands = (
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
         f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf), "-N", host],
    )  # fmt: skip
    started: list[subprocess.Popen[bytes]] = []
    try:
        for words in commands:
            log = (folder / f"{words[0]}.out").open("wb")
            started.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
            log.close()
            time.sleep(1.0)
        _wait_for_the_node(environment, folder)
        yield conf
    finally:
        subprocess.run(["scancel", "--user", user], env=environment, capture_output=True, check=False)
        for process in reversed(started):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_the_node(environment: dict[str, str], folder: Path) -> None:
    for _ in range(120):
        found = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False
        )
        if "idle" in found.stdout:
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.log")))
    raise RuntimeError(f"Slurm's node did not come up: {found.stderr}\n{logs}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Commands:
    """Stand-ins for Slurm's commands in a folder, which must be alone on PATH: they only say what they are told to.

    They are for the answers that a healthy Slurm does not give: refusals, silence, ends of tasks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.says("sbatch", "7")
        self.says("squeue")
        self.says("scancel")
        self.says("sinfo", "cpu\ngpu")

    def says(self, name: str, out: str = "", *, err: str = "", status: int = 0) -> None:
        """Let a command print this and end so; it notes its arguments in NAME.called."""
        for stream, text in (("out", out), ("err", err)):
            (self.folder / f"{name}.{stream}").write_text(text)
        script = self.folder / name
        script.write_text(
            f'#!/bin/sh\n/usr/bin/env > "{script}.env"\necho "$@" >> "{script}.called"\n'
            f'/bin/cat "{script}.out"\n/bin/cat "{script}.err" >&2\nexit {status}\n'
        )
        script.chmod(0o755)

    def hangs(self, name: str) -> None:
        """Let a command give no answer."""
        (self.folder / name).write_text("#!/bin/sh\nexec /bin/sleep 60\n")

    def lacks(self, name: str) -> None:
        """Take a command away."""
        (self.folder / name).unlink()

    def called(self, name: str) -> list[str]:
        """What a command was called with, call by call."""
        notes = self.folder / f"{name}.called"
        return notes.read_text().splitlines() if notes.exists() else []


if __name__ == "__main__":
    sys.stdout.write(f"{install() or 'Slurm is there'}\n")
