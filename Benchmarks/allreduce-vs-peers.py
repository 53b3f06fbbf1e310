#!/usr/bin/env python3
"""All-reduce of f32 over loopback: coord beside Gloo (torch) and MPICH, one process a member, all in one run.

    allreduce-vs-peers.py PATH/TO/coord-bench [--members 2,4] [--bytes 4096,...] [--rounds 5] [--ways tcp] [--json FILE]

In every round each contestant has its turn at the same size (A B C A B C ...); the figure of a turn is the median of its
iterations on member 0, the figure of a contestant the median over its turns. `limit` is what the same bytes take over
loopback TCP in both directions with nothing else done. Bus bandwidth is NCCL's: 2 (P - 1) / P * bytes / seconds.

Peers, each where its modules are found (`pip install torch mpich mpi4py`); what is missing is named. Gloo has no shared
memory; MPICH uses its own. coord's operations are committed: every member has the same digest before one ends.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

SIZES = [4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 25 << 20, 64 << 20]


def gloo_member(rank, world, folder):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/gloo", rank=rank, world_size=world)
    print("ready", flush=True)
    for line in sys.stdin:
        _, size, count = line.split()
        values = torch.zeros(int(size) // 4).fill_(0)
        seconds = []
        for _ in range(int(count) + 3):
            start = time.perf_counter()
            dist.all_reduce(values)
            seconds.append(time.perf_counter() - start)
        print(*seconds[3:], flush=True)


def mpich_member(world, folder):
    import numpy
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    # A wait inside MPI spins; between its turns a member waits for its own pipe instead.
    with open(f"{folder}/mpich.{comm.rank}.out", "w", buffering=1) as out, open(f"{folder}/mpich.{comm.rank}.in") as orders:
        print("ready", file=out)
        for line in orders:
            _, size, count = line.split()
            values = numpy.zeros(int(size) // 4, dtype=numpy.float32)
            values.fill(0)
            seconds = []
            for _ in range(int(count) + 3):
                start = time.perf_counter()
                comm.Allreduce(MPI.IN_PLACE, values)
                seconds.append(time.perf_counter() - start)
            print(*seconds[3:], file=out)


class Contestant:
    """Processes that obey the same lines at the same time."""

    def __init__(self, name, orders, answers, processes):
        self.name, self.orders, self.answers, self.processes = name, orders, answers, processes

    def turn(self, what, size, count):
        for pipe in self.orders:
            pipe.write(f"{what} {size} {count}\n")
            pipe.flush()
        lines = [pipe.readline().split() for pipe in self.answers]
        if not all(len(line) == count for line in lines):
            sys.exit(f"{self.name} failed at {size} bytes")
        return statistics.median(map(float, lines[0]))

    def end(self):
        for pipe in self.orders:
            pipe.close()
        for process in self.processes:
            process.wait(timeout=20)


def piped(command, **options):
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def coord(bench, way, world):
    processes = [piped([bench, "allreduce", str(rank), str(world), way]) for rank in range(world)]
    own = [process.stdout.readline().split() for process in processes]
    for process in processes:
        process.stdin.write(" ".join([a for a, _ in own] + [b for _, b in own]) + "\n")
    return Contestant(f"coord {way}", [p.stdin for p in processes], [p.stdout for p in processes], processes)


def gloo(world, folder):
    me = [sys.executable, __file__, "--as", "gloo"]
    processes = [piped(me + [str(rank), str(world), folder]) for rank in range(world)]
    for process in processes:
        process.stdout.readline()
    return Contestant("gloo", [p.stdin for p in processes], [p.stdout for p in processes], processes)


def mpich(world, folder):
    for rank in range(world):
        os.mkfifo(f"{folder}/mpich.{rank}.in")
        os.mkfifo(f"{folder}/mpich.{rank}.out")
    launcher = shutil.which("mpiexec", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    process = subprocess.Popen(
        [launcher, "-n", str(world), sys.executable, __file__, "--as", "mpich", "0", str(world), folder],
        stdin=subprocess.DEVNULL,
    )
    answers = [open(f"{folder}/mpich.{rank}.out") for rank in range(world)]
    orders = [open(f"{folder}/mpich.{rank}.in", "w") for rank in range(world)]
    for answer in answers:
        answer.readline()
    return Contestant("mpich", orders, answers, [process])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("--members", default="2,4")
    parser.add_argument("--bytes", default=",".join(map(str, SIZES)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", default="tcp")
    parser.add_argument("--json")
    options = parser.parse_args()
    if not pathlib.Path(options.bench).exists():
        sys.exit(f"no {options.bench}: swift build -c release --product coord-bench")
    has = {name: importlib.util.find_spec(name) is not None for name in ["torch", "mpi4py", "numpy"]}
    if not has["torch"]:
        print("without Gloo: no module torch (pip install torch)")
    if not (has["mpi4py"] and has["numpy"]):
        print("without MPICH: no module mpi4py or numpy (pip install mpich mpi4py numpy)")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} at the start, {options.rounds} rounds, medians")
    lines = []
    for world in map(int, options.members.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            contestants = [coord(options.bench, way, world) for way in options.ways.split(",")]
            if has["torch"]:
                contestants.append(gloo(world, folder))
            if has["mpi4py"] and has["numpy"]:
                contestants.append(mpich(world, folder))
            for size in map(int, options.bytes.split(",")):
                lines += compare(contestants, world, size, options.rounds)
            for contestant in contestants:
                contestant.end()
    print(f"load {os.getloadavg()[0]:.2f} at the end")
    if options.json:
        pathlib.Path(options.json).write_text("".join(json.dumps(line) + "\n" for line in lines))


def compare(contestants, world, size, rounds):
    count = max(3, min(200, (64 << 20) // size))
    wire = size * 2 * (world - 1) // world
    turns = {}
    for _ in range(rounds):
        turns.setdefault("limit", []).append(contestants[0].turn("copy", wire, count))
        for contestant in contestants:
            turns.setdefault(contestant.name, []).append(contestant.turn("reduce", size, count))
    medians = {name: statistics.median(seconds) for name, seconds in turns.items()}
    for name, seconds in medians.items():
        ratios = [
            f"{medians[peer] / seconds:5.2f}x {peer}" for peer in ["gloo", "mpich", "limit"]
            if peer in medians and peer != name and name.startswith("coord")
        ]
        print(
            f"{world} members {size:>9} bytes  {name:<12} {seconds * 1e6:10.1f} us "
            f"{wire / seconds / 1e9:7.2f} GB/s  {'  '.join(ratios)}",
            flush=True,
        )
    return [
        {"members": world, "bytes": size, "name": name, "seconds": seconds, "turns": turns[name], "load": os.getloadavg()[0]}
        for name, seconds in medians.items()
    ]


if __name__ == "__main__":
    if "--as" in sys.argv:
        kind, rank, world, folder = sys.argv[2:6]
        gloo_member(int(rank), int(world), folder) if kind == "gloo" else mpich_member(int(world), folder)
    else:
        main()
