#!/usr/bin/env python3
"""Usage: Benchmarks/train-vs-ddp.py [--rounds N] [--bench PATH/TO/coord-bench]

Trains `mlp` 784-512-256-10 and `simple_cnn` (1x28x28) data-parallel with 2 processes of 1 thread each, global batch 64,
AdamW, `lanes: 2`: by turns with `coord-bench train` and with PyTorch DistributedDataParallel over Gloo, and both alone
with 1 process; `coord` exchanges through memory, as workers of one machine do, `tcp` is the same over loopback TCP. Prints the medians of a step, the ratios, and the scaling efficiency from 1 to 2 workers;
beside it what these cores allow: two trainings of 1 worker at the same time that know nothing of each other.

Needs `swift build -c release` of coord-bench and, in the Python that runs this, `pip install torch` (CPU).
"""
import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH = 64
STEPS = {"mlp-784-512-256-10": 300, "simple_cnn-1x28x28": 40}


def free_ports(count):
    """Loopback ports that nobody has right now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def median_of_first(commands, environment):
    """Runs the members at once; the first one's median step in seconds."""
    members = [
        subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True) for command in commands
    ]
    outputs = [member.communicate()[0] for member in members]
    if any(member.returncode for member in members):
        sys.exit(f"train-vs-ddp: error: {commands[0]}: a member ended with {[m.returncode for m in members]}")
    return json.loads(outputs[0].splitlines()[-1])["p50_ms"] / 1000


def median_of_ours(commands):
    return median_of_first(commands, dict(os.environ, OPENBLAS_CORETYPE=os.environ.get("OPENBLAS_CORETYPE", "SkylakeX")))


def ours(bench, model, members, way="memory"):
    ports = free_ports(members)
    return median_of_ours([[bench, "train", rank, model, STEPS[model], way, *ports] for rank in range(members)])


def apart(bench, model):
    """Two trainings of one worker each at the same time: cores of one machine slow each other down, whatever they do."""
    return median_of_ours([[bench, "train", 0, model, STEPS[model], "memory", port] for port in free_ports(2)])


def theirs(model, members):
    port = free_ports(1)[0]
    environment = dict(os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    return median_of_first(
        [[sys.executable, __file__, "--member", rank, members, model] for rank in range(members)], environment
    )


def member(rank, members, model):
    """One process of PyTorch's."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    if model.startswith("mlp"):
        net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
        shape = [784]
    else:
        net = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10),
        )
        shape = [1, 28, 28]
    if members > 1:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=members)
        net = nn.parallel.DistributedDataParallel(net)
    share = BATCH // members
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    data, labels = torch.rand(512, *shape), torch.arange(512) % 10
    seconds = []
    for step in range(STEPS[model]):
        start = time.perf_counter()
        at = (step * BATCH + rank * share) % 512
        loss = nn.functional.cross_entropy(net(data[at:at + share]), labels[at:at + share])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"p50_ms": statistics.median(seconds[len(seconds) // 5:]) * 1000}))
    if members > 1:
        torch.distributed.destroy_process_group()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bench", default=ROOT / ".build/release/coord-bench")
    parser.add_argument("--member", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member:
        return member(int(options.member[0]), int(options.member[1]), options.member[2])
    try:
        import torch  # noqa: F401
    except ImportError:
        sys.exit("train-vs-ddp: error: this Python has no torch; pip install torch in a virtual environment and use its python")
    for model in STEPS:
        seen = {}
        for _ in range(options.rounds):
            seen.setdefault("apart", []).append(apart(options.bench, model))
            for members in (2, 1):
                seen.setdefault(("coord", members), []).append(ours(options.bench, model, members))
                seen.setdefault(("tcp", members), []).append(ours(options.bench, model, members, "tcp"))
                seen.setdefault(("ddp", members), []).append(theirs(model, members))
        middle = {key: statistics.median(values) for key, values in seen.items()}
        for who in ("coord", "tcp", "ddp"):
            efficiency = middle[who, 1] / middle[who, 2] / 2
            print(f"{model}  {who:5}  1 worker {middle[who, 1] * 1000:7.2f} ms  2 workers {middle[who, 2] * 1000:7.2f} ms  "
                  f"scaling efficiency {efficiency:.2f}")
        print(f"{model}  two apart at once {middle['apart'] * 1000:.2f} ms: these cores allow {middle['coord', 1] / middle['apart']:.2f}")
        print(f"{model}  coord over TCP / coord with 2 workers {middle['tcp', 2] / middle['coord', 2]:.2f}x")
        print(f"{model}  ddp/coord with 2 workers {middle['ddp', 2] / middle['coord', 2]:.2f}x, "
              f"with 1 worker {middle['ddp', 1] / middle['coord', 1]:.2f}x  (medians of {options.rounds} rounds, "
              f"load {os.getloadavg()[0]:.1f})")


if __name__ == "__main__":
    main()
