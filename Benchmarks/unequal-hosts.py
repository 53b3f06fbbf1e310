#!/usr/bin/env python3
"""Usage: Benchmarks/unequal-hosts.py [--rounds N] [--seconds S]

What a slow worker costs: samples/s of two workers of one thread, each on a core of its own, one of which gets half of its core's time
(a cgroup with a quota, in turns of 2 ms), against what each trains alone under the same conditions. Lanes follow the measured speed;
with equal parts both would run at the pace of the slow one, and two workers of speeds 1 and 1/2 would give 67 % of their sum.

By turns in one run: a alone, b alone with its half, both. Prints samples/s of each, the sum's fraction that both reach, and the lanes at
the end. Needs a build of coord and scripts/build-worker, as scripts/e2e does, two cores, and root for the cgroup.
"""
import argparse
import contextlib
import os
import pathlib
import random
import statistics
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
from clusterlab import Lab, Ledger, NotHere, Quota, command_line, end_cleanly, wait_for  # noqa: E402

BATCH, LANES, IMAGES = 512, 64, 20_000
RUN = {
    "model": "{ type: simple_cnn, channels: [32, 64], hidden: 128 }", "batch": str(BATCH), "lanes": str(LANES), "epochs": "100000",
    "split": "{ validation: 0.01 }", "keep": "{ best: 1, latest: 1 }",
}


def made_images(folder):
    """An IDX folder of noise: what is learned does not matter here."""
    folder.mkdir()
    chance = random.Random(1)
    (folder / "made-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, IMAGES, 28, 28) + chance.randbytes(IMAGES * 784))
    (folder / "made-labels-idx1-ubyte").write_bytes(
        struct.pack(">2I", 0x801, IMAGES) + bytes(number % 10 for number in range(IMAGES)))


def pin(pid, core):
    for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def worker(lab, name):
    return next(pid for pid in lab.trainers() if f"{lab.folder}/{name}/".encode() in command_line(pid))


def speed(lab, hosts, cores, seconds):
    """Samples/s of a run of some hosts once its lanes lie well, and the lanes of each worker."""
    lab.write("".join(lab.host(name, 1, ", threads: 1") for name in hosts), RUN, dataset="made")
    ledger = Ledger(lab)
    before = ledger.run()
    up = lab.start("up", "-y")
    try:
        wait_for("steps", lambda: (ledger.run() or {}).get("id") != (before or {}).get("id") and ledger.run()["steps"] > 1)
        for name in hosts:
            pin(worker(lab, name), cores[name])
        with Quota("unequal", [worker(lab, "b")], 0.5, period=0.002) if "b" in hosts else contextlib.nullcontext():
            # Lanes may have moved before: what was measured then must be over, and a move's rest.
            time.sleep(seconds)
            begin, first = time.monotonic(), ledger.run()["steps"]
            time.sleep(seconds)
            end, last = time.monotonic(), ledger.run()["steps"]
        lanes = [len(worker["lanes"]) for worker in lab.run()["workers"]]
    finally:
        lab.coord("down", "-y")
        up.communicate(timeout=60)
    return (last - first) * BATCH / (end - begin), lanes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each turn is measured, and settles before")
    options = parser.parse_args()
    end_cleanly()
    cores = dict(zip("ab", sorted(os.sched_getaffinity(0))))
    if len(cores) < 2:
        sys.exit("unequal-hosts: needs two cores")
    fractions = []
    with Lab("unequal") as lab:
        made_images(lab.folder / "made")
        lab.write(lab.host("a", 1))
        lab.coord("data", "add", "made", lab.folder / "made")
        for number in range(1, options.rounds + 1):
            a, _ = speed(lab, "a", cores, options.seconds)
            try:
                b, _ = speed(lab, "b", cores, options.seconds)
                both, lanes = speed(lab, "ab", cores, options.seconds)
            except NotHere as error:
                sys.exit(f"unequal-hosts: {error}")
            fractions.append(both / (a + b))
            print(f"round {number}: a {a:.0f} samples/s, b with half of its core {b:.0f}, both {both:.0f} with lanes "
                  f"{lanes}: {fractions[-1]:.3f} of the sum, load {os.getloadavg()[0]:.1f}", flush=True)
    print(f"median of {options.rounds}: {statistics.median(fractions):.3f} of the summed capacity")


if __name__ == "__main__":
    main()
