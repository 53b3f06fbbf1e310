#!/usr/bin/env python3
"""Usage: Benchmarks/recovery.py [--faults N] [--workers N] [--hosts N] [--kinds kill,stop,pause,cut,vanish] [--seed N] [--profile]

How long training stands still when a worker is lost: a run with N workers, which are lost one after the other at random
moments until two are left; then the next run. The stall is the longest step from the fault on less the run's median step.
Every run must end by itself with the weights of an undisturbed one, no step missing and none counted twice.

On this machine, N local workers:
  kill    kill -9 of a trainer
  stop    SIGSTOP of a trainer, and SIGCONT 4 s later: it must be left out, and come to nothing when it wakes
  pause   SIGSTOP for 0.5 s: nobody may be left out
In network namespaces (root), --hosts hosts of one worker each, the coordinator on a machine of its own:
  cut     the cable of a host is pulled: its packets vanish, its processes live
  vanish  a host loses power: nothing of it says a word, no connection ends

--profile prints where the time of each stall goes (the registry's clock and the agents' are this machine's).
Needs a build of coord and scripts/build-worker, as scripts/e2e does. SIGTERM and SIGINT end all that was started.
"""
import argparse
import json
import os
import pathlib
import random
import signal
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts" / "netlab"))
from clusterlab import Lab, Ledger, check, end_cleanly, wait_for  # noqa: E402

MODEL = {"model": "{ type: simple_cnn, channels: [32, 64], hidden: 128 }", "lanes": "16"}
FAST = 60_000


class Local:
    """Workers on this machine, by pid."""

    def __init__(self, kind, workers):
        self.kind, self.lab = kind, Lab(f"recovery-{kind}")
        self.hosts = self.lab.host("a", workers)

    def begin(self):
        self.struck, self.timers = set(), []
        self.pids = self.lab.trainers()

    def strike(self, chance):
        """Does it to one that is left."""
        pid = chance.choice(sorted(set(self.pids) - self.struck))
        if self.kind != "pause":
            self.struck.add(pid)
        if self.kind == "kill":
            os.kill(pid, signal.SIGKILL)
            return
        os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(4.0 if self.kind == "stop" else 0.5, self._wake, [pid])
        timer.start()
        self.timers.append(timer)

    @staticmethod
    def _wake(pid):
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # it was left out, and ended

    def heal(self):
        for timer in self.timers:
            timer.join()

    def spools(self):
        return self.lab.folder.glob("a/**/events.jsonl")


class Remote:
    """Hosts in network namespaces, a worker each."""

    def __init__(self, kind, workers):
        from netlab import NetLab
        self.kind, self.lab = kind, NetLab(f"recovery-{kind}", mtu=FAST)
        self.nodes = self.lab.add_hosts(workers)
        self.lab.trust(*self.nodes)
        self.hosts = "".join(map(self.lab.entry, self.nodes))

    def begin(self):
        self.struck = []

    def strike(self, chance):
        node = chance.choice([node for node in self.nodes if node not in self.struck])
        self.struck.append(node)
        if self.kind == "cut":
            node.cable(cut=True)
        else:
            node.power_off()

    def heal(self):
        for node in self.struck:
            if self.kind == "cut":
                node.cable(cut=False)
            else:
                node.power_on()

    def spools(self):
        return [spool for node in self.nodes for spool in node.path("~/.coord").glob("**/events.jsonl")]


def profile(bed, run, strikes, ledger):
    """Where the time goes after each fault, in milliseconds."""
    heard = []
    for spool in bed.spools():
        for line in spool.read_text().splitlines():
            event = json.loads(line)
            if event["run"] == run:
                heard.append((event["time"], next(iter(event["report"])), event["report"]))
    heard.sort(key=lambda event: event[0])
    plans = ledger.generations()
    parts = {"felt": [], "reaped": [], "planned": [], "told": [], "met": [], "all met": []}
    for (moment, _), until in zip(strikes, [moment for moment, _ in strikes[1:]] + [moment + 20 for moment, _ in strikes[-1:]]):
        def first(kind, least=min):
            times = [when for when, name, _ in heard if name == kind and moment < when < until]
            return least(times) - moment if times else None
        found = {"felt": first("peerLost"), "reaped": first("exited"), "told": first("opening"),
                 "planned": next((at - moment for _, at, _ in plans if moment < at < until), None),
                 "met": first("joined"), "all met": first("joined", max)}
        for part, seconds in found.items():
            if seconds is not None:
                parts[part].append(seconds * 1000)
    print("  after the fault, ms, median: " + ", ".join(
        f"{part} {statistics.median(times):.0f}" for part, times in parts.items() if times), flush=True)


def campaign(kind, options, chance):
    """Faults of one kind; the seconds that training stood still after each."""
    workers = options.hosts if kind in ("cut", "vanish") else options.workers
    bed = (Remote if kind in ("cut", "vanish") else Local)(kind, workers)
    stalls, usual, loads = [], [], []
    with bed.lab as lab:
        lab.write(bed.hosts)
        lab.digits()
        run = lab.lasting(bed.hosts, MODEL, seconds=options.seconds)
        lab.write(bed.hosts, run)
        lab.coord("up", "-y")
        whole = lab.run()["weights_sha256"]
        ledger = Ledger(lab)
        while len(stalls) < options.faults:
            before = ledger.run()["id"]
            up = lab.start("up", "-y")
            wait_for("steps", lambda: ledger.run()["id"] != before and ledger.run()["steps"] > 20)
            bed.begin()
            strikes = []
            wanted = 5 if kind == "pause" else workers - 2
            while len(strikes) < wanted and len(stalls) + len(strikes) < options.faults:
                time.sleep(chance.uniform(0.3, 1.0))
                now = ledger.run()
                check(now["state"] == "running", f"the run is {now['state']} after {len(strikes)} faults; make it longer (--seconds)")
                expected = now["generations"] + 1
                strikes.append((time.time(), now["steps"]))
                bed.strike(chance)
                if kind == "pause":
                    time.sleep(1.5)
                else:
                    wait_for("the next generation", lambda: ledger.run()["generations"] >= expected, 30)
                    known = ledger.run()["steps"]
                    wait_for("steps", lambda: ledger.run()["steps"] > known + 20 or ledger.run()["state"] != "running", 30)
                loads.append(os.getloadavg()[0])
            if kind != "vanish":
                out, err = up.communicate(timeout=300)
                bed.heal()
            else:
                wait_for("the end", lambda: ledger.run()["state"] != "running", 300)
                bed.heal()
                out, err = up.communicate(timeout=300)
            check(up.returncode == 0, f"up ended with {up.returncode}\n{out}{err}")
            # The next run needs all of them from its beginning, and nobody knows yet who answers again.
            wait_for("all hosts answer", lambda: lab.coord("data", "push", "digits", expect=None).returncode == 0, 120)
            ended = lab.run()
            check(ended["weights_sha256"] == whole, f"other bits: {ended}")
            if kind == "pause":
                check(lab.upheavals() == 1, f"somebody was left out: {lab.events('membership')}")
            seconds = ledger.steps()
            check(sorted(seconds) == list(range(1, ended["step"] + 1)), "steps are missing or counted twice")
            usual.append(statistics.median(seconds.values()))
            for (_, first), last in zip(strikes, [step for _, step in strikes[1:]] + [ended["step"]]):
                stalls.append(max(seconds[step] for step in range(first + 1, last + 1)) - usual[-1])
            if options.profile:
                print("  stalls " + " ".join(f"{stall:.3f}" for stall in stalls[-len(strikes):]))
                profile(bed, ended["run"], strikes, ledger)
    ordered = sorted(stalls)
    print(f"{kind}: {len(stalls)} faults, {workers} workers at first, stall p50 {statistics.median(ordered):.3f} s, "
          f"p90 {ordered[round(0.9 * (len(ordered) - 1))]:.3f} s, max {ordered[-1]:.3f} s, same weights each time "
          f"(usual step {statistics.median(usual) * 1000:.1f} ms, load {statistics.median(loads):.1f})", flush=True)
    return stalls


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--hosts", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long an undisturbed run takes, about")
    parser.add_argument("--kinds", default="kill,stop,pause,cut,vanish")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    end_cleanly()
    for kind in options.kinds.split(","):
        campaign(kind, options, random.Random(f"{options.seed} {kind}"))


if __name__ == "__main__":
    main()
