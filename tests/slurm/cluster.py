"""A real SLURM of two virtual nodes with two GPUs each, on this machine alone, without root's files being touched.

The GPUs are device files that do nothing. Everything lies in one folder and is stopped by pid. With accounting
there are slurmdbd and a MariaDB, too, and sacct answers.
"""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
from processes import wait_for

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
ACCOUNTING = ("slurmdbd", "sacct", "mariadbd", "mariadb-install-db")
SECONDS = 60

_SLURM = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/munge/munge.sock,cred_expire=5
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd.%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_continue
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize=6
KillWait=10
SlurmdTimeout=10
SlurmctldTimeout=10
MinJobAge=300
GresTypes=gpu
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=4 RealMemory=8000 Gres=gpu:2
PartitionName=gpu Nodes=n[1-2] Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=10 State=UP
PartitionName=high Nodes=n[1-2] MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
"""

# Preempted jobs get SIGUSR2 instead of SIGTERM.
_USER_SIGNAL = """\
SlurmctldParameters=preempt_send_user_signal
"""

# Without cgroups: what a job's processes hold is added up every second, and a job that holds more than it asked for is
# killed.
MEMORY_LIMITS = """\
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
"""

_ACCOUNTED = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16819
AccountingStoragePass={base}/munge/munge.sock
"""

_SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={base}/munge/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
PidFile={base}/run/slurmdbd.pid
LogFile={base}/log/slurmdbd.log
"""


def missing(accounting: bool = False) -> str | None:
    """Why no cluster, or none with accounting, can be started here, or None."""
    needed = (*DAEMONS, *ACCOUNTING) if accounting else DAEMONS
    absent = [name for name in needed if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]
    if absent:
        return f"SLURM is not installed: no {', '.join(absent)}"
    return None if os.geteuid() == 0 else "starting SLURM's daemons needs root"


class Cluster:
    """A started cluster; commands find it by SLURM_CONF in ``environment``.

    Args:
        more: lines of slurm.conf, such as MEMORY_LIMITS.
        user_signal: whether preempted jobs get SIGUSR2; SIGTERM is what SLURM sends by default.
    """

    def __init__(self, base: Path, accounting: bool = False, more: str = "", user_signal: bool = True) -> None:
        self.base, self._accounting, self._more = base, accounting, more
        self._user_signal = user_signal
        self.environment = {**os.environ, "SLURM_CONF": str(base / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for name in ("munge", "state", "spool/n1", "spool/n2", "run", "log", "dev"):
            (self.base / name).mkdir(parents=True)
        os.chmod(self.base / "munge", 0o711)  # munged refuses others
        host = socket.gethostname().split(".")[0]
        text = (
            _SLURM + (_USER_SIGNAL if self._user_signal else "") + (_ACCOUNTED if self._accounting else "") + self._more
        )
        (self.base / "slurm.conf").write_text(text.format(host=host, base=self.base))
        for number in (0, 1):
            subprocess.run(["mknod", "-m", "666", self.base / "dev" / f"gpu{number}", "c", "1", "3"], check=True)
        (self.base / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={self.base}/dev/gpu[0-1]\n")
        key = self.base / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"socket": "munge.sock", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "seed"}
        words = [f"--{name}={self.base}/munge/{file}" for name, file in files.items()]
        self._start("munged", "-F", f"--key-file={key}", *words)
        wait_for(lambda: (self.base / "munge" / "munge.sock").exists())
        if self._accounting:
            self._account(host)
        configuration = str(self.base / "slurm.conf")
        self._start("slurmctld", "-D", "-c", "-f", configuration)
        for node in ("n1", "n2"):
            self._nodes[node] = self._start("slurmd", "-D", "-f", configuration, "-N", node)
        wait_for(lambda: self.ask("sinfo", "-h", "-o", "%D %t").split() == ["2", "idle"])

    def _account(self, host: str) -> None:
        """MariaDB, which nothing but a socket leads to, and slurmdbd."""
        data, socket_ = self.base / "mariadb", self.base / "mariadb.sock"
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db",
             "--auth-root-authentication-method=normal"],
            check=True, capture_output=True, timeout=SECONDS,
        )  # fmt: skip
        words = [f"--datadir={data}", f"--socket={socket_}", f"--pid-file={self.base}/run/mariadbd.pid"]
        self._start("mariadbd", "--no-defaults", "--user=root", "--skip-networking", *words)
        wait_for(socket_.exists)
        configuration = self.base / "slurmdbd.conf"
        configuration.write_text(_SLURMDBD.format(host=host, base=self.base))
        configuration.chmod(0o600)
        self.environment["MYSQL_UNIX_PORT"] = str(socket_)
        self._start("slurmdbd", "-D")  # reads slurmdbd.conf beside SLURM_CONF
        wait_for(lambda: bool(self.ask("sacctmgr", "-n", "list", "tres")))

    def ask(self, *command: str) -> str:
        """What a SLURM command says; empty while nobody answers."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def states(self) -> dict[str, str]:
        """The state of every job, by id, each task of an array by itself."""
        lines = self.ask("squeue", "-h", "-r", "--states=all", "-o", "%i|%T").splitlines()
        return dict(line.strip().split("|") for line in lines)

    def log(self, lines: int = 60) -> str:
        """The controller's last words."""
        return "\n".join((self.base / "log" / "slurmctld.log").read_text(errors="replace").splitlines()[-lines:])

    def lose(self, node: str, job: str) -> None:
        """A node dies: its daemon, and everything of ``job``, which runs there."""
        self._nodes.pop(node).kill()
        raw = next(
            word.removeprefix("JobId=") for word in self.ask("scontrol", "show", "job", job).split() if "JobId=" in word
        )
        for process in psutil.process_iter(["cmdline", "environ"]):
            with contextlib.suppress(psutil.Error):
                stepd = f"slurmstepd: [{raw}." in " ".join(process.info["cmdline"] or [])
                if stepd or (process.info["environ"] or {}).get("SLURM_JOB_ID") == raw:
                    process.kill()

    def stop(self) -> None:
        self.ask("scancel", "--me")
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not self.ask("squeue", "-h"), 15)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()  # a slurmd that registers with a dead controller takes no notice of SIGTERM
                daemon.wait()

    def _start(self, name: str, *words: str) -> "subprocess.Popen[bytes]":
        path = shutil.which(name) or f"/usr/sbin/{name}"
        with open(self.base / "log" / f"{name}.out", "ab") as log:
            daemon = subprocess.Popen(
                [path, *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._daemons.append(daemon)
        return daemon


@contextlib.contextmanager
def started(base: Path, accounting: bool = False, more: str = "", user_signal: bool = True) -> Iterator[Cluster]:
    cluster = Cluster(base, accounting, more, user_signal)
    try:
        cluster.start()
        yield cluster
    finally:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # shown where the test has failed
            print(f"jobs at the end: {cluster.states()}\n{cluster.log()}")
        cluster.stop()
