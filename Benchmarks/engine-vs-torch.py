#!/usr/bin/env python3
"""Usage: Benchmarks/engine-vs-torch.py [--rounds N] [--rows NAME,...] [--threads 1,2] [--lanes 1,auto,16] [--cpu] [--bench PROGRAM]

Whole training steps (forward, backward, update) of the native engine and of PyTorch on the CPU, by turns A B A B in one
run: the same model, global batch, optimizer, number type and threads. Prints the medians of all turns' steps and the ratio
of PyTorch's to the engine's, the least step of each in brackets, GFLOP/s and its fraction of OpenBLAS's best sgemm on as many
threads, and the most memory that each process had. What a machine shares with others moves both sides: the load is
printed, and only ratios within one run are stated.

PyTorch is measured at its best: oneDNN on, fused optimizers, and for images whichever of the two memory formats is faster
here. With --cpu the figures are time on the CPU instead of by the clock, the engine's as the difference of a long and a short run:
for one thread on a machine that others use. FLOP are those of the plain algorithm, counted by PyTorch, so that a faster algorithm shows as more of them a second.
`lanes`: 1 is PyTorch's own batch; 16 becomes the most lanes that the batch and batch-norm (8 samples a lane) allow.

Needs `swift build -c release --product coord-bench` and, in the Python that runs this, `pip install torch numpy` (CPU).
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

# Row: the engine's workload, the model, a sample, classes, batch, most lanes, steps of a turn, PyTorch's autocast, the goal.
ROWS = {
    "simple_cnn": ("simple_cnn", "simple_cnn", {}, [1, 28, 28], 10, 64, 16, 30, False, 2.0),
    "mlp": ("mlp", "mlp", {"hidden": [512, 256]}, [784], 10, 64, 16, 200, False, 1.15),
    "gpt": ("gpt", "gpt", {"layers": 4, "heads": 4, "features": 128}, [64], 65, 12, 4, 25, False, 1.2),
    "resnet18": ("resnet18", "resnet18", {"stem": "cifar"}, [3, 32, 32], 10, 64, 8, 3, False, 1.2),
    "resnet18-bf16": ("resnet18-bf16", "resnet18", {"stem": "cifar"}, [3, 32, 32], 10, 64, 8, 3, True, 1.5),
    "mobilenet_v2": ("mobilenet_v2", "mobilenet_v2", {}, [3, 64, 64], 10, 64, 8, 3, False, "-"),
}


def peak_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def torch_member(row, threads, layout, clock):
    """A process that trains as many steps as each line of its input says, and answers with a line of JSON."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from native_models import build

    _, model, parameters, shape, classes, batch, _, _, is_bf16, _ = ROWS[row]
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    module = build({"type": model, "parameters": parameters}, shape, classes)
    if model == "gpt":
        data, labels = torch.randint(0, classes, (256, *shape)), torch.randint(0, classes, (256, *shape))
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    else:
        data, labels = torch.rand(256, *shape), torch.arange(256) % classes
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, fused=True)
    if layout == "channels_last":
        module = module.to(memory_format=torch.channels_last)
    at = 0

    def step():
        nonlocal at
        places = torch.arange(at, at + batch) % len(data)
        at += batch
        x, y = data[places], labels[places]
        if layout == "channels_last":
            x = x.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            logits = module(x)
        loss = torch.nn.functional.cross_entropy(logits.float().view(-1, classes), y.view(-1))
        loss.backward()
        optimizer.step()
        loss.item()

    with FlopCounterMode(display=False) as counter:
        step()
    print(json.dumps({"flop": counter.get_total_flops(), "version": torch.__version__}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = clock()
            step()
            seconds.append(clock() - start)
        print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}), flush=True)


class Torch:
    """PyTorch in a process of its own, with the faster layout of images."""

    def __init__(self, row, threads, clock):
        tried = []
        for layout in ["contiguous", "channels_last"] if len(ROWS[row][3]) == 3 else ["contiguous"]:
            process = subprocess.Popen(
                [sys.executable, __file__, "--member", row, str(threads), layout, clock],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=dict(os.environ, OMP_NUM_THREADS=str(threads)))
            said = json.loads(process.stdout.readline())
            self.flop, self.version = said["flop"], said["version"]
            tried.append([float("inf"), layout, process])
        # By turns, and the least of each: what a busy machine disturbs least.
        for _ in range(4 if len(tried) > 1 else 1):
            for one in tried:
                self.process = one[2]
                one[0] = min(one[0], *self.steps(1 + ROWS[row][7] // 3)["seconds"])
        tried.sort(key=lambda one: one[0])
        _, self.layout, self.process = tried[0]
        for _, _, other in tried[1:]:
            other.stdin.close()
            other.wait()

    def steps(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def engine(bench, row, threads, lanes, steps):
    """One turn of the engine; its first fifth finds cold caches and unmapped pages."""
    number = 0 if lanes == "auto" else min(int(lanes), ROWS[row][6])
    command = [bench, "step", ROWS[row][0], threads, number, steps + max(2, steps // 4)]
    said, _ = run(command)
    said["seconds"] = said["seconds"][-steps:]
    return said


def engine_on_cpu(bench, row, threads, lanes, steps):
    """One turn as seconds on the CPU a step: what that many steps more take."""
    number = 0 if lanes == "auto" else min(int(lanes), ROWS[row][6])
    command = [bench, "step", ROWS[row][0], threads, number]
    _, short = run([*command, 2])
    said, long = run([*command, 2 + steps])
    said["seconds"] = [(long - short) / steps]
    return said


def run(command):
    """What a benchmark says, and the seconds that it had on the CPU."""
    before = os.times()
    out = subprocess.check_output(list(map(str, command)), text=True, env=environment())
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(out.splitlines()[-1]), spent


def environment():
    """OpenBLAS picks its kernels when a process starts: the widest set that this CPU has, as `kernels: auto` does."""
    with open("/proc/cpuinfo") as file:
        flags = next((line for line in file if line.startswith("flags")), "").split()
    core = "SkylakeX" if "avx512bw" in flags else "Haswell" if "avx2" in flags else "Nehalem"
    return dict(os.environ, OPENBLAS_CORETYPE=core, OPENBLAS_NUM_THREADS="1")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--lanes", default="1,auto,16")
    parser.add_argument("--bench", default=str(ROOT / ".build/release/coord-bench"))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--member", nargs=4)
    arguments = parser.parse_args()
    if arguments.member:
        clock = time.process_time if arguments.member[3] == "cpu" else time.perf_counter
        return torch_member(arguments.member[0], int(arguments.member[1]), arguments.member[2], clock)
    turn_of_engine = engine_on_cpu if arguments.cpu else engine
    peak = 0
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("| row | threads | lanes | engine ms (least) | PyTorch ms (least) | ratio (least) | goal | GFLOP/s |"
          " of sgemm | MB | PyTorch MB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in arguments.rows.split(","):
        _, _, _, _, _, _, _, steps, _, goal = ROWS[row]
        for threads in map(int, arguments.threads.split(",")):
            theirs, ours = [], {}
            said = subprocess.check_output([arguments.bench, "gemm"], text=True, env=environment())
            peak = max(peak, json.loads(said)["gigaflops"])
            peer = Torch(row, threads, "cpu" if arguments.cpu else "wall")
            for _ in range(arguments.rounds):
                for lanes in arguments.lanes.split(","):
                    turn = turn_of_engine(arguments.bench, row, threads, lanes, steps)
                    kept = ours.setdefault(lanes, {"seconds": [], "peak": 0, "lanes": turn["lanes"]})
                    kept["seconds"] += turn["seconds"]
                    kept["peak"] = max(kept["peak"], turn["peak_bytes"])
                    turn = peer.steps(steps)
                    theirs += turn["seconds"]
                    their_peak = turn["peak_bytes"]
            peer.close()
            b, b0 = statistics.median(theirs), min(theirs)
            for lanes, kept in ours.items():
                a, a0 = statistics.median(kept["seconds"]), min(kept["seconds"])
                rate = peer.flop / a / 1e9
                print(
                    f"| {row} | {threads} | {kept['lanes']}{' (auto)' if lanes == 'auto' else ''} "
                    f"| {a * 1e3:.2f} ({a0 * 1e3:.2f}) | {b * 1e3:.2f} ({b0 * 1e3:.2f}) {peer.layout} "
                    f"| {b / a:.2f} ({b0 / a0:.2f}) | {goal} | {rate:.0f} | {rate / peak / threads:.2f} "
                    f"| {kept['peak'] / 1e6:.0f} | {their_peak / 1e6:.0f} |", flush=True)
    print(f"PyTorch {peer.version}, OpenBLAS's sgemm {peak:.0f} GFLOP/s a thread at best, load {os.getloadavg()[0]:.1f}")
    return None


if __name__ == "__main__":
    main()
