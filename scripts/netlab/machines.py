"""The machines of netlab: namespaces, what runs and lies in them, their sshd."""

import contextlib
import ctypes
import os
import pathlib
import pwd
import shlex
import shutil
import signal
import socket
import subprocess

from clusterlab import check, wait_for
from emulator import BUILD, build, rule

LAB_USER = "coord-lab"
LAB_ID = 7700
CLONE_NEWNET = 0x40000000


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
        self.write_sshd_config()
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

    def write_sshd_config(self, pam="no"):
        (self.folder / "etc/ssh/sshd_config").write_text(f"""{self.sshd_lines}
Port {self.port}
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM {pam}
PermitRootLogin prohibit-password
PrintMotd no
Subsystem sftp internal-sftp
""")

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
        self.new_key()
        self._listen_elsewhere()

    def move(self):
        """The provider maps another port; all connections end, what runs goes on."""
        for pid, line in self.processes().items():
            if line.startswith(b"sshd"):
                os.kill(pid, signal.SIGKILL)
        self.sshd.wait(10)
        self._listen_elsewhere()

    def _listen_elsewhere(self):
        before = self.port
        while self.port == before:
            self.port = 30000 + self.lab.chance.randrange(20000)
        self.lab.publish(self)
        self.start_sshd()
