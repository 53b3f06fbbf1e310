"""Real clusters in a scratch folder, for scripts/e2e and scripts/soak: real processes, a real sshd, real files."""

import json
import os
import pathlib
import pty
import random
import select
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
COORD = ROOT / ".build" / "release" / "coord"


class Failure(Exception):
    """Something that must hold did not."""


def check(condition, message):
    """Raises unless the condition holds."""
    if not condition:
        raise Failure(message)


def free_port():
    """A loopback port that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, condition, seconds=60.0):
    """Polls a condition of another process until it holds; what it returns."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise Failure(f"not within {seconds} s: {what}")


def end_cleanly():
    """From now on SIGTERM ends this program as Ctrl-C does: what its labs started ends with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"{pathlib.Path(sys.argv[0]).name}: ended by SIGTERM"))


def command_line(pid):
    """The command line of a process, its words ended by NUL; empty when it has ended meanwhile."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_alive(pid):
    """True while a process runs (a zombie does not)."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rsplit(")", 1)[1].split()[0] != "Z"


class Throttle:
    """While it lasts, a process runs for a part of the time: so many seconds on, so many off."""

    def __init__(self, pid, on=0.005, off=0.005):
        self.pid, self.on, self.off, self.over = pid, on, off, threading.Event()
        self.thread = threading.Thread(target=self._work)

    def _work(self):
        try:
            while not self.over.is_set():
                os.kill(self.pid, signal.SIGSTOP)
                self.over.wait(self.off)
                os.kill(self.pid, signal.SIGCONT)
                self.over.wait(self.on)
        except ProcessLookupError:
            pass  # it has ended

    def __enter__(self):
        self.thread.start()

    def __exit__(self, kind, value, trace):
        self.over.set()
        self.thread.join()


class Quota:
    """While it lasts, processes get a part of one processor and no more, in turns of 0.1 s: a cgroup of version 1 or 2."""

    def __init__(self, name, pids, part):
        first, second = pathlib.Path("/sys/fs/cgroup/cpu"), pathlib.Path("/sys/fs/cgroup")
        self.pids, self.group = pids, (first if first.is_dir() else second) / f"coord-{name}-{os.getpid()}"
        # The kernel gives out a thousandth of a second at the least.
        turn = max(100_000, int(1000 / part) + 1)
        try:
            self.group.mkdir()
            if self.group.parent == first:
                (self.group / "cpu.cfs_period_us").write_text(str(turn))
                (self.group / "cpu.cfs_quota_us").write_text(str(int(turn * part)))
            else:
                (self.group / "cpu.max").write_text(f"{int(turn * part)} {turn}")
        except OSError as error:
            if self.group.is_dir():
                self.group.rmdir()
            raise NotHere(f"no group of processors can be made ({error})") from error

    def __enter__(self):
        for pid in self.pids:
            (self.group / "cgroup.procs").write_text(str(pid))

    def __exit__(self, kind, value, trace):
        for pid in (self.group / "cgroup.procs").read_text().split():
            try:
                (self.group.parent / "cgroup.procs").write_text(pid)
            except OSError:
                pass  # it has ended
        wait_for("the group is empty", lambda: not (self.group / "cgroup.procs").read_text())
        self.group.rmdir()


class SickDisk:
    """While it lasts, what a process asks its disk to keep takes long (`delay`, seconds) or fails (`error`, as EIO), by strace."""

    CALLS = "fsync,fdatasync"

    def __init__(self, pid, log, delay=None, error=None):
        how = f"delay_enter={int(delay * 1e6)}" if error is None else f"error={error}"
        self.log = log
        self.command = ["strace", "-f", "-qq", "-p", str(pid), "-e", f"trace={self.CALLS}", "-e", f"inject={self.CALLS}:{how}"]

    def hits(self):
        """How many calls it hit so far."""
        return self.log.read_text().count("sync(")

    def __enter__(self):
        try:
            # Not to a file of its own: that it would fill by the block.
            with open(self.log, "w", encoding="utf-8") as log:
                self.tracer = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=log)
        except FileNotFoundError as error:
            raise NotHere("there is no strace") from error
        try:
            wait_for("the first call", lambda: self.tracer.poll() is not None or self.hits())
        except Failure:
            self.__exit__(None, None, None)
            raise
        if self.tracer.poll() is not None and not self.hits():
            raise NotHere(f"strace may not look at processes ({self.tracer.returncode}: {self.log.read_text().strip()})")
        return self

    def __exit__(self, kind, value, trace):
        self.tracer.terminate()
        try:
            self.tracer.wait(timeout=5)
        except subprocess.TimeoutExpired:
            # It waits for threads of a process that has ended, which wait for it.
            self.tracer.kill()
            self.tracer.wait()


class FailingDisk:
    """A small disk of its own at a folder, which is mounted to be read only once it fails, as the kernel does with a bad one."""

    def __init__(self, image, folder):
        self.image, self.folder = image, folder
        try:
            subprocess.run(["truncate", "-s", "200M", str(image)], check=True)
            subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
            self._mount()
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotHere(f"no small disk can be made ({error})") from error

    def _mount(self):
        subprocess.run(["mount", "-o", "loop,errors=remount-ro", str(self.image), str(self.folder)], check=True, capture_output=True)

    def fail(self):
        device = subprocess.run(
            ["findmnt", "-no", "SOURCE", str(self.folder)], check=True, capture_output=True, text=True).stdout.strip()
        pathlib.Path("/sys/fs/ext4", pathlib.Path(device).name, "trigger_fs_error").write_text("1")

    def mend(self):
        """Whoever uses it must have ended."""
        subprocess.run(["umount", str(self.folder)], check=True)
        subprocess.run(["fsck.ext4", "-fy", str(self.image)], check=False, capture_output=True)
        self._mount()

    def remove(self):
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


class NotHere(Exception):
    """Something that a part needs, and that this machine does not have or allow."""


class Sshd:
    """A private sshd on loopback, with keys of its own; ended by pid."""

    def __init__(self, folder, home=None):
        """`home`: a folder that logins take for their home; its authorized_keys count."""
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(mode=0o700)
        self.keys = pathlib.Path(home) / ".ssh" / "authorized_keys" if home else self.folder / "authorized_keys"
        self.keys.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.more = f"SetEnv HOME={home}" if home else ""
        self.port = free_port()
        self.process = None
        for name in ("host_key", "client_key", "other_key"):
            self._keygen(name)
        self.keys.write_text((self.folder / "client_key.pub").read_text())
        os.chmod(self.keys, 0o600)
        self.start()

    def _keygen(self, name):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)], check=True)

    def start(self):
        os.makedirs("/run/sshd", exist_ok=True)
        config = self.folder / "sshd_config"
        config.write_text(f"""
Port {self.port}
ListenAddress 127.0.0.1
HostKey {self.folder}/host_key
AuthorizedKeysFile {self.keys}
PidFile {self.folder}/sshd.pid
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin prohibit-password
AllowTcpForwarding no
{self.more}
""")
        log = open(self.folder / "sshd.log", "ab")
        self.process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], stderr=log, stdin=subprocess.DEVNULL)

        def listens():
            check(self.process.poll() is None, f"sshd ended: {(self.folder / 'sshd.log').read_text()}")
            return b"listening" in (self.folder / "sshd.log").read_bytes()

        wait_for("sshd listens", listens)

    def change_host_key(self):
        self.stop()
        for suffix in ("", ".pub"):
            os.replace(self.folder / f"other_key{suffix}", self.folder / f"host_key{suffix}")
        (self.folder / "sshd.log").write_text("")
        self.start()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)


class Lab:
    """A workspace of its own: cluster file, store, registry, agents in folders below it."""

    def __init__(self, name):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"coord-{name}-"))
        self.file = self.folder / "cluster.yaml"
        self.serve_port = free_port()
        self.environment = dict(os.environ, COORD_WORKERS=str(ROOT / "artifacts" / "workers"))
        self.sshd = None

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self.show_logs()
        if self.file.exists() and (self.folder / "artifacts").exists():
            self.coord("down", "-y", "--wipe", expect=None)
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        if self.sshd:
            self.sshd.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self):
        """Pids of everything that runs from this lab's folder."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.folder).encode() in command and int(entry.name) != os.getpid() and is_alive(int(entry.name)):
                    if b"sshd" not in command:
                        found.append(int(entry.name))
        return found

    def show_logs(self):
        if self.file.exists():
            print("--- events\n" + self.coord("events", expect=None).stdout)
        for log in sorted(self.folder.rglob("*.log")):
            text = log.read_text(errors="replace").strip()
            if text:
                print(f"--- {log.relative_to(self.folder)}\n" + "\n".join(text.splitlines()[-15:]))

    def host(self, name, workers, extra=""):
        """A host on this machine with an agent folder of its own."""
        return f"  {name}: {{ address: local, workers: {workers}, dir: {self.folder}/{name}{extra} }}\n"

    def ssh_host(self, name, workers, key="client_key", extra=""):
        """A host behind the private sshd."""
        if not self.sshd:
            self.sshd = Sshd(self.folder / "sshd")
        return (f"  {name}: {{ address: 127.0.0.1, port: {self.sshd.port}, identity: {self.sshd.folder}/{key}, "
                f"workers: {workers}, dir: {self.folder}/{name}{extra} }}\n")

    def write(self, hosts, run=None, deploy="", dataset="digits", name="cluster.yaml"):
        """Writes a cluster file; `run` replaces or adds keys of the run."""
        keys = {
            "name": "lab", "model": "{ type: mlp, hidden: [64] }", "epochs": "3", "batch": "64", "lanes": "4",
            "optimizer": "{ type: adamw, learning_rate: 0.002 }", "schedule": "{ type: cosine, warmup_steps: 5 }",
            "seed": "7",
        }
        keys.update(run or {})
        text = "cluster: lab\nhosts:\n" + hosts + f"dataset: {dataset}\nrun:\n"
        text += "".join(f"  {key}: {value}\n" for key, value in keys.items() if value is not None)
        text += f"serve: {{ listen: 127.0.0.1:{self.serve_port} }}\n" + deploy
        (self.folder / name).write_text(text)
        return self.folder / name

    def command(self, *arguments, file=None):
        """The command line of a coord command."""
        return [str(COORD), *map(str, arguments), "-f", str(file or self.file)]

    def start(self, *arguments):
        """Starts a coord command in the background."""
        return subprocess.Popen(
            self.command(*arguments), env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def coord(self, *arguments, expect=0, file=None, timeout=300):
        """Runs a coord command; its output. `expect` is the exit code that must come, None = any."""
        result = subprocess.run(
            self.command(*arguments, file=file), env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        if expect is not None:
            check(result.returncode == expect,
                  f"coord {' '.join(map(str, arguments))}: exit {result.returncode}, not {expect}\n{result.stdout}{result.stderr}")
        return result

    def at_terminal(self, arguments, question, answers, timeout=60):
        """Runs a coord command at a terminal of its own and answers each `question`; exit code and all that was shown."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(str(COORD), self.command(*arguments), self.environment)
        shown, answered, deadline = "", 0, time.monotonic() + timeout
        try:
            while True:
                check(time.monotonic() < deadline, f"not within {timeout} s: {shown}")
                if not select.select([terminal], [], [], 0.5)[0]:
                    continue
                try:
                    piece = os.read(terminal, 4096)
                except OSError:  # the other side has ended
                    piece = b""
                if not piece:
                    break
                shown += piece.decode(errors="replace")
                if shown.count(question) > answered and shown.rstrip(" ").endswith(":"):
                    check(answered < len(answers), f"asked once too often: {shown}")
                    os.write(terminal, (answers[answered] + "\n").encode())
                    answered += 1
        finally:
            os.close(terminal)
            status = os.waitpid(pid, 0)[1]
        return os.waitstatus_to_exitcode(status), shown

    def json(self, *arguments):
        """Runs a coord command with --json; its objects."""
        result = self.coord(*arguments, "--json")
        return [json.loads(line) for line in result.stdout.splitlines()]

    def noise(self, name, images):
        """A dataset of 28 x 28 images without sense, in ten classes: for what does not look at what is learned."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "made-images-idx3-ubyte").write_bytes(
            struct.pack(">4I", 0x803, images, 28, 28) + random.Random(1).randbytes(images * 784))
        (folder / "made-labels-idx1-ubyte").write_bytes(
            struct.pack(">2I", 0x801, images) + bytes(number % 10 for number in range(images)))
        self.coord("data", "add", name, folder)

    def digits(self):
        """Puts the digits into the store; the download is shared by all labs of one machine."""
        cache = pathlib.Path(tempfile.gettempdir()) / "coord-digits-cache"
        cache.mkdir(exist_ok=True)
        downloads = self.file.parent / "artifacts" / "downloads"
        downloads.mkdir(parents=True)
        if (cache / "digits.csv").exists():
            shutil.copy(cache / "digits.csv", downloads)
        self.coord("data", "get", "digits")
        shutil.copy(downloads / "digits.csv", cache)

    def lasting(self, hosts, run, seconds=5.0):
        """`run` with as many epochs as take about that long on this machine, so that what is done in the middle
        of it hits the training however fast the machine is."""
        self.write(hosts, {**run, "epochs": "4"})
        self.coord("up", "-y")
        first = self.run()
        per_epoch = first["step"] / first["epoch"] * 64 / first["samples_per_second"]
        return {**run, "epochs": str(max(6, round(seconds / per_epoch)))}

    def run(self):
        """The latest run."""
        return self.json("run", "show", "latest")[0]

    def events(self, kind):
        """The messages of one kind of the latest run's events, oldest first."""
        return [event["message"] for event in self.json("events", "--run", "latest") if event["kind"] == kind]

    def upheavals(self):
        """Generations of the latest run, without those that only moved lanes (a busy machine may ask for one at any
        time) or took in a trainer that was started again (a long run does, a short one ends before)."""
        generations = [text for text in self.events("membership") if text.startswith("generation ")]
        minor = ("lanes follow the measured speed", "late: the others compute them", " is back")
        return sum(not any(word in text for word in minor) for text in generations)

    def trainers(self):
        """Pids of the trainers."""
        return [pid for pid in self.processes() if b"\0train\0" in command_line(pid)]

    def agent(self, host):
        """The pid of a host's agent."""
        for pid in self.processes():
            command = command_line(pid)
            if b"\0agent\0" in command and f"{self.folder}/{host}/".encode() in command:
                return pid
        return None

    def coordinator(self):
        """The coordinator's pid."""
        for pid in self.processes():
            if b"\0coordinator\0" in command_line(pid):
                return pid
        return None

    def kill_coordinator(self):
        """kill -9 and its end: until then its socket still takes whoever comes."""
        pid = self.coordinator()
        if pid is None:
            raise ProcessLookupError("there is no coordinator to kill")
        process = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([process], [], [])
        os.close(process)


class Ledger:
    """What the coordinator of a lab wrote down of its latest run, read beside it.

    A `coord` command costs processor time that whoever measures would feel.
    """

    def __init__(self, lab):
        self.place = f"file:{lab.folder}/artifacts/registry.sqlite?mode=ro"

    def _rows(self, query):
        database = sqlite3.connect(self.place, uri=True, timeout=10)
        try:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query).fetchall()]
        finally:
            database.close()

    def run(self):
        """The latest run's row: id, state, steps, generations; None before the first."""
        rows = self._rows("SELECT id, state, steps, weights, (SELECT count(*) FROM generations WHERE run = runs.id) AS generations "
                          "FROM runs ORDER BY created DESC, id DESC LIMIT 1")
        return rows[0] if rows else None

    def _of_latest(self, columns, table, order):
        return self._rows(f"SELECT {columns} FROM {table} WHERE run = (SELECT id FROM runs ORDER BY created DESC, id DESC LIMIT 1) "
                          f"ORDER BY {order}")

    def steps(self):
        """Seconds of its steps by number."""
        return {row["step"]: row["seconds"] for row in self._of_latest("step, seconds", "step_metrics", "step")}

    def samples(self):
        """Samples of its steps by number."""
        return {row["step"]: row["samples"] for row in self._of_latest("step, samples", "step_metrics", "step")}

    def times(self):
        """When its steps were reported, in order; seconds since 1970, within a tenth of a second."""
        return [row["time"] for row in self._of_latest("time", "step_metrics", "step")]

    def epochs(self):
        """Its epochs' rows, in order: training and validation loss and accuracy."""
        return self._of_latest("epoch, step, train_loss, train_accuracy, val_loss, val_accuracy", "epoch_metrics", "epoch")

    def generations(self):
        """Its generations: number, time (seconds since 1970), reason."""
        return [tuple(row.values()) for row in self._of_latest("number, time, reason", "generations", "number")]
