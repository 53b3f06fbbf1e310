#!/usr/bin/env python3
"""Usage: Benchmarks/recovery.py [--faults N] [--workers N] [--kinds kill,stop,pause] [--seed N]

How long training stands still when a worker is lost: a run with N local workers, which are lost one after the other at
random moments until two are left; then the next run. The stall is the longest step from the fault on less the run's median step.
Every run must end by itself with the weights of an undisturbed one.

  kill   kill -9 of a trainer
  stop   SIGSTOP of a trainer, and SIGCONT 4 s later: it must be left out, and come to nothing when it wakes
  pause  SIGSTOP for 0.5 s: nobody may be left out

Needs a build of coord and scripts/build-worker, as scripts/e2e does.
"""
import argparse
import os
import pathlib
import random
import signal
import sqlite3
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
from clusterlab import Lab, check, wait_for  # noqa: E402

MODEL = {"model": "{ type: simple_cnn, channels: [8, 16], hidden: 32 }", "lanes": "16"}


def steps_of(lab):
    """Seconds of the latest run's steps by number."""
    database = sqlite3.connect(f"file:{lab.folder}/artifacts/registry.sqlite?mode=ro", uri=True)
    with database:
        rows = database.execute(
            "SELECT step, seconds FROM step_metrics WHERE run = (SELECT id FROM runs ORDER BY created DESC LIMIT 1)").fetchall()
    database.close()
    return dict(rows)


def resume_later(pid, seconds):
    """Wakes a stopped process after a while."""
    def wake():
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass
    timer = threading.Timer(seconds, wake)
    timer.start()
    return timer


def strike(kind, pid):
    """Does it."""
    if kind == "kill":
        os.kill(pid, signal.SIGKILL)
        return None
    os.kill(pid, signal.SIGSTOP)
    return resume_later(pid, 4.0 if kind == "stop" else 0.5)


def campaign(kind, faults, workers, chance):
    stalls = []
    with Lab(f"recovery-{kind}") as lab:
        hosts = lab.host("a", workers)
        lab.write(hosts)
        lab.digits()
        run = lab.lasting(hosts, MODEL, seconds=20)
        lab.write(hosts, run)
        lab.coord("up", "-y")
        whole = lab.run()["weights_sha256"]
        while len(stalls) < faults:
            before = lab.run()["run"]
            up = lab.start("up", "-y")
            wait_for("a new run", lambda: lab.run()["run"] != before)
            wait_for("steps", lambda: lab.run()["step"] > 20)
            strikes, timers = [], []
            while len(strikes) < (workers - 2 if kind != "pause" else 5) and len(stalls) + len(strikes) < faults:
                time.sleep(chance.uniform(0.2, 0.8))
                now = lab.run()
                check(now["state"] == "running", f"the run ended after {len(strikes)} faults; make it longer")
                expected = now["generations"] + 1
                pid = chance.choice(sorted(set(lab.trainers()) - {pid for pid, _ in strikes if kind != "pause"}))
                strikes.append((pid, max(steps_of(lab))))
                timers.append(strike(kind, pid))
                if kind == "pause":
                    time.sleep(1.5)
                else:
                    wait_for("the next generation", lambda: lab.run()["generations"] >= expected, 20)
                    known = lab.run()["step"]
                    wait_for("steps", lambda: lab.run()["step"] > known + 5)
            out, err = up.communicate(timeout=300)
            for timer in filter(None, timers):
                timer.join()
            check(up.returncode == 0, f"up ended with {up.returncode}\n{out}{err}")
            ended = lab.run()
            check(ended["weights_sha256"] == whole, f"other bits: {ended}")
            if kind == "pause":
                check(lab.upheavals() == 1, f"somebody was left out: {lab.events('membership')}")
            seconds = steps_of(lab)
            check(sorted(seconds) == list(range(1, ended["step"] + 1)), "steps are missing or counted twice")
            usual = statistics.median(seconds.values())
            for (_, first), last in zip(strikes, [step for _, step in strikes[1:]] + [ended["step"]]):
                stalls.append(max(seconds[step] for step in range(first + 1, last + 1)) - usual)
    ordered = sorted(stalls)
    print(f"{kind}: {len(stalls)} faults, {workers} workers at first, stall p50 {statistics.median(ordered):.3f} s, "
          f"p90 {ordered[int(0.9 * (len(ordered) - 1))]:.3f} s, max {ordered[-1]:.3f} s, same weights each time "
          f"(usual step {usual * 1000:.1f} ms, load {os.getloadavg()[0]:.1f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kinds", default="kill,stop,pause")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for kind in options.kinds.split(","):
        campaign(kind, options.faults, options.workers, random.Random(options.seed))


if __name__ == "__main__":
    main()
