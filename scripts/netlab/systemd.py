"""A machine of netlab with a real systemd as its first process: logind, users' managers, sshd with PAM as a service.

The systemd lives in namespaces inside the host's: processes, mounts and cgroups of its own, and the host's network. `/home` and `/var` are the
host's and survive a reboot; `/run`, `/tmp`, `/dev` and `/etc` are made anew.
"""

import contextlib
import os
import pathlib
import subprocess

from clusterlab import check, wait_for
from emulator import BUILD
from machines import Host

SYSTEMD = "/lib/systemd/systemd"
PAM_MODULE = "*/security/pam_systemd.so"


def cgroup_folder():
    """Where cgroups of version 2 are; None when nowhere."""
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        words = line.split()
        if words[2] == "cgroup2":
            return pathlib.Path(words[1])
    return None


def no_systemd():
    """Why no systemd can run here; None when it can."""
    for file, package in ((SYSTEMD, "systemd"), ("/lib/systemd/systemd-logind", "systemd"), ("/usr/bin/dbus-daemon", "dbus")):
        if not os.path.exists(file):
            return f"needs {file} (package {package})"
    if not any(list(pathlib.Path(folder).glob(PAM_MODULE)) for folder in ("/lib", "/usr/lib", "/usr/lib64")):
        return "needs pam_systemd.so (package libpam-systemd)"
    if not os.path.exists("/usr/lib/systemd/user/dbus.socket"):
        return "needs a message bus for each user (package dbus-user-session)"
    folder = cgroup_folder()
    if folder is None:
        return "needs cgroups of version 2 (no cgroup2 in /proc/mounts)"
    probe = folder / f"coord-netlab-probe-{os.getpid()}"
    try:
        probe.mkdir()
        subprocess.run(["sh", "-c", f"echo $$ > {probe}/cgroup.procs"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"needs to make cgroups in {folder} ({error})"
    finally:
        with contextlib.suppress(OSError):
            probe.rmdir()
    if subprocess.run(["unshare", "-C", "true"], capture_output=True, check=False).returncode:
        return "needs namespaces of cgroups (unshare -C was refused)"
    return None


class SystemdHost(Host):
    """A machine that boots; `kills_at_logout`: logind's KillUserProcesses."""

    def __init__(self, lab, name, kills_at_logout=True, **options):
        self.kills_at_logout = kills_at_logout
        self.machine = self.inner = None
        self.cgroup = cgroup_folder() / f"coord-netlab-{os.getpid()}-{lab.folder.name}-{name}"
        super().__init__(lab, name, **options)

    def argv(self, *command):
        pid = self.inner or self.pid
        return [str(BUILD / "host"), "enter", str(pid), os.getcwd(), *map(str, command)]

    def start_sshd(self, lines=None):
        """Boots: sshd is one of the services."""
        self.sshd_lines = self.sshd_lines if lines is None else lines
        self.write_sshd_config(pam="yes")
        self.cgroup.mkdir(exist_ok=True)
        script = f"""
echo $$ > {self.cgroup}/cgroup.procs
exec unshare --cgroup --mount --pid --fork --kill-child=KILL /bin/sh -ec '{self._first_steps()}'
"""
        with open(self.folder / "systemd.log", "ab") as log:
            self.machine = subprocess.Popen(self.argv("/bin/sh", "-ec", script), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.inner = wait_for(f"systemd of {self.name}", self._find)
        self.namespace = os.readlink(f"/proc/{self.inner}/ns/pid")
        wait_for(f"sshd of {self.name}", lambda: self.lab.home.reaches(self, self.port))

    def _find(self):
        check(self.machine.poll() is None, f"{self.name} did not boot: {(self.folder / 'systemd.log').read_text()}")
        pid = self.machine.pid
        for _ in range(3):
            text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not text:
                return None
            pid = int(text[0])
            with contextlib.suppress(OSError):
                if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(SYSTEMD.encode()):
                    return pid
        return None

    def _first_steps(self):
        return f"""
mount --make-rprivate /
mkdir -p /new /var/lib
mount -t tmpfs -o mode=755,size=64m tmpfs /new
cp -a /etc/. /new
mount --move /new /etc
rm -rf /etc/systemd/system /etc/systemd/user /etc/fstab
mkdir -p /etc/systemd/system /etc/systemd/user
touch /etc/fstab
echo 0123456789abcdef0123456789abcdef > /etc/machine-id
cat > /etc/systemd/system/lab.target <<EOF
[Unit]
Requires=basic.target dbus.socket systemd-logind.service systemd-user-sessions.service lab-ssh.service
After=basic.target dbus.socket systemd-logind.service
AllowIsolate=yes
EOF
cat > /etc/systemd/system/lab-ssh.service <<EOF
[Unit]
After=systemd-user-sessions.service systemd-logind.service
[Service]
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D -e -f /etc/ssh/sshd_config
EOF
printf "[Login]\\nKillUserProcesses={"yes" if self.kills_at_logout else "no"}\\n" > /etc/systemd/logind.conf
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -o remount,bind,ro /sys
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777,size=64m tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /dev
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    name=${{node%%:*}} rest=${{node#*:}}
    mknod -m 666 /dev/$name c ${{rest%%:*}} ${{rest##*:}}
done
mkdir /dev/pts /dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
mount -t tmpfs -o mode=1777,size=256m tmpfs /dev/shm
exec env -i container=netlab PATH=/usr/sbin:/usr/bin:/sbin:/bin {SYSTEMD} --unit=lab.target --show-status=0
"""

    def stop_sshd(self):
        """Nothing: sshd is systemd's."""

    def sessions(self):
        """Logins that logind knows, but those of systemd's own."""
        return self.execute("loginctl", "list-sessions", "--no-legend").stdout.split("\n")[:-1]

    def user_unit(self, pid):
        """The cgroup of a process in there, below the machine's."""
        line = pathlib.Path(f"/proc/{pid}/cgroup").read_text().split("0::", 1)[1].splitlines()[0]
        return line.split(self.cgroup.name, 1)[-1]

    def power_off(self):
        """The power is cut: everything ends at once."""
        if self.machine and self.machine.poll() is None:
            self.machine.kill()
            self.machine.wait(10)
            wait_for(f"{self.name} is off", lambda: not os.path.exists(f"/proc/{self.inner}"))
        self.inner = None
        self._remove_cgroups()

    def power_on(self):
        """Boots."""
        self.start_sshd()

    def close(self):
        """Ends all that runs in there."""
        self.power_off()
        super().close()

    def _remove_cgroups(self):
        def are_gone():
            for folder, _, _ in os.walk(self.cgroup, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            return not self.cgroup.exists()

        wait_for(f"the cgroups of {self.name} are empty", are_gone, 10)
