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
import json
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import threading

from emulator import BUILD, Link, build, rule  # noqa: F401
from machines import LAB_ID, Home, Host, Pod  # noqa: F401
from systemd import SystemdHost  # noqa: F401
from clusterlab import COORD, ROOT, Failure, Lab, Ledger, check, is_alive, wait_for  # noqa: F401

DIGITS = threading.Lock()


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


class NetLab(Lab):
    """A lab whose coord runs in a network of namespaces; see the module's text."""

    def __init__(self, name, mtu=1500, seed=1):
        reason = unavailable()
        check(reason is None, f"netlab: {reason}")
        super().__init__(name)
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

    def add_systemd_host(self, name, **options):
        """Adds a machine whose first process is a real systemd; see `systemd.py`."""
        return self._fence(self._join(SystemdHost(self, name, **options)))

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

    def digits(self):
        with DIGITS:
            cache = pathlib.Path(tempfile.gettempdir()) / "coord-digits-cache" / "digits.csv"
            if not cache.exists():
                # A lab's network leads nowhere else: the download is made outside.
                with Lab("digits") as outside:
                    outside.write(outside.host("a", 1))
                    outside.digits()
            super().digits()

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
