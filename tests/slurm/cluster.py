"""A real Slurm cluster of several nodes on one machine, for tests and for `make slurm-demo`; as root or not.

    with Cluster() as cluster:
        subprocess.run(["sinfo"])           # SLURM_CONF is set
        cluster.power_off("node2")

munge, MariaDB, slurmdbd, slurmctld and one slurmd per node run as children of this process, on free loopback ports,
and leave nothing behind. Each node has its own UTS, mount and PID namespace, and so its own host name and hosts file,
and when it is killed, all of its processes die. Its GPUs are device files such as /dev/null.
"""

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "srun", "unshare")
# Slurm accepts any device file as a GPU.
FAKE_GPUS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
START_SECONDS = 60.0
POLL_SECONDS = 0.25

# cred_expire: a requeued job waits until its old credential has expired, which takes two minutes by default.
# preempt_send_user_signal: a preempted job gets the signal of its --signal option at the start of the grace time.
SLURM_CONF = """\
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={root}/munge/socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=3600
MaxArraySize=20001
MaxJobCount=50000
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={database_port}
AccountingStoragePass={root}/munge/socket
AccountingStorageTRES=gres/gpu
PartitionName=main Nodes=ALL Default=YES MaxTime=1-0 PriorityTier=1 GraceTime=10
PartitionName=high Nodes=ALL MaxTime=1-0 PriorityTier=10 PreemptMode=OFF
"""

SLURMDBD_CONF = """\
AuthInfo=socket={root}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
CommunicationParameters=NoInAddrAny
DbdPort={database_port}
SlurmUser={user}
LogFile={root}/log/slurmdbd.log
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
"""


def missing_programs() -> list[str]:
    """The programs that must be installed before a cluster can start."""
    return [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]


class Cluster:
    """Four nodes of four CPUs and two GPUs, with a partition `main` and a partition `high` that preempts it."""

    def __init__(self, nodes: int = 4, cpus: int = 4, memory_mb: int = 4000, gpus: int = 2) -> None:
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self.cpus, self.memory_mb, self.gpus = cpus, memory_mb, gpus
        # Not below pytest's folder, because munged requires that others can access every parent of its socket.
        self.root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self._user = pwd.getpwuid(os.getuid()).pw_name
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._conf_before: str | None = None

    def __enter__(self) -> "Cluster":
        try:
            self._configure()
            self._start()
        except BaseException:
            self._stop()
            raise
        self._conf_before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(self.root / "slurm.conf")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.environ.pop("SLURM_CONF")
        if self._conf_before is not None:
            os.environ["SLURM_CONF"] = self._conf_before
        self._stop()

    def run(self, *command: str, check: bool = True) -> str:
        """Run a Slurm command and return its standard output.

        Raises:
            RuntimeError: the command failed, unless `check` is false.
        """
        done = subprocess.run(command, env=self._environment(), text=True, capture_output=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def node_state(self, node: str) -> str:
        """The state of a node: `idle`, `mixed`, `allocated`, `down` ..."""
        return self.node_states().get(node, "")

    def node_states(self) -> dict[str, str]:
        """The state of every node; empty while slurmctld does not answer."""
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T", check=False).splitlines()
        return dict(line.split() for line in lines)

    def power_off(self, node: str, tell: bool = False) -> None:
        """Kill every process on a node at once; unless `tell` is true, slurmctld takes about 26 s to notice."""
        self._kill(node)
        if tell:
            self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=power_off")

    def power_on(self) -> None:
        """Start the nodes that are off; each becomes idle once it has registered."""
        for node in set(self.nodes) - set(self._daemons):
            self._start_node(node)

    def restart_controller(self) -> None:
        """Stop slurmctld, which saves its state, and start it again."""
        self._kill("slurmctld", signal.SIGTERM)
        self._start_controller()

    def reset(self, timeout: float = 600.0) -> None:
        """Cancel every job and wait until all nodes are idle."""
        # When asked to cancel jobs that have ended, scancel retries for two minutes.
        if self.run("squeue", "--noheader").strip():
            for arguments in (["--state=PENDING"], ["--signal=KILL", "--full"], []):
                self.run("scancel", *arguments, "--user", self._user, check=False)
        self.power_on()
        try:
            wait_until(self._is_quiet, "the cluster does not become quiet", timeout)
        except TimeoutError as error:
            left = self.run("sinfo", "--Node", "--format=%N %T %E") + self.run("squeue", "--format=%i %j %T %r %N")
            raise TimeoutError(f"{error}:\n{left}") from None

    def _is_quiet(self) -> bool:
        states = self.node_states()
        for node in [node for node, state in states.items() if state.startswith("down")]:
            self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        return set(states.values()) == {"idle"} and not self.run("squeue", "--noheader").strip()

    def _environment(self) -> dict[str, str]:
        socket_path = str(self.root / "mariadb.socket")
        own = {"SLURM_CONF": str(self.root / "slurm.conf"), "MYSQL_UNIX_PORT": socket_path, "PATH": _search_path()}
        return {**os.environ, **own}

    def _configure(self) -> None:
        root = self.root
        root.chmod(0o755)
        for name in ("log", "state", "munge", "database", *(f"spool/{node}" for node in self.nodes)):
            (root / name).mkdir(parents=True)
        key = root / "munge/key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        controller_port, self._database_port, *node_ports = _free_ports(2 + len(self.nodes))
        values = {
            "root": root,
            "host": socket.gethostname(),
            "user": self._user,
            "controller_port": controller_port,
            "database_port": self._database_port,
        }
        machines = [
            f"NodeName={node} NodeHostname={values['host']} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={self.cpus} RealMemory={self.memory_mb} Gres=gpu:fake:{self.gpus}\n"
            for node, port in zip(self.nodes, node_ports, strict=True)
        ]
        (root / "slurm.conf").write_text(SLURM_CONF.format(**values) + "".join(machines))
        (root / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(**values))
        (root / "slurmdbd.conf").chmod(0o600)
        gpus = [f"Name=gpu Type=fake File={device}\n" for device in FAKE_GPUS[: self.gpus]]
        (root / "gres.conf").write_text("AutoDetect=off\n" + "".join(gpus))
        (root / "hosts").write_text(f"127.0.0.1 localhost {values['host']} {' '.join(self.nodes)}\n")

    def _start(self) -> None:
        root, munge = self.root, self.root / "munge"
        files = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        self._spawn("munged", "munged", "--foreground", "--force", *options)
        # With --skip-grant-tables an empty folder suffices as a database, and nothing here needs to survive a crash.
        self._spawn(
            "mariadbd", "mariadbd", "--no-defaults", "--skip-networking", "--skip-grant-tables",
            f"--datadir={root}/database", f"--socket={root}/mariadb.socket", f"--pid-file={root}/mariadb.pid",
            f"--user={self._user}", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--debug-no-sync",
        )  # fmt: skip
        self._await("munged", (munge / "socket").exists)
        self._await("mariadbd", lambda: _greets(root / "mariadb.socket"))
        self._spawn("slurmdbd", "slurmdbd", "-D")
        self._await("slurmdbd", lambda: _listens(self._database_port))
        self._start_controller()
        for node in self.nodes:
            self._start_node(node)
        self._await(self.nodes[-1], lambda: set(self.node_states().values()) == {"idle"})

    def _start_controller(self) -> None:
        self._spawn("slurmctld", "slurmctld", "-D", "-i")
        self._await("slurmctld", lambda: "is UP" in self.run("scontrol", "ping", check=False))

    def _start_node(self, node: str) -> None:
        uid, gid = os.getuid(), os.getgid()
        as_user = ["unshare", "--user", f"--map-user={uid}", f"--map-group={gid}"] if uid else []
        slurmd = " ".join([*as_user, "slurmd", "-D", "-N", node])
        # The shell stays as the node's init process, because a job ends only when its orphans have been reaped.
        self._spawn(
            node, "unshare", *(["--map-root-user"] if uid else []), "--uts", "--mount", "--propagation", "private",
            "--pid", "--fork", "--kill-child", "--mount-proc",
            "sh", "-c", f"hostname {node} && mount --bind {self.root}/hosts /etc/hosts && {slurmd} & wait $!",
        )  # fmt: skip

    def _spawn(self, name: str, *command: str) -> None:
        with open(self.root / "log" / f"{name}.out", "ab") as output:
            self._daemons[name] = subprocess.Popen(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def _await(self, name: str, condition: Callable[[], bool]) -> None:
        def ready() -> bool:
            assert self._daemons[name].poll() is None, f"{name} ended: {self._said(name)}"
            return condition()

        wait_until(ready, f"{name} does not start", START_SECONDS)

    def _said(self, name: str) -> str:
        return (self.root / "log" / f"{name}.out").read_text(errors="replace")[-2000:]

    def _kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        process = self._daemons.pop(name)
        os.killpg(process.pid, how)
        process.wait()

    def _stop(self) -> None:
        # Stop the nodes first: everything that runs on them dies with their namespaces.
        for name in [*self.nodes, "slurmctld", "slurmdbd", "mariadbd", "munged"]:
            if name in self._daemons:
                self._kill(name)
        shutil.rmtree(self.root, ignore_errors=True)


def _search_path() -> str:
    """PATH with sbin, where the daemons are and which a user's PATH may lack."""
    return f"{os.environ['PATH']}:/usr/sbin"


def _die_with_parent() -> None:
    set_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    """Unused ports outside the range from which the kernel assigns ports by itself."""
    sockets = []
    port = 11000 + os.getpid() % 8000
    while len(sockets) < count:
        port += 1
        candidate = socket.socket()
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            candidate.close()
        else:
            sockets.append(candidate)
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


def _greets(path: Path) -> bool:
    """Whether MariaDB sends its greeting, which it does once it is ready."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(str(path))
            return bool(connection.recv(1))
        except OSError:
            return False


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], complaint: str, timeout: float = 60.0) -> None:
    """Poll a condition until it is true.

    Raises:
        TimeoutError: the condition is still false after `timeout` seconds; `complaint` is the message.
    """
    deadline = time.monotonic() + timeout
    while True:
        # Read the clock before the condition, so that after a pause of the machine the condition is checked once more.
        late = time.monotonic() > deadline
        if condition():
            return
        if late:
            raise TimeoutError(complaint)
        time.sleep(POLL_SECONDS)
