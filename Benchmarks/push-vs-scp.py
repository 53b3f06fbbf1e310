#!/usr/bin/env python3
"""Usage: Benchmarks/push-vs-scp.py [--rounds N] [--size MB] [--data FILE] [--parts big,small,second,four]

Sends one large file and many small ones from the disk to a private sshd on loopback, by turns with `coord-bench push`,
`scp`, `scp -r`, `rsync -a` and `tar | ssh tar x`, and prints the seconds of each round, the medians and their ratios.
What coord sends has been verified by SHA-256 in the remote store when the clock stops; the others check nothing.

Needs root, /usr/sbin/sshd, rsync, `swift build -c release` of coord-bench and scripts/build-worker coord-worker. The small
files are those of --data, a tar (default ../shared/data/cifar10-jpeg.tar: 60 000 pictures of about 1 KB).

  big     a file of random bytes
  small   the pictures
  second  how much goes over again after 1 % of the files were replaced; after 1 % of the large file was changed in one
          piece and 1000 bytes were inserted
  four    the large file (a quarter of it) to four hosts, each behind a link of 200 Mbit/s, against one; and the same by
          `cat | ssh cat` to all at once

Everything runs in namespaces of its own, which end with this program, however it ends: no agent, sshd or link is left.
"""

import argparse
import ctypes
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCH = ROOT / ".build/release/coord-bench"
WORKER = next(iter(sorted(ROOT.glob("artifacts/workers/*/coord-worker"))), ROOT / ".build/release/coord-worker")


def run(*command, **options):
    """Runs a command that must succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"push-vs-scp: error: {' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def own_namespaces():
    """Goes on in a child that is process 1 of its own namespaces; what it starts can neither outlive nor be seen beside it."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, new_processes, new_network = 0x20000, 0x20000000, 0x40000000
    if libc.unshare(new_mounts | new_processes | new_network) != 0:
        sys.exit(f"push-vs-scp: error: namespaces: {os.strerror(ctypes.get_errno())}")
    child = os.fork()
    if child:
        # A kill of this process is the child's to clean up after; should this one just vanish, the child ends with it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    set_parent_death_signal = 1
    libc.prctl(set_parent_death_signal, signal.SIGKILL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("push-vs-scp: ended by SIGTERM"))
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "proc", "proc", "/proc")
    os.makedirs("/run/netns", exist_ok=True)
    run("mount", "-t", "tmpfs", "none", "/run/netns")
    run("ip", "link", "set", "lo", "up")


class Server:
    """A private sshd, also inside a network namespace."""

    def __init__(self, folder, address="127.0.0.1", port=22622, namespace=None):
        self.folder, self.address, self.port = folder, address, port
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("host", "key"):
            if not (folder / name).exists():
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
        os.makedirs("/run/sshd", exist_ok=True)
        (folder / "config").write_text(
            f"ListenAddress {address}\nPort {port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/key.pub\nStrictModes no\nPermitRootLogin yes\nMaxStartups 100\n"
            "Subsystem sftp /usr/lib/openssh/sftp-server\n"
        )
        key = (folder / "host.pub").read_text().split()
        (folder / "known").write_text(f"[{address}]:{port} {key[0]} {key[1]}\n")
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        self.process = subprocess.Popen(
            [*inside, "/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            if subprocess.run([*self.ssh(), "true"], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)  # sshd tells nobody when it listens
        sys.exit("push-vs-scp: error: sshd does not answer")

    def options(self):
        return [
            "-F", "none", "-o", f"Port={self.port}", "-i", str(self.folder / "key"), "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={self.folder}/known", "-o", "LogLevel=ERROR",
        ]

    def ssh(self):
        return ["ssh", *self.options(), f"root@{self.address}"]

    def stop(self):
        self.process.terminate()
        self.process.wait()


def push(servers, path, target, *more):
    """One push by coord; what it prints."""
    words = [BENCH, "push", path, "--key", servers[0].folder / "key", "--worker", WORKER]
    known = target / "known"
    target.mkdir(parents=True, exist_ok=True)
    known.write_text("".join((s.folder / "known").read_text() for s in servers))
    for number, server in enumerate(servers):
        (target / f"h{number}").mkdir(exist_ok=True)
        words += ["--host", f"{server.address}:{server.port}:{target}/h{number}"]
    seen = json.loads(run(*words, "--known-hosts", known, *more))
    if seen["problems"]:
        sys.exit(f"push-vs-scp: error: {seen['problems']} problems in the remote store")
    return seen


def timed(command, target):
    """Seconds of a command that fills an empty folder."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    begin = time.monotonic()
    run("bash", "-c", command)
    seconds = time.monotonic() - begin
    shutil.rmtree(target)
    return seconds


def interleaved(title, rounds, ways, goals):
    """Runs all ways by turns and prints medians and ratios to ours."""
    seen = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            os.sync()
            seen[name].append(round(way(), 2))
    ours = statistics.median(seen["coord"])
    print(f"{title} (load {os.getloadavg()[0]:.1f})")
    for name, times in seen.items():
        ratio = statistics.median(times) / ours
        goal = f"  goal {goals[name]}" if name in goals else ""
        print(f"  {name:16} median {statistics.median(times):7.2f} s  {ratio:6.2f} x coord  {times}{goal}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--data", default=str(ROOT / "../shared/data/cifar10-jpeg.tar"))
    parser.add_argument("--parts", default="big,small,second,four")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if os.getuid() != 0:
        sys.exit("push-vs-scp: error: needs root for a private sshd")
    own_namespaces()
    work = pathlib.Path(tempfile.mkdtemp(prefix="coord-push-"))
    server = Server(work / "sshd")
    try:
        shell = " ".join(["ssh", *server.options()])
        there = f"root@{server.address}"
        big = work / "big"
        with big.open("wb") as file:
            for _ in range(options.size):
                file.write(os.urandom(1 << 20))
        files = work / "files"
        has_files = pathlib.Path(options.data).exists()
        if has_files:
            files.mkdir()
            run("tar", "xf", options.data, "-C", files)
        out = work / "out"
        if "big" in parts:
            interleaved(f"{options.size} MiB of random bytes in one file", options.rounds, {
                "coord": lambda: push([server], big, work / "c")["seconds"],
                "scp": lambda: timed(f"scp -q {' '.join(server.options())} {big} {there}:{out}/big", out),
                "cat | ssh cat": lambda: timed(f"{shell} {there} 'cat > {out}/big' < {big}", out),
            }, {"scp": "1.3"})
        if "small" in parts and has_files:
            interleaved("small files", options.rounds, {
                "coord": lambda: push([server], files, work / "c")["seconds"],
                "scp -r": lambda: timed(f"scp -q -r {' '.join(server.options())} {files} {there}:{out}/", out),
                "rsync -a": lambda: timed(f"rsync -a -e '{shell}' {files} {there}:{out}/", out),
                "tar | ssh tar x": lambda: timed(
                    f"tar cf - -C {files} . | {shell} {there} 'tar xf - -C {out}'", out
                ),
            }, {"scp -r": "10", "rsync -a": "1.5", "tar | ssh tar x": "0.8"})
        if not has_files:
            print(f"small files: skipped: no {options.data}")
        if "second" in parts:
            second(server, big, files if has_files else None, work)
        if "four" in parts:
            four(big, work, options.rounds, options.size // 4)
    finally:
        server.stop()
        shutil.rmtree(work)


def second(server, big, files, work):
    """What goes over after a small change, in bytes."""
    chance = random.Random(20261121)

    def twice(path, change, title):
        old = work / "old"
        if path.is_dir():
            shutil.copytree(path, old)
        else:
            old.mkdir()
            shutil.copy(path, old / "big")
        now = work / "now"
        shutil.copytree(old, now)
        push([server], old, work / "s", "--keep")
        change(now)
        seen = push([server], now, work / "s", "--base", old)
        print(
            f"{title}: {seen['on_the_line']} of {seen['bytes']} bytes, "
            f"{100 * seen['on_the_line'] / seen['bytes']:.2f} % (goal 2)", flush=True
        )
        for folder in (old, now):
            shutil.rmtree(folder)

    def replace(folder):
        all_files = sorted(p for p in folder.rglob("*") if p.is_file())
        for file in chance.sample(all_files, len(all_files) // 100):
            size = file.stat().st_size
            file.write_bytes(chance.randbytes(size))

    def change(folder):
        data = bytearray((folder / "big").read_bytes())
        piece = len(data) // 100
        start = chance.randrange(len(data) - piece)
        data[start:start + piece] = chance.randbytes(piece)
        place = chance.randrange(len(data))
        data[place:place] = chance.randbytes(1000)
        (folder / "big").write_bytes(data)

    if files:
        twice(files, replace, "1 % of the small files replaced, at random")
    twice(big, change, "1 % of the large file changed in one piece, 1000 bytes inserted")


def cat(servers, path):
    """Seconds of sending a file to all at once with nothing but ssh."""
    begin = time.monotonic()
    sending = []
    for server in servers:
        with path.open("rb") as file:
            command = [*server.ssh(), f"cat > {server.folder}/out"]
            sending.append(subprocess.Popen(command, stdin=file))
    if any(process.wait() for process in sending):
        sys.exit("push-vs-scp: error: cat | ssh cat failed")
    seconds = time.monotonic() - begin
    for server in servers:
        (server.folder / "out").unlink()
    return seconds


def four(big, work, rounds, size):
    """One and four hosts behind links of 200 Mbit/s: network namespaces with token buckets on veth."""
    part = work / "part"
    with part.open("wb") as file, big.open("rb") as source:
        file.write(source.read(size << 20))
    servers = []
    try:
        for number in range(4):
            name, inner, outer = f"push{number}", f"inner{number}", f"outer{number}"
            run("ip", "netns", "add", name)
            run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
            run("ip", "addr", "add", f"10.213.{number}.1/24", "dev", outer)
            run("ip", "link", "set", outer, "up")
            run("ip", "-n", name, "addr", "add", f"10.213.{number}.2/24", "dev", inner)
            run("ip", "-n", name, "link", "set", inner, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("tc", "qdisc", "add", "dev", outer, "root", "tbf", "rate", "200mbit", "burst", "256k", "latency", "50ms")
            folder = work / f"sshd-{number}"
            folder.mkdir()
            for key in ("key", "key.pub"):
                shutil.copy(work / "sshd" / key, folder / key)
            servers.append(Server(folder, f"10.213.{number}.2", 2222, name))
        times = {way: [] for way in ("one host", "four hosts", "cat | ssh cat", "four cat | ssh cat")}
        for _ in range(rounds):
            times["one host"].append(round(push(servers[:1], part, work / "f1")["seconds"], 2))
            times["four hosts"].append(round(push(servers, part, work / "f4")["seconds"], 2))
            times["cat | ssh cat"].append(round(cat(servers[:1], part), 2))
            times["four cat | ssh cat"].append(round(cat(servers, part), 2))
        one, four, one_cat, four_cat = (statistics.median(seen) for seen in times.values())
        print(
            f"{size} MiB over 200 Mbit/s each: {times}, ratio {four / one:.2f} (goal below 1.2), "
            f"of cat | ssh cat {four_cat / one_cat:.2f} (load {os.getloadavg()[0]:.1f})", flush=True
        )
    finally:
        for server in servers:
            server.stop()


if __name__ == "__main__":
    main()
