"""The link emulator (link.c) as a running program, and the words of its rules."""

import os
import pathlib
import shutil
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from clusterlab import ROOT, check  # noqa: E402

BUILD = ROOT / ".build" / "netlab"
SOURCE = pathlib.Path(__file__).resolve().parent


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
