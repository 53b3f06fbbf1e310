#!/usr/bin/env python3
"""Usage: Benchmarks/hub-reduce.py [--rounds N] [--hidden N] [--size MB]

What two hidden hosts and their hub add up through SSH, beside what `ssh HUB cat` carries both ways in the same network: two hosts
behind NAT reach a third by their own `ssh` client alone, in scripts/netlab with packets of 60 000 bytes, real sshd everywhere. By turns:

  cat   both hosts at once: bytes into `ssh HUB cat` and back, MB/s of both together, one way
  run   a run of a large `mlp`: the gradients of both hosts that reach the hub, MB/s, over whole steps (computing included)

Needs root, namespaces, a build of coord, and scripts/build-worker coord-worker.
"""

import argparse
import os
import pathlib
import statistics
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts/netlab"))
from common import FAST  # noqa: E402
from netlab import NetLab, check, unavailable  # noqa: E402

FEATURES, CLASSES = 64, 10  # of digits


def allow(hosts, hub):
    """Keys of the hosts' own, for the hub."""
    for host in hosts:
        host.run("ssh-keygen -q -t ed25519 -N '' -f bench")
        line = host.run("cat bench.pub").strip()
        hub.run(f"echo '{line}' >> .ssh/authorized_keys")


def cat(hosts, hub, size):
    """Bytes a second that go to the hub while as many come back."""
    line = (f"head -c {size} /dev/zero | ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=no -i bench "
            f"-o UserKnownHostsFile=/dev/null -p {hub.port} {hub.login} cat 2> /dev/null | wc -c")
    came = []
    threads = [threading.Thread(target=lambda host=host: came.append(int(host.run(line)))) for host in hosts]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begin
    check(came == [size] * len(hosts), f"{came} bytes came back of {size}")
    return len(hosts) * size / seconds


def train(lab, hosts, parameters):
    """Bytes of gradients a second that the hub adds to its own."""
    lab.coord("up", "-y", timeout=600)
    run = lab.run()
    check(run["state"] == "finished", f"{run['state']}: {run['message']}")
    check(any("added up on hub:" in words for words in lab.events("route")), f"not over the hub: {lab.events('route')}")
    return len(hosts) * 4 * parameters * run["samples_per_second"] / 64


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    reason = unavailable()
    if reason:
        sys.exit(f"hub-reduce: error: {reason}")
    hidden = options.hidden
    parameters = (FEATURES + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * CLASSES
    with NetLab("hubreduce", mtu=FAST) as lab:
        a, b, hub = lab.add_host("a", nat=True), lab.add_host("b", nat=True), lab.add_host("hub")
        lab.trust(a, b, hub)
        allow((a, b), hub)
        lab.write("".join(map(lab.entry, (a, b, hub))), {
            "model": f"{{ type: mlp, hidden: [{hidden}, {hidden}] }}", "epochs": "1", "batch": "64", "lanes": "4",
            "optimizer": "{ type: sgd, learning_rate: 0.01 }"})
        lab.digits()
        print(f"{parameters} parameters, {4 * parameters / 1e6:.0f} MB a host and step, load {os.getloadavg()[0]:.1f}", flush=True)
        cats, runs = [], []
        for _ in range(options.rounds):
            cats.append(cat((a, b), hub, options.size << 20))
            runs.append(train(lab, (a, b), parameters))
            print(f"cat {cats[-1] / 1e6:.0f} MB/s, run {runs[-1] / 1e6:.0f} MB/s, load {os.getloadavg()[0]:.1f}", flush=True)
        ratio = statistics.median(run / one for run, one in zip(runs, cats))
        print(f"medians: cat {statistics.median(cats) / 1e6:.0f} MB/s, run {statistics.median(runs) / 1e6:.0f} MB/s; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
