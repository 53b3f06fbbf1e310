#!/usr/bin/env python3
"""Usage: Benchmarks/overlap.py [--rounds N] [--steps N] [--models A,B] [--rates MBIT,...]

What it is worth that a step's gradient travels while the rest of it is computed: two members of one thread, each in a network
namespace of its own, joined by a cable of so many Mbit/s each way (tc tbf; 0 = as fast as the machine), encrypted as between
machines. By turns with (`tcp`) and without (`whole`); prints the medians of a step and their ratio.

Needs root, ip, tc, and `swift build -c release` of coord-bench.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCH = ROOT / ".build/release/coord-bench"


class Cable:
    """Two namespaces and what joins them."""

    def __init__(self, rate):
        self.names = [f"overlap-{os.getpid()}-{end}" for end in range(2)]
        self.rate = rate

    def __enter__(self):
        for name in self.names:
            self.run("ip", "netns", "add", name)
        self.run("ip", "link", "add", "cable0", "netns", self.names[0], "type", "veth", "peer", "name", "cable1", "netns", self.names[1])
        for end, name in enumerate(self.names):
            self.run("ip", "-n", name, "address", "add", f"10.77.0.{end + 1}/24", "dev", f"cable{end}")
            self.run("ip", "-n", name, "link", "set", f"cable{end}", "up")
            if self.rate:
                self.run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", f"cable{end}", "root", "tbf", "rate", f"{self.rate}mbit",
                         "burst", "256kb", "latency", "50ms")
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False)

    @staticmethod
    def run(*words):
        subprocess.run(words, check=True)

    def step(self, model, steps, way):
        """The first member's median step; unit: seconds."""
        members = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, BENCH, "train", str(rank), model, str(steps), way, "10.77.0.1:7001", "10.77.0.2:7001"],
                env=dict(os.environ, OPENBLAS_CORETYPE=os.environ.get("OPENBLAS_CORETYPE", "SkylakeX")), stdout=subprocess.PIPE, text=True)
            for rank, name in enumerate(self.names)
        ]
        outputs = [member.communicate()[0] for member in members]
        if any(member.returncode for member in members):
            sys.exit(f"overlap: error: {model}: members ended with {[member.returncode for member in members]}")
        return json.loads(outputs[0].splitlines()[-1])["p50_ms"] / 1000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--models", default="simple_cnn-1x28x28,resnet18")
    parser.add_argument("--rates", default="0,200")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("overlap: error: namespaces need root")
    for rate in map(int, options.rates.split(",")):
        with Cable(rate) as cable:
            for model in options.models.split(","):
                seen = {"whole": [], "tcp": []}
                for _ in range(options.rounds):
                    for way, seconds in seen.items():
                        seconds.append(cable.step(model, options.steps, way))
                whole, parts = (statistics.median(seen[way]) * 1000 for way in ("whole", "tcp"))
                print(f"{model} at {f'{rate} Mbit/s' if rate else 'any rate'}: {whole:.1f} ms at once, {parts:.1f} ms while it is computed: "
                      f"x{whole / parts:.2f}, load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
