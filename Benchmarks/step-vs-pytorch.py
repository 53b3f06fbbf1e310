#!/usr/bin/env python3
"""Run `coord-bench step` and the same training steps in PyTorch in turns, and print the ratios.

    step-vs-pytorch.py PATH/TO/coord-bench [rounds] [threads]

Interleaved, because a shared machine's speed changes by the minute: only ratios within one run are stated. The
median of a crowded machine favours whoever waits less for its threads; the best step is the quiet machine's.
"""
import json
import statistics
import subprocess
import sys
import time

import torch
from torch import nn

BATCH = 64
THREADS = int(sys.argv[3]) if len(sys.argv) > 3 else 2
torch.set_num_threads(THREADS)


def mlp():
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10),
    )


def torch_seconds(make, shape, steps):
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    data, labels = torch.rand(512, *shape), torch.arange(512) % 10
    seconds = []
    for step in range(steps):
        start = time.perf_counter()
        at = step * BATCH % 512
        loss = nn.functional.cross_entropy(model(data[at:at + BATCH]), labels[at:at + BATCH])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - start)
    kept = seconds[steps // 5:]
    return statistics.median(kept), min(kept)


ours, theirs = {}, {}
rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
for _ in range(rounds):
    lines = subprocess.check_output([sys.argv[1], "step", str(THREADS), "2", "200"], text=True).splitlines()
    for line in map(json.loads, lines):
        ours.setdefault(line["model"], []).append((line["p50_ms"] / 1000, line["min_ms"] / 1000))
    theirs.setdefault("mlp-784-512-256-10", []).append(torch_seconds(mlp, [784], 200))
    theirs.setdefault("simple_cnn-1x28x28", []).append(torch_seconds(cnn, [1, 28, 28], 25))
for name in ours:
    for index, what in enumerate(["median", "best"]):
        pick = min if index else statistics.median
        a, b = pick(x[index] for x in ours[name]), pick(x[index] for x in theirs[name])
        print(
            f"{name}, {what} step: coord {BATCH / a:.0f} samples/s, PyTorch {torch.__version__} "
            f"{BATCH / b:.0f} samples/s, ratio {b / a:.2f}"
        )
