#!/usr/bin/env python3
"""Usage: Benchmarks/long-distance.py [--rounds N] [--size MB] [--trip SECONDS] [--parts streams,transfer]

What coord carries over a long round trip (50 ms), in scripts/netlab with packets of 60 000 bytes:

  streams   bytes through SSH alone: streams over connections, down and up (ThroughputTests of Remote)
  transfer  a file of random bytes pushed to a host's store and fetched back, verified; how many connections that took;
            and the same bytes by `ssh HOST cat`

Needs root, namespaces, a build of the tests and of coord-bench, and scripts/build-worker coord-worker.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts/netlab"))
from common import FAST  # noqa: E402
from netlab import NetLab, unavailable  # noqa: E402

BENCH = ROOT / ".build/release/coord-bench"
TESTS = ROOT / ".build/release/coordPackageTests.xctest"
WORKER = next(iter(sorted(ROOT.glob("artifacts/workers/*/coord-worker"))), ROOT / ".build/release/coord-worker")


def streams(lab, host):
    """Prints what ThroughputTests says."""
    place = f"{host.user} {host.address} {host.port} {lab.key}"
    out = lab.home.execute(
        "env", "COORD_MEASURE=1", f"COORD_MEASURE_AT={place}", TESTS, "--testing-library", "swift-testing",
        "--filter", "ThroughputTests", timeout=600)
    lines = [line for line in out.stdout.splitlines() if " connections: " in line]
    print("\n".join(lines) or out.stdout + out.stderr, flush=True)


def transfer(lab, host, rounds, size):
    """Pushes and fetches, by turns with ssh alone."""
    big = lab.folder / "big"
    with big.open("wb") as file:
        for _ in range(size):
            file.write(os.urandom(1 << 20))
    seen = []
    for number in range(rounds):
        store = lab.folder / f"store-{number}"
        said = json.loads(lab.home.execute(
            BENCH, "push", big, "--key", lab.key, "--known-hosts", lab.folder / "keys/known_hosts", "--worker", WORKER,
            "--user", host.user, "--host", f"{host.address}:{host.port}:{host.home_folder}/bench", "--pull", store,
            timeout=600).stdout)
        begin = time.monotonic()
        with big.open("rb") as file:
            lab.home.execute(
                "ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={lab.folder}/keys/known_hosts",
                "-i", lab.key, "-p", host.port, host.login, "cat > big && rm big", stdin=file, timeout=600)
        said["ssh_seconds"] = time.monotonic() - begin
        lab.home.execute("rm", "-r", store)
        seen.append(said)
    for words, time_key, lanes_key in (
        ("push", "seconds", "connections"), ("pull", "pull_seconds", "pull_connections"), ("cat | ssh cat", "ssh_seconds", None)
    ):
        rates = [round(size * 1.048576 / said[time_key]) for said in seen]
        lanes = f", connections {[said[lanes_key] for said in seen]}" if lanes_key else ""
        print(f"{words}: {size} MiB, median {statistics.median(rates):.0f} MB/s, {rates}{lanes}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--trip", type=float, default=0.05)
    parser.add_argument("--parts", default="streams,transfer")
    options = parser.parse_args()
    reason = unavailable()
    if reason:
        sys.exit(f"long-distance: error: {reason}")
    with NetLab("distance", mtu=FAST) as lab:
        host = lab.add_host("far", quota="3g")
        lab.trust(host)
        lab.home.cable(delay=options.trip / 2)
        print(f"round trip {options.trip * 1000:.0f} ms, load {os.getloadavg()[0]:.1f}", flush=True)
        if "streams" in options.parts:
            streams(lab, host)
        if "transfer" in options.parts:
            transfer(lab, host, options.rounds, options.size)


if __name__ == "__main__":
    main()
