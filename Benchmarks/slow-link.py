#!/usr/bin/env python3
"""Usage: Benchmarks/slow-link.py [--mbit 20] [--trip 80] [--models mnist,shakespeare] [--ways sync,bf16,...] [--epochs N] [--data FOLDER]

What each `exchange:` brings over a slow link: two hosts of scripts/netlab with a worker of one thread each, and between them 20 Mbit/s
each way and 80 ms of round trip. MNIST (its 10 000 test images, a tenth to validate) by an mlp, tiny Shakespeare by a small gpt; every
way sees the same samples. Prints a line for each: the step time that the planner forecast before the run, the measured one, samples/s,
and loss and accuracy on the validation samples at the end; `alone` is one of the hosts without the other, over no link at all.

Needs root, namespaces, a build of coord, scripts/build-worker, and in FOLDER (default ../shared/data) `mnist-t10k` with IDX files and
`tinyshakespeare.txt`.
"""
import argparse
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "scripts/netlab")]
from clusterlab import end_cleanly  # noqa: E402
from netlab import Ledger, NetLab, check, unavailable  # noqa: E402

ADAMW = {"optimizer": "{ type: adamw, learning_rate: 0.001 }", "schedule": "{ type: cosine, warmup_steps: 20 }"}
MODELS = {
    "mnist": ("mnist-t10k", [], {**ADAMW, "model": "{ type: mlp, hidden: [512, 256] }", "epochs": "3", "split": "{ validation: 0.1 }"}),
    "shakespeare": ("tinyshakespeare.txt", ["--shape", 64], {
        **ADAMW, "model": "{ type: gpt, layers: 4, heads: 4, features: 128 }", "epochs": "1"}),
}
BATCH = 64
WAYS = ["sync", "bf16", "int8", "topk", "powersgd", "diloco"]


def train(lab, hosts, keys, name):
    """A run to its end: samples a second while it trained, and the row of its last epoch."""
    lab.write(hosts, keys, dataset=name)
    lab.coord("up", "-y", timeout=3600)
    run, ledger = lab.run(), Ledger(lab)
    check(run["state"] == "finished", f"{keys['exchange']}: {run['state']}: {run['message']}")
    steps, samples = ledger.steps(), ledger.samples()
    # Workers of islands report what they did between two meetings as one step.
    return sum(samples.values()) / sum(steps.values()), ledger.epochs()[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", type=float, default=20)
    parser.add_argument("--trip", type=float, default=80, help="round trip in ms")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--ways", default=",".join(["alone", *WAYS]))
    parser.add_argument("--epochs", help="instead of 3 and 1")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT.parent / "shared/data")
    options = parser.parse_args()
    end_cleanly()
    if reason := unavailable():
        sys.exit(f"slow-link: netlab {reason}")
    if not options.data.is_dir():
        sys.exit(f"slow-link: no {options.data}: say --data")
    for name in options.models.split(","):
        file, shape, keys = MODELS[name]
        keys = {**keys, "batch": str(BATCH), "lanes": "4", "seed": "7", "epochs": options.epochs or keys["epochs"]}
        with NetLab("slowlink") as lab:
            a, b = lab.add_host("a"), lab.add_host("b")
            for one, other in ((a, b), (b, a)):
                lab.way(one, other, rate=options.mbit * 1e6 / 8, delay=options.trip / 2000)
            lab.trust(a, b)
            one = lab.entry(a, extra=", threads: 1")
            both = one + lab.entry(b, extra=", threads: 1")
            lab.write(both, {**keys, "exchange": "sync"}, dataset=name)
            lab.coord("data", "add", name, options.data / file, *shape)
            lab.coord("up", "-y", "--hosts-only")
            forecast = {line["exchange"]["kind"]: line for line in lab.json("preflight") if line["type"] == "exchange"}
            auto = next(kind for kind, line in forecast.items() if line["is_automatic"])
            print(f"\n{name}: {keys['model']}, batch {BATCH}, {keys['epochs']} epochs, {options.mbit:g} Mbit/s, {options.trip:g} ms; auto takes {auto}\n\n"
                  "| exchange | sent a step | forecast | measured | samples/s | val. loss | val. accuracy | load |\n|---|---|---|---|---|---|---|---|",
                  flush=True)
            for way in options.ways.split(","):
                exchange = "sync" if way == "alone" else way
                speed, end = train(lab, one if way == "alone" else both, {**keys, "exchange": exchange}, name)
                sent, step = "-", "-"
                if way != "alone":
                    sent, step = f"{forecast[way]['bytes_per_step'] / 1000:.0f} KB", f"{forecast[way]['step_seconds'] * 1000:.0f} ms"
                print(f"| {way} | {sent} | {step} | {BATCH / speed * 1000:.0f} ms | {speed:.0f} | {end['val_loss']:.4f} | "
                      f"{100 * end['val_accuracy']:.2f} % | {os.getloadavg()[0]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
