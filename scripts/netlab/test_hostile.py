"""Servers and workers that mean harm."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from common import FAST, RUN, agent_folder, show
from netlab import BUILD, ROOT, NetLab, check


# What each must be told apart as: where on the way (the phase that the host's line names), and words of its message.
HOSTILE = {
    "wrong_banner": ("connect", "no SSH server: it says HTTP/1.1 400"),
    "no_banner": ("connect", "phase handshake"),
    "endless_banner": ("connect", "no SSH server: it says welcome"),
    "endless_banner_line": ("connect", "no SSH server"),
    "binary_banner": ("connect", "no SSH server"),
    "closes_at_connect": ("connect", "onnection reset by peer"),
    "old_protocol": ("connect", "no SSH server"),
    "hangs_in_key_exchange": ("connect", "phase handshake"),
    "garbage_in_key_exchange": ("connect", "no SSH server"),
    "huge_packet_length": ("connect", "no SSH server"),
    "zero_packet_length": ("connect", "no SSH server"),
    "nothing_in_common": ("connect", "no SSH server"),
    "one_byte_a_second": ("connect", "phase handshake"),
    "wrong_mac": ("trust", "broke"),
    "hangs_in_auth": ("trust", "phase authenticate"),
    "wants_methods_nobody_has": ("trust", "takes no keys"),
    "endless_auth_banner": ("trust", "phase authenticate"),
    "partial_for_ever": ("trust", "does not let user root in"),
    "drops_after_auth": ("trust", "broke"),
    "refuses_channels": ("trust", "does not start a command"),
    "channel_never_opens": ("trust", "phase open"),
    "refuses_commands": ("trust", "does not start a command"),
    "command_never_starts": ("trust", "phase open"),
    "closes_without_exit_status": ("probe", "without saying how the command ended"),
    "endless_output": ("probe", "printed more than"),
    "endless_errors": ("probe", "printed more than"),
    "one_byte_at_a_time": ("probe", "phase command"),
    "empty_packets": ("probe", "phase command"),
    "exits_before_output": ("probe", "phase command"),
    "garbage_for_uname": ("probe", "not a Linux machine"),
    "escapes_for_uname": ("probe", "not a Linux machine"),
    "worker_arrives_changed": ("push", "cannot say what arrived"),
    "worker_is_not_taken": ("push", "cannot say what arrived"),
    "no_sentinel": ("link", "no answer in time"),
    "noise_before_sentinel": ("link", "what came is no message"),
    "lying_length": ("link", "length 4294967295"),
    "frame_that_stalls": ("link", "no answer in time"),
    "frame_that_drips": ("link", "no answer in time"),
    "truncated_frame": ("link", "connection lost"),
    "not_our_language": ("link", "no agent of this version"),
    "deep_nesting": ("link", "no agent of this version"),
    "other_version": ("link", "another protocol version"),
    "never_says_hello": ("link", "no answer in time"),
}


def paramiko_python():
    """A Python that has paramiko, or None."""
    folder = BUILD / "venv"
    python = folder / "bin" / "python"
    if subprocess.run([python, "-c", "import paramiko"], capture_output=True, check=False).returncode if python.exists() else True:
        made = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, check=False).returncode == 0
        pip = [python, "-m", "pip", "-q", "--disable-pip-version-check", "install", "paramiko>=3.4"]
        if not made or subprocess.run(pip, capture_output=True, check=False, timeout=120).returncode:
            return None
    return python


def hostile_servers():
    """Servers that lie, flood, hang and break at every phase: each ends with its name and phase, and hurts nobody else."""
    python = paramiko_python()
    if not python:
        return "skipped: pip cannot install paramiko"
    worker = hashlib.sha256((ROOT / "artifacts/workers/x86_64-unknown-linux-gnu/coord-worker").read_bytes()).hexdigest()[:12]
    with NetLab("hostile", mtu=FAST) as lab:
        good = lab.add_host("good")
        lab.trust(good)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(lab.folder / "hostile_key")], check=True)
        servers = subprocess.Popen(
            lab.home.argv(python, ROOT / "scripts/netlab/hostile.py", lab.folder / "hostile_key", good.address, f"coord-worker-{worker}"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ports = json.loads(servers.stdout.readline())
        check(set(ports) == set(HOSTILE), f"servers {set(ports) ^ set(HOSTILE)}")
        lab.write(lab.entry(good) + "".join(
            f"  {name.replace('_', '-')}: {{ address: 127.0.0.1, port: {port}, user: root, identity: {lab.key} }}\n"
            for name, port in ports.items()))
        begin = time.monotonic()
        result = lab.coord("up", "-y", "--hosts-only", "--accept-new-host-keys", expect=None, timeout=150)
        seconds = time.monotonic() - begin
        check(result.returncode in (69, 77), f"exit {result.returncode}\n{result.stderr}")
        odd = {c for c in result.stdout + result.stderr if ord(c) < 32 and c != "\n" or 0x7f <= ord(c) < 0xa0}
        check(not odd, f"control characters {odd} reached the terminal")
        failed = {}
        for line in result.stderr.splitlines():
            words = line.split(maxsplit=3)
            if len(words) == 4 and words[1] == "failed":
                failed[words[0].replace("-", "_")] = (words[2].rstrip(":"), words[3])
        wrong = [f"{name}: {failed.get(name, 'no line')} instead of {expected}" for name, expected in HOSTILE.items()
                 if name not in failed or failed[name][0] != expected[0] or expected[1] not in failed[name][1]]
        check(not wrong, "\n".join(wrong))
        check(any(line.split()[:2] == ["good", "ready"] for line in result.stderr.splitlines()), "the good host is not up")
        pid = lab.coordinator()
        peak = int(next(l for l in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if l.startswith("VmHWM")).split()[1]) // 1024
        sockets = [link for link in map(os.readlink, pathlib.Path(f"/proc/{pid}/fd").iterdir()) if link.startswith("socket:")]
        check(peak < 1500 and len(sockets) < 20, f"the coordinator took {peak} MiB, has {len(sockets)} sockets")
        lab.coord("status")
        servers.communicate("")
        return f"{len(failed)} servers in {show(seconds)}, exit {result.returncode}; the good host is up; peak {peak} MiB"


# What a lying worker must lead to: words of the message, or None where the run must end well all the same.
LIES = {"parent": "holds '..'", "absolute": "is absolute", "size": "cannot be", "bytes": "", "cut": None}


def lying_workers():
    """Workers that send names that lead out of the folder, sizes that cannot be, other bytes, or half of them."""
    with NetLab("lies", mtu=FAST) as lab:
        hosts = {lie: lab.add_host(lie) for lie in LIES}
        lab.trust(*hosts.values())
        lab.write("".join(map(lab.entry, hosts.values())), RUN)
        lab.digits()
        lab.coord("up", "-y", "--hosts-only")
        lab.kill_coordinator()
        for lie, host in hosts.items():
            folder = agent_folder(lab, host) / "bin"
            worker = next(folder.glob("coord-worker-*"))
            worker.rename(folder / "real-worker")
            shutil.copy(ROOT / "scripts/netlab/lying_worker.py", worker)
            worker.chmod(0o755)
            (folder / "lie").write_text(lie)
        saw = []
        for lie, words in LIES.items():
            lab.write(lab.entry(hosts[lie], workers=2), RUN)
            result = lab.coord("up", "-y", expect=None, timeout=90)
            if words is None:
                check(result.returncode == 0 and lab.run()["state"] == "finished", f"{lie}: {result.stdout}{result.stderr}")
                check((agent_folder(lab, hosts[lie]) / "bin" / "cuts").read_text() == "3", "nothing was cut")
            else:
                check(result.returncode in (1, 73) and words in result.stderr and lie in result.stderr,
                      f"{lie}: exit {result.returncode}\n{result.stdout}{result.stderr}")
            saw.append(f"{lie} {result.returncode}")
        evil = [str(path) for top in (lab.folder, pathlib.Path("/tmp"), pathlib.Path(lab.folder).parent) for path in top.glob("evil-file*")]
        evil += [str(path) for path in lab.folder.rglob("evil-file*")]
        check(not evil, f"written outside: {evil}")
        return ", ".join(saw)
