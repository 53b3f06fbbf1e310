"""A network of machines in namespaces, for tests that need more than loopback.

    with NetLab("mytest") as lab:                      # ends everything at the end, whatever happens
        a = lab.add_host("a")                          # sshd on port 22, users root and coord-lab
        b = lab.add_host("b", port=2222, user="root", quota="300m")
        c = lab.add_host("c", nat=True)                # from outside only lab.home reaches its sshd, nothing else
        d = lab.add_host("d", behind=a)                # only `a` reaches it, and it reaches only `a`
        p = lab.add_pod("pod")                         # root, a high port, /workspace; p.reset() changes port and key
        lab.trust(a, b, c)                             # pins host keys, as `ssh-keyscan` and a person would
        lab.write(lab.entry(a, workers=1) + lab.entry(b), run={"epochs": "2"})
        lab.coord("up", "-y")                          # coord runs in the namespace of `lab.home`; as clusterlab.Lab
        a.cable(delay=0.025, rate=25e6, loss=0.01)     # both directions of a's cable; seconds, bytes a second, chances
        lab.home.up(cut=True)                          # only what home sends is lost
        lab.way(a, b, cut=True)                        # only from a to b
        lab.part(a, b)                                 # neither reaches the other; lab.join(a, b) ends it
        a.run("ps ax")                                 # a command in there, as its user or as=...
        a.tcp_server()                                 # Python sockets that live in there: a.socket(), a.network()
        a.processes(); a.path("~/x")                   # what runs there, where its files lie for us

Hosts are namespaces without names (network, mount, process, IPC, host name), each with sshd, homes on a file system of
limited size, and /tmp, /run, /var and /dev/shm of their own; /usr and /etc are this machine's, read-only. All are on one network,
10.77.0.0/16 and fd77::/64, by names in /etc/hosts; `home`, where coord runs, is 10.77.0.1. Every packet passes
through link.c, which says what a cable can do to it. Nothing reaches another network, and everything is gone when this process
is, even when it was killed: each first process reads from a pipe of ours until it ends.

Needs root, network namespaces and /dev/net/tun; `unavailable()` says what is missing. The MTU is 1500 unless told
otherwise: 60000 costs a fortieth of the work a byte and is what throughput wants.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from clusterlab import COORD, ROOT, Failure, Lab, check, is_alive, wait_for  # noqa: E402, F401

BUILD = ROOT / ".build" / "netlab"
SOURCE = pathlib.Path(__file__).resolve().parent
LAB_USER = "coord-lab"
LAB_ID = 7700
CLONE_NEWNET = 0x40000000


def unavailable():
    """Why netlab cannot run here; None when it can."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    for program, package in (("ip", "iproute2"), ("sshd", "openssh-server"), ("ssh-keygen", "openssh-client")):
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"):
            return f"needs {program} (package {package})"
    if not (shutil.which("clang") or shutil.which("cc")):
        return "needs a C compiler"
    if subprocess.run(["unshare", "-n", "-m", "-p", "-i", "-u", "-f", "true"], capture_output=True, check=False).returncode:
        return "needs to make namespaces (unshare was refused)"
    return None


def build(name):
    """Compiles one of our C programs when its source is newer; its path."""
    source, program = SOURCE / f"{name}.c", BUILD / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        compiler = shutil.which("clang") or "cc"
        fresh = BUILD / f".{name}.{os.getpid()}"
        subprocess.run([compiler, "-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", str(fresh), str(source)], check=True)
        os.replace(fresh, program)
    return program


class Link:
    """The running emulator."""

    def __init__(self, seed, mtu, log):
        self.process = subprocess.Popen(
            [str(build("link")), str(seed), str(mtu)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self.lock = threading.Lock()

    def tell(self, *words):
        """Sends a command; what follows the `ok`."""
        with self.lock:
            check(self.process.poll() is None, f"the link emulator ended with {self.process.returncode}")
            self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
            self.process.stdin.flush()
            answer = self.process.stdout.readline().decode().strip()
        check(answer.startswith("ok"), f"link: {' '.join(map(str, words))}: {answer}")
        return answer[2:].strip()

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def rule(delay=None, jitter=None, reorder_by=None, cut=None, **others):
    """The words of a rule. Times in seconds; `rate` in bytes a second (0 = none) with `queue` bytes that may wait, by
    default 100 ms of it; `loss`, `corrupt`, `forge`, `reorder` are chances; `corrupt` flips bits that TCP's checksum catches,
    `forge` flips bits and mends the checksum."""
    words = [f"{key}={value}" for key, value in others.items() if value is not None]
    for key, value in (("delay_us", delay), ("jitter_us", jitter), ("reorder_us", reorder_by)):
        if value is not None:
            words.append(f"{key}={value * 1e6:.3f}")
    if others.get("rate") and "queue" not in others:
        words.append(f"queue={max(others['rate'] * 0.1, 131072):.0f}")
    if others.get("reorder") and reorder_by is None:
        words.append("reorder_us=2000")
    if cut is not None:
        words.append(f"cut={int(cut)}")
    return words


class Node:
    """A set of namespaces on the network."""

    def __init__(self, lab, name, script):
        self.lab = lab
        self.name = name
        self.folder = lab.folder / "hosts" / name
        self.number = len(lab.nodes)
        self.address = f"10.77.{(self.number + 1) >> 8}.{(self.number + 1) & 255}"
        self.address6 = f"fd77::{self.number + 1:x}"
        (self.folder / "setup.sh").write_text(script)
        self.first = subprocess.Popen(
            [str(build("host")), "init", name, str(self.folder / "setup.sh")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = int(self.first.stdout.readline() or 0)
        check(self.first.stdout.readline() == b"ready\n", f"the namespaces of {name} were not made")
        self.behind = None
        self.namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        check(int(lab.link.tell("attach", self.pid, self.address, self.address6)) == self.number, "link counts otherwise")
        self.execute("sh", "-ec", f"""
echo 1 > /proc/sys/net/ipv6/conf/net0/addr_gen_mode
echo 0 > /proc/sys/net/ipv6/conf/net0/router_solicitations
ip link set lo up
ip link set net0 up mtu {lab.mtu}
ip addr add {self.address}/16 dev net0
ip -6 addr add {self.address6}/64 dev net0 nodad""")

    # The cable

    def cable(self, **keys):
        """Sets keys of both directions of this host's cable; see `rule`."""
        self.up(**keys)
        self.down(**keys)

    def up(self, **keys):
        """Sets keys of what this host sends."""
        self.lab.link.tell("cable", self.number, "up", *rule(**keys))

    def down(self, **keys):
        """Sets keys of what this host receives."""
        self.lab.link.tell("cable", self.number, "down", *rule(**keys))

    # Inside

    def argv(self, *command):
        """The command line that runs a command in these namespaces."""
        return [str(BUILD / "host"), "enter", str(self.pid), os.getcwd(), *map(str, command)]

    def execute(self, *command, expect=0, **options):
        """Runs a program in there, as root; its result."""
        options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": 120, **options}
        result = subprocess.run(self.argv(*command), check=False, **options)
        if expect is not None:
            check(result.returncode == expect,
                  f"{self.name}: {shlex.join(map(str, command))}: exit {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    @contextlib.contextmanager
    def network(self):
        """Lets this thread make sockets in there: they stay there, wherever they are used."""
        libc = ctypes.CDLL(None, use_errno=True)
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            check(libc.setns(there, CLONE_NEWNET) == 0, f"setns: {os.strerror(ctypes.get_errno())}")
            yield
        finally:
            check(libc.setns(here, CLONE_NEWNET) == 0, f"setns: {os.strerror(ctypes.get_errno())}")
            os.close(here)
            os.close(there)

    def socket(self, kind=socket.SOCK_STREAM, family=socket.AF_INET):
        """A socket in this host's network."""
        with self.network():
            return socket.socket(family, kind)

    def tcp_server(self, port=0, backlog=16):
        """A listening socket in this host's network."""
        listener = self.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.address, port))
        listener.listen(backlog)
        return listener

    def dial(self, other, port, timeout=5.0):
        """A TCP connection from here to another host."""
        connection = self.socket()
        connection.settimeout(timeout)
        try:
            connection.connect((getattr(other, "address", other), port))
        except OSError:
            connection.close()
            raise
        return connection

    def reaches(self, other, port, timeout=1.0):
        """True when a TCP connection comes about."""
        try:
            self.dial(other, port, timeout).close()
        except OSError:
            return False
        return True

    def processes(self):
        """What runs in there: pid as we see it → command line; the lab's own first process is left out."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.pid:
                try:
                    state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
                    if state != "Z" and os.readlink(entry / "ns/pid") == self.namespace:
                        found[int(entry.name)] = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
        return found

    def path(self, path="/"):
        """Where a path in there lies for us; `~/` is its user's home."""
        if str(path).startswith("~/"):
            path = f"{self.home_folder}/{str(path)[2:]}"
        return pathlib.Path(f"/proc/{self.pid}/root{path}")

    def close(self):
        """Ends all that runs in there."""
        self.first.stdin.close()
        self.first.wait(20)
        self.first.stdout.close()


class Home(Node):
    """Where coord runs: this machine's files, a network and an /etc/hosts of its own, and its own ~/.ssh."""

    def __init__(self, lab):
        self.home_folder = str(lab.folder / "home")
        os.makedirs(f"{self.home_folder}/.ssh", mode=0o700)
        etc = lab.folder / "hosts" / "home" / "etc"
        etc.mkdir(parents=True)
        shutil.copy("/etc/hosts", etc / "hosts")
        # OpenSSH's client looks for ~/.ssh in the home of the password file, whatever HOME says.
        text = pathlib.Path("/etc/passwd").read_text().splitlines()
        root = pwd.getpwuid(0)
        text = [line.replace(f":{root.pw_dir}:", f":{self.home_folder}:") if line.startswith("root:") else line for line in text]
        (etc / "passwd").write_text("\n".join(text) + "\n")
        super().__init__(lab, "home", f"mount --bind {etc}/hosts /etc/hosts\nmount --bind {etc}/passwd /etc/passwd")


class Host(Node):
    """A machine with sshd. `user` is who the cluster file logs in as: coord-lab or root."""

    def __init__(self, lab, name, user=LAB_USER, port=22, quota="400m", shell="/bin/bash", sshd="", folders=()):
        self.user = user
        self.port = port
        self.home_folder = "/root" if user == "root" else f"/home/{LAB_USER}"
        self.sshd_lines = sshd
        self.sshd = None
        folder = lab.folder / "hosts" / name
        etc = folder / "etc"
        (etc / "ssh").mkdir(parents=True)
        self._files(etc, name, shell)
        # A root of its own: the machine's programs, read-only, and nothing else of it.
        script = f"""
root={folder}/root
mkdir $root
mount -t tmpfs -o mode=755,size=16m tmpfs $root
cd $root
for entry in /bin /lib /lib32 /lib64 /libx32 /sbin /usr /etc; do
    if [ -L $entry ]; then cp -P $entry .$entry
    elif [ -d $entry ]; then mkdir .$entry; mount --bind $entry .$entry; mount -o remount,bind,ro .$entry
    fi
done
for file in hosts passwd group hostname ssh; do mount --bind {etc}/$file etc/$file; done
mkdir dev proc sys run var home root tmp old run/sshd var/empty var/log var/tmp {" ".join(folders)}
ln -s /run var/run
chmod 1777 var/tmp
mount --rbind /dev dev
mount -t tmpfs -o mode=1777,size=256m tmpfs dev/shm
mount --rbind /sys sys
mount --bind /proc proc
mount -t tmpfs -o mode=1777,size=64m tmpfs tmp
for place in root home {" ".join(folders)}; do mount -t tmpfs -o mode=755,size={quota} tmpfs $place; done
for home in root home/{LAB_USER}; do
    mkdir -p -m 700 $home
    mkdir -m 700 $home/.ssh
    cp {lab.key}.pub $home/.ssh/authorized_keys
done
chown -R {LAB_ID}:{LAB_ID} home/{LAB_USER}
pivot_root . old
cd /
umount -l /old
rmdir /old
"""
        super().__init__(lab, name, script)
        self.new_key()
        self.start_sshd()

    def _files(self, etc, name, shell):
        for file in ("passwd", "group"):
            lines = [line for line in pathlib.Path(f"/etc/{file}").read_text().splitlines() if not line.startswith(LAB_USER)]
            if file == "passwd":
                root = pwd.getpwuid(0)
                lines = [f"root:*:0:0:root:/root:{shell}" if line.startswith("root:") else line for line in lines]
                lines.append(f"{LAB_USER}:*:{LAB_ID}:{LAB_ID}:netlab:/home/{LAB_USER}:{shell}")
                check(root.pw_uid == 0, "no root in /etc/passwd")
            else:
                lines.append(f"{LAB_USER}:x:{LAB_ID}:")
            (etc / file).write_text("\n".join(lines) + "\n")
        (etc / "hostname").write_text(name + "\n")
        shutil.copy("/etc/hosts", etc / "hosts")

    # sshd

    @property
    def login(self):
        return f"{self.user}@{self.address}"

    def new_key(self):
        """Gives the host another host key."""
        for old in (self.folder / "etc/ssh").glob("ssh_host_*"):
            old.unlink()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f",
                        str(self.folder / "etc/ssh/ssh_host_ed25519_key")], check=True)

    def public_key(self):
        """Kind and base64 of its host key."""
        return " ".join((self.folder / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])

    def fingerprint(self):
        """`SHA256:…` of its host key."""
        return subprocess.run(["ssh-keygen", "-lf", str(self.folder / "etc/ssh/ssh_host_ed25519_key.pub")],
                              capture_output=True, text=True, check=True).stdout.split()[1]

    def start_sshd(self, lines=None):
        """Starts sshd; `lines` replace its further configuration."""
        self.sshd_lines = self.sshd_lines if lines is None else lines
        (self.folder / "etc/ssh/sshd_config").write_text(f"""{self.sshd_lines}
Port {self.port}
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin prohibit-password
PrintMotd no
Subsystem sftp internal-sftp
""")
        log = self.folder / "sshd.log"
        log.write_bytes(b"")
        with open(log, "ab") as target:
            # Its own process group and no environment of ours, as a service has it.
            self.sshd = subprocess.Popen(
                self.argv("/usr/bin/env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                          "/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/sshd_config"),
                stdin=subprocess.DEVNULL, stdout=target, stderr=target)

        def listens():
            check(self.sshd.poll() is None, f"sshd of {self.name} ended: {log.read_text()}")
            return log.read_bytes().count(b"listening")

        wait_for(f"sshd of {self.name} listens", listens)

    def stop_sshd(self):
        """Ends sshd; sessions that are open stay."""
        if self.sshd and self.sshd.poll() is None:
            self.sshd.send_signal(signal.SIGTERM)
            self.sshd.wait(10)

    def run(self, command, *, as_user=None, expect=0, **options):
        """Runs a shell command in there, not over SSH, as its user; its output."""
        user = as_user or self.user
        home = "/root" if user == "root" else f"/home/{LAB_USER}"
        words = ["setpriv", f"--reuid={LAB_ID}", f"--regid={LAB_ID}", "--clear-groups"] if user != "root" else []
        line = ["/usr/bin/env", "-i", f"HOME={home}", f"USER={user}", "PATH=/usr/bin:/bin:/usr/sbin:/sbin",
                *words, "/bin/sh", "-c", f"cd; {command}"]
        return self.execute(*line, expect=expect, **options).stdout

    def kill_all(self):
        """SIGKILL for everything in there but its first process and sshd."""
        self.execute("sh", "-c", "kill -9 -1", expect=None)

    def power_off(self):
        """The host is gone without a word: its packets vanish and its processes die."""
        self.cable(cut=True)
        self.kill_all()
        self.sshd.wait(10)

    def power_on(self):
        """Comes back as after a reboot: files are there, processes are not."""
        self.start_sshd()
        self.cable(cut=False)


class Pod(Host):
    """A rented container: root, a high port, no init system, a volume at /workspace that survives `reset`."""

    def __init__(self, lab, name, **options):
        options = {"user": "root", "port": 30000 + lab.chance.randrange(20000), "folders": ["workspace"], **options}
        super().__init__(lab, name, **options)

    def reset(self):
        """What a provider's "reset pod" does: another port, another host key, the container's files are gone."""
        self.kill_all()
        self.sshd.wait(10)
        self.execute("sh", "-ec", """
cp /root/.ssh/authorized_keys /run/authorized_keys
find /root /tmp /dev/shm -mindepth 1 -delete
mkdir -m 700 /root/.ssh
mv /run/authorized_keys /root/.ssh/authorized_keys""")
        before = self.port
        while self.port == before:
            self.port = 30000 + self.lab.chance.randrange(20000)
        self.new_key()
        self.lab.publish(self)
        self.start_sshd()


class NetLab(Lab):
    """A lab whose coord runs in a network of namespaces; see the module's text."""

    def __init__(self, name, mtu=1500, seed=1):
        reason = unavailable()
        check(reason is None, f"netlab: {reason}")
        super().__init__(name)
        import random
        self.chance = random.Random(seed)
        self.seed = seed
        self.mtu = mtu
        self.nodes = []
        self.link = None
        try:
            for program in ("link", "host"):
                build(program)
            os.chmod(self.folder, 0o755)  # users of hosts pass through
            (self.folder / "keys").mkdir(mode=0o700)
            self.key = self.folder / "keys" / "coord_ed25519"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "netlab", "-f", str(self.key)], check=True)
            self.link = Link(seed, mtu, None)
            self.home = self._join(Home(self))
            self.environment["HOME"] = self.home.home_folder
            self.environment.pop("SSH_AUTH_SOCK", None)
        except BaseException:
            self.teardown()
            raise

    def _join(self, node):
        self.nodes.append(node)
        entries = pathlib.Path("/etc/hosts").read_text().rstrip("\n") + "\n"
        for other in self.nodes:
            entries += f"{other.address} {other.name}\n{other.address6} {other.name}-six\n"
        for other in self.nodes:
            # In place: the file is mounted by its inode.
            (self.folder / "hosts" / other.name / "etc" / "hosts").write_text(entries)
        return node

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            with contextlib.suppress(Exception):
                self.show_logs()
        self.teardown()

    def teardown(self):
        """Ends everything and removes the folder."""
        for node in self.nodes:
            with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
                node.close()
        if self.link:
            self.link.stop()
        for node in self.nodes:
            if getattr(node, "sshd", None):
                node.sshd.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    # Hosts

    def add_host(self, name, nat=False, behind=None, **options):
        """Adds a machine; at any time. Options: user, port, quota (of each home), shell, sshd (lines for its
        configuration), folders (further ones below / with that quota each)."""
        host = self._join(Host(self, name, **options))
        if nat:
            self.hide(host)
        host.behind = behind
        return self._fence(host)

    def add_pod(self, name, nat=True, **options):
        """Adds a rented container; by default only its SSH port is open, and only to home."""
        pod = self._join(Pod(self, name, **options))
        if nat:
            self.hide(pod)
        return self._fence(pod)

    def _fence(self, new):
        for host in self.nodes:
            for a, b in ((host, new), (new, host)):
                if a.behind and b not in (a, a.behind):
                    self.part(a, b)
        return new

    def add_hosts(self, count, prefix="h", **options):
        """Adds machines h0, h1, …"""
        return [self.add_host(f"{prefix}{i}", **options) for i in range(count)]

    def hide(self, host):
        """Puts a host behind NAT: it dials out; from outside only home's connections to its SSH port come in."""
        self.link.tell("nat", host.number, 1)
        self.publish(host)

    def publish(self, host):
        """Maps the host's SSH port, as it is now, for home alone."""
        self.link.tell("shut", host.number)
        self.link.tell("open", host.number, self.home.number, host.port)

    # The network

    def way(self, a, b, **keys):
        """Sets keys of the way from one host to another; see `rule`."""
        self.link.tell("way", a.number, b.number, *rule(**keys))

    def part(self, a, b):
        """Two hosts no longer reach each other."""
        self.way(a, b, cut=True)
        self.way(b, a, cut=True)

    def join(self, a, b):
        """Ends `part`."""
        self.way(a, b, cut=False)
        self.way(b, a, cut=False)

    def replay(self, seed=None):
        """Begins the schedule of losses and damages anew."""
        self.link.tell("seed", self.seed if seed is None else seed)

    def stats(self):
        """What the emulator carried and dropped since it began."""
        return json.loads(self.link.tell("stats"))

    # coord

    def command(self, *arguments, file=None):
        return self.home.argv(COORD, *arguments, "-f", file or self.file)

    def processes(self):
        """Pids of everything in the lab's namespaces but sshd and the first processes."""
        return [pid for node in self.nodes for pid, line in node.processes().items() if b"sshd" not in line]

    def entry(self, host, workers=1, extra="", address=None):
        """A host's line for the cluster file."""
        return (f"  {host.name}: {{ address: {address or host.address}, port: {host.port}, user: {host.user}, "
                f"identity: {self.key}, workers: {workers}{extra} }}\n")

    def trust(self, *hosts):
        """Writes the hosts' present keys into keys/known_hosts, in place of what was known."""
        file = self.folder / "keys" / "known_hosts"
        lines = file.read_text().splitlines() if file.exists() else []
        for host in hosts:
            lines = [line for line in lines if not line.split()[0].startswith((f"[{host.address}]:", host.address + " "))
                     and line.split()[0] != host.address]
            name = host.address if host.port == 22 else f"[{host.address}]:{host.port}"
            lines.append(f"{name} {host.public_key()}")
        file.write_text("".join(line + "\n" for line in lines))

    def ssh(self, host, command, *options, user=None, expect=0, timeout=60):
        """Runs a command over the system's ssh from home; its result."""
        return self.home.execute(
            "ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={self.folder}/keys/known_hosts",
            "-i", self.key, "-p", host.port, *options, f"{user or host.user}@{host.address}", command,
            expect=expect, timeout=timeout)
