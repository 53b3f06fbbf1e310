#!/usr/bin/env python3
"""Usage: Benchmarks/chaos.py [--minutes 30] [--every 29] [--hosts 4] [--kinds kill,stop,partition,coordinator] [--seed N]

One run through a fault every 29 seconds: how much of the undisturbed throughput is left, and whether every sample counted once.

  kill         kill -9 of a trainer; its host starts another one after a rest, which joins
  stop         SIGSTOP of a trainer for 5 s: it is left out after 0.9 s
  partition    a trainer's links carry nothing for 4 s (coord drill)
  coordinator  kill -9 of the coordinator; the next one comes 3 s later

Hosts are agents on this machine with a worker each. Throughput is steps a second over all of the time, divided by those in the quiet
seconds: the last third before each fault, when what was lost is back; so both are of one run. Where others use the machine too, that swings
with them: beside it stands the time lost in steps that took ten times as long as those around them, and more.
Then the same run is done once more without faults: it must end with the same weights, and its wall time stands beside.
Needs a build of coord and scripts/build-worker, as scripts/e2e does. SIGTERM and SIGINT end all that was started.
"""
import argparse
import os
import pathlib
import random
import signal
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
from clusterlab import Lab, Ledger, check, command_line, end_cleanly, is_alive, wait_for  # noqa: E402

RUN = {"model": "{ type: mlp, hidden: [512, 256] }", "batch": "256", "lanes": "8", "keep": "{ best: 1, latest: 1 }",
       "schedule": "{ type: constant }"}
SAMPLES, FEATURES, CLASSES = 60_000, 32, 8


def write_data(path):
    """Points around eight centres, the same each time."""
    chance = random.Random(20261121)
    centres = [[chance.gauss(0, 1) for _ in range(FEATURES)] for _ in range(CLASSES)]
    with open(path, "w") as file:
        file.write(",".join(f"x{i}" for i in range(FEATURES)) + ",label\n")
        for index in range(SAMPLES):
            centre = centres[index % CLASSES]
            file.write(",".join(f"{value + chance.gauss(0, 2):.3f}" for value in centre) + f",c{index % CLASSES}\n")


class Chaos:
    """A run, and what is done to it."""

    def __init__(self, lab, hosts, kinds, chance):
        self.lab, self.hosts, self.kinds, self.chance = lab, hosts, kinds, chance
        self.ledger, self.up, self.bag, self.timers = Ledger(lab), None, [], []

    def follow(self):
        self.up = self.lab.start("up", "-y")

    def trainers(self):
        return sorted(pid for pid in self.lab.trainers() if is_alive(pid))

    def strike(self):
        """Does the next thing of the bag; its name."""
        if not self.bag:
            self.bag = list(self.kinds)
            self.chance.shuffle(self.bag)
        kind = self.bag.pop()
        if kind == "coordinator":
            self.lab.kill_coordinator()
            self.up.communicate(timeout=60)
            self.later(3, self.follow)
        elif kind == "partition":
            self.later(0, lambda: self.lab.coord("drill", "partition", "--seconds", "4", "-y", expect=None, timeout=120))
        else:
            pid = self.chance.choice(self.trainers())
            os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
            if kind == "stop":
                self.later(5, lambda: self.wake(pid))
        return kind

    @staticmethod
    def wake(pid):
        if b"\0train\0" in command_line(pid):
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass  # it was left out, and ended

    def later(self, seconds, body):
        timer = threading.Timer(seconds, body)
        timer.start()
        self.timers.append(timer)


def measure(chaos, minutes, every):
    """Strikes on time until the minutes are over: faults with their times, and the steps done by then."""
    chaos.follow()
    wait_for("steps", lambda: chaos.ledger.run()["state"] == "running" and chaos.ledger.run()["steps"] > 50, 120)
    time.sleep(every / 3)
    begin, faults, loads, seen = time.time(), [], [], []
    while (now := time.time()) < begin + minutes * 60:
        check(chaos.ledger.run()["state"] == "running", f"the run is {chaos.ledger.run()['state']}: give it more epochs (--spare)")
        if now >= begin + every * (len(faults) + 1):
            faults.append((now, chaos.strike()))
            loads.append(os.getloadavg()[0])
            print(f"  {now - begin:6.0f} s  {faults[-1][1]}, {len(chaos.trainers())} trainers, step {chaos.ledger.run()['steps']}", flush=True)
        seen.append(len(chaos.trainers()))
        time.sleep(0.5)
    return begin, time.time(), faults, loads, seen


def long_steps(seconds, times, stretch=500):
    """When steps ended that took more than ten times as long as is usual around them, and how many seconds beyond the usual."""
    found = []
    for first in range(0, len(seconds), stretch):
        near = seconds[first:first + stretch]
        usual = statistics.median(near)
        found += [(moment, took - usual) for took, moment in zip(near, times[first:]) if took > 10 * usual]
    return found


def by_kind(found, faults):
    """Seconds in long steps for each kind of fault: all since one struck and before the next one, for each time."""
    sums = {kind: [] for _, kind in faults}
    for (begin, kind), (end, _) in zip(faults, [*faults[1:], (float("inf"), "")]):
        sums[kind].append(sum(beyond for moment, beyond in found if begin <= moment < end))
    return ", ".join(f"{kind} {statistics.mean(all_of_it):.2f} s ({max(all_of_it):.2f} at most)" for kind, all_of_it in sums.items())


def rate(times, spans):
    """Steps a second within spans of time."""
    total = sum(until - since for since, until in spans)
    return sum(1 for moment in times if any(since <= moment < until for since, until in spans)) / total if total > 0 else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=29)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--kinds", default="kill,stop,partition,coordinator")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spare", type=float, default=1.3, help="how many times as many epochs as seem needed")
    parser.add_argument("--no-twin", action="store_true", help="leave the undisturbed run out")
    options = parser.parse_args()
    end_cleanly()
    with Lab("chaos") as lab:
        hosts = "".join(lab.host(f"h{index}", 1) for index in range(options.hosts))
        lab.write(hosts, dataset="points")
        write_data(lab.folder / "points.csv")
        lab.coord("data", "add", "points", lab.folder / "points.csv", "--label", "label")
        lab.write(hosts, {**RUN, "epochs": "3"}, dataset="points")
        began = time.monotonic()
        lab.coord("up", "-y")
        first = lab.run()
        speed = first["samples_per_second"] or first["epoch"] * SAMPLES / (time.monotonic() - began)
        epochs = max(4, round((options.minutes * 60 + options.every) * speed / (SAMPLES * 0.8) * options.spare))
        lab.write(hosts, {**RUN, "epochs": str(epochs)}, dataset="points")
        chaos = Chaos(lab, options.hosts, options.kinds.split(","), random.Random(options.seed))
        print(f"{options.minutes} min, a fault every {options.every} s, {options.hosts} hosts of one worker, {epochs} epochs", flush=True)
        begin, end, faults, loads, seen = measure(chaos, options.minutes, options.every)
        for timer in chaos.timers:
            timer.join()
        times = chaos.ledger.times()
        quiet = [(moment - options.every / 3, moment) for moment, _ in faults]
        whole, calm = rate(times, [(begin, end)]), rate(times, quiet)
        during = [(took, moment) for took, moment in zip(chaos.ledger.steps().values(), times) if begin <= moment < end]
        found = long_steps(*zip(*during))
        held_up = sum(beyond for _, beyond in found)
        print(f"{len(faults)} faults ({', '.join(kind for _, kind in faults)}): {whole:.2f} steps/s over all, {calm:.2f} in quiet seconds: "
              f"{100 * whole / calm:.1f} %; {held_up:.1f} s of {end - begin:.0f} lost in long steps: {100 - 100 * held_up / (end - begin):.1f} % "
              f"are left (load {statistics.median(loads):.1f}, "
              f"{statistics.mean(seen):.2f} of {options.hosts} trainers on average)\nlost for each fault: {by_kind(found, faults)}", flush=True)
        wait_for("the end", lambda: chaos.ledger.run()["state"] != "running", options.minutes * 60 * options.spare + 300)
        ended, samples = lab.run(), chaos.ledger.samples()
        check(ended["state"] == "finished", f"the run is {ended['state']}: {ended['message']}")
        check(sorted(samples) == list(range(1, ended["step"] + 1)), "a step is missing")
        per_epoch = sum(samples.values()) / epochs
        check(per_epoch == int(per_epoch), f"{sum(samples.values())} samples in {epochs} epochs")
        print(f"{ended['step']} steps, each there; {int(per_epoch)} samples an epoch, {ended['generations']} generations", flush=True)
        if not options.no_twin:
            lab.coord("up", "-y", timeout=options.minutes * 60 * 3 + 600)
            twin = lab.run()
            check(twin["run"] != ended["run"] and twin["state"] == "finished", f"{twin}")
            check(twin["weights_sha256"] == ended["weights_sha256"], f"other weights: {ended['weights_sha256']}, undisturbed {twin['weights_sha256']}")
            print(f"the same weights as undisturbed: {twin['weights_sha256'][:12]}", flush=True)


if __name__ == "__main__":
    main()
