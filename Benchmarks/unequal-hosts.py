#!/usr/bin/env python3
"""Usage: Benchmarks/unequal-hosts.py [--rounds N] [--seconds S]

What a slow worker costs: samples/s of two workers of one thread, each on a core of its own, one of which shares its core with a
program that never rests, against what they train when each has a run of its own. Lanes follow the measured speed; with equal parts
both would run at the pace of the slow one, and two workers of speeds 1 and 1/2 would give 67 % of their sum.

By turns: a run of a and a run of b at the same time (cores of one machine slow each other down, whatever they do), then one run of
both. Prints samples/s of each, the sum's fraction that both reach together, and the lanes at the end. Needs a build of coord and
scripts/build-worker, as scripts/e2e does, and two cores.
"""
import argparse
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
from clusterlab import Lab, Ledger, command_line, end_cleanly, wait_for  # noqa: E402

BATCH, LANES, IMAGES = 2048, 64, 60_000
RUN = {
    "model": "{ type: simple_cnn, channels: [32, 64], hidden: 128 }", "batch": str(BATCH), "lanes": str(LANES), "epochs": "100000",
    "split": "{ validation: 0.01 }", "keep": "{ best: 1, latest: 1 }",
}


def pin(pid, core):
    for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def worker(lab, name):
    return next(pid for pid in lab.trainers() if f"{lab.folder}/{name}/".encode() in command_line(pid))


@contextlib.contextmanager
def rival(core):
    """Half of a core for whoever else is on it: somebody who never rests."""
    other = subprocess.Popen(["sh", "-c", "while :; do :; done"], start_new_session=True)
    os.sched_setaffinity(other.pid, {core})
    try:
        yield
    finally:
        other.kill()
        other.wait()


def speeds(labs, cores, seconds):
    """Samples/s of runs that train at the same time, one on the named hosts of each lab, once their lanes lie well; their lanes; and
    how many steps each made from when b was slowed until its lanes moved, None where they did not."""
    ups = []
    with contextlib.ExitStack() as ending:
        for lab, hosts in labs:
            lab.write("".join(lab.host(name, 1, ", threads: 1") for name in hosts), RUN, dataset="made")
            ledger = Ledger(lab)
            ups.append((lab, hosts, ledger, ledger.run(), lab.start("up", "-y")))
            ending.callback(ups[-1][-1].communicate, timeout=60)
            ending.callback(lab.coord, "down", "-y")
        for lab, hosts, ledger, before, _ in ups:
            wait_for("steps", lambda: (ledger.run() or {}).get("id") != (before or {}).get("id") and ledger.run()["steps"] > 1)
            for name in hosts:
                pin(worker(lab, name), cores[name])
        slowed = time.time()
        with rival(cores["b"]):
            # Lanes may have moved before: what was measured then must be over, and a move's rest.
            time.sleep(seconds)
            first = [ledger.run()["steps"] for _, _, ledger, _, _ in ups]
            time.sleep(seconds)
            taken = [[took for step, took in ledger.steps().items() if step > before]
                     for (_, _, ledger, _, _), before in zip(ups, first)]
        moves = [moved(ledger, slowed) for _, _, ledger, _, _ in ups]
        lanes = [[len(worker["lanes"]) for worker in lab.run()["workers"]] for lab, _ in labs]
    return [len(steps) * BATCH / sum(steps) for steps in taken], lanes, moves


def moved(ledger, since):
    """Steps made between a moment and the next move of lanes."""
    move = next((when for _, when, reason in ledger.generations() if when > since and "lanes follow" in reason), None)
    return move and sum(since <= when < move for when in ledger.times())


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
    with Lab("unequal-a") as first, Lab("unequal-b") as second:
        for lab in (first, second):
            lab.write(lab.host("a", 1))
            lab.noise("made", IMAGES)
        for number in range(1, options.rounds + 1):
            (a, b), _, _ = speeds([(first, "a"), (second, "b")], cores, options.seconds)
            (both,), lanes, moves = speeds([(first, "ab")], cores, options.seconds)
            fractions.append(both / (a + b))
            print(f"round {number}: a {a:.0f} samples/s, b with half of its core {b:.0f}, together {both:.0f} with lanes "
                  f"{lanes[0]}, moved after {moves[0]} steps: {fractions[-1]:.3f} of the sum, load {os.getloadavg()[0]:.1f}", flush=True)
    print(f"median of {options.rounds}: {statistics.median(fractions):.3f} of the summed capacity")


if __name__ == "__main__":
    main()
