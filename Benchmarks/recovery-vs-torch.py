#!/usr/bin/env python3
"""Usage: Benchmarks/recovery-vs-torch.py [--workers N] [--rounds N] [--seed N]

How long training stands still after kill -9 of one worker of four: coord, torchft (as it comes, and with its join limit at 1 s) and
torchrun with restart, by turns in one run. The stall is the longest time without a step that is new, less the median step.

  coord     Benchmarks/recovery.py, kind kill
  torchft   a replica group of one process a worker, ProcessGroupGloo (limit 10 s), its
            DistributedDataParallel and Optimizer, its lighthouse beside them
  torchrun  DistributedDataParallel over Gloo, --max-restarts, a checkpoint each 10 steps: what was done since is done again, and counts
            as no new step

Needs a build of coord and scripts/build-worker, and in the Python that runs this `pip install torch torchft opentelemetry-sdk
opentelemetry-exporter-otlp-proto-http` (CPU); what is missing is named and left out.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from clusterlab import Failure, end_cleanly, free_port, wait_for  # noqa: E402

STEPS = 100_000
LONGEST = 60  # seconds that going on is waited for; who has not by then counts as that


def model_of(torch):
    """A small convolution network and a batch, the same for both peers."""
    torch.manual_seed(7)
    torch.set_num_threads(1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.ReLU(),
        torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(64 * 16, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    return net, torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))


class Log:
    """Steps as they are done: one line each, with the time."""

    def __init__(self, folder, name):
        self.file = open(pathlib.Path(folder) / f"steps-{name}", "a", buffering=1)

    def step(self, number):
        self.file.write(json.dumps([time.time(), number]) + "\n")


def steps_in(folder):
    """[time, step] of all that was logged, in order of time."""
    lines = [line for file in pathlib.Path(folder).glob("steps-*") for line in file.read_text().splitlines() if line.endswith("]")]
    return sorted(map(json.loads, lines))


def torchrun_member(folder):
    import torch
    import torch.distributed as dist
    dist.init_process_group("gloo")
    net, x, y = model_of(torch)
    kept = pathlib.Path(folder) / "kept.pt"
    done = 0
    optimizer = torch.optim.AdamW(net.parameters())
    if kept.exists():
        state = torch.load(kept)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    net = torch.nn.parallel.DistributedDataParallel(net)
    rank = dist.get_rank()
    log = Log(folder, f"{rank}-{os.getpid()}")
    (pathlib.Path(folder) / f"pid-{os.getpid()}").touch()
    for step in range(done, STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        if rank == 0:
            log.step(step)
            if step % 10 == 9:
                torch.save({"net": net.module.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, f"{kept}.new")
                os.replace(f"{kept}.new", kept)


def torchft_member(folder, index):
    from datetime import timedelta
    import torch
    from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupGloo
    net, x, y = model_of(torch)
    optimizer = torch.optim.AdamW(net.parameters())
    port = int(os.environ["MASTER_PORT"])
    _store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=10)), min_replica_size=1, replica_id=f"r{index}",
        load_state_dict=lambda state: (net.load_state_dict(state["net"]), optimizer.load_state_dict(state["optimizer"])),
        state_dict=lambda: {"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    wrapped, optimizing = DistributedDataParallel(manager, net), Optimizer(manager, optimizer)
    log = Log(folder, f"{index}-{os.getpid()}")
    (pathlib.Path(folder) / f"pid-{os.getpid()}").touch()
    while manager.current_step() < STEPS:
        before = manager.current_step()
        optimizing.zero_grad()
        torch.nn.functional.cross_entropy(wrapped(x), y).backward()
        optimizing.step()
        if manager.current_step() > before:
            log.step(manager.current_step())


def stall_after(folder, moment, until):
    """The longest time without a new step after a moment, less the usual one."""
    fresh, best = [], -1
    for when, step in steps_in(folder):
        if step > best:
            fresh.append(when)
            best = step
    usual = statistics.median(b - a for a, b in zip(fresh, fresh[1:]) if b < moment)
    near = [when for when in fresh if when < until]
    return max(b - a for a, b in zip(near, near[1:]) if b > moment) - usual, usual


def strike(folder, processes, chance, victims):
    """kill -9 of one worker in the middle of the work; the stall, once work goes on."""
    wait_for("steps", lambda: len(steps_in(folder)) > 200, 120)
    time.sleep(chance.uniform(0.5, 1.5))
    victim = chance.choice(victims())
    known, moment = max(step for _, step in steps_in(folder)), time.time()
    os.kill(victim, signal.SIGKILL)
    try:
        wait_for("steps after the kill", lambda: max(step for _, step in steps_in(folder)) > known + 30, LONGEST)
    except Failure:
        return LONGEST, 0
    for process in processes:
        process.kill()
        process.wait()
    return stall_after(folder, moment, time.time())


def members_of(folder):
    return [int(file.name[4:]) for file in pathlib.Path(folder).glob("pid-*") if pathlib.Path(f"/proc/{file.name[4:]}").exists()]


def torchrun(workers, chance):
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={workers}", "--max-restarts=3", "--monitor-interval=0.1",
             f"--master-port={free_port()}", __file__, "--member", "torchrun", folder],
            env=dict(os.environ, OMP_NUM_THREADS="1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return strike(folder, [], chance, lambda: members_of(folder))
        finally:
            run.terminate()
            run.wait()


def torchft(workers, chance, join_limit):
    place = free_port()
    lighthouse = subprocess.Popen(
        [pathlib.Path(sys.executable).parent / "torchft_lighthouse", "--bind", f"127.0.0.1:{place}",
         "--min_replicas", "2", *(["--join_timeout_ms", str(join_limit)] if join_limit else [])],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for index in range(workers):
            environment = dict(os.environ, OMP_NUM_THREADS="1", TORCHFT_LIGHTHOUSE=f"http://127.0.0.1:{place}", RANK="0", WORLD_SIZE="1",
                               MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
            processes.append(subprocess.Popen(
                [sys.executable, __file__, "--member", "torchft", folder, str(index)], env=environment,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        try:
            return strike(folder, processes, chance, lambda: [process.pid for process in processes])
        finally:
            for process in processes:
                process.kill()
                process.wait()
            lighthouse.kill()
            lighthouse.wait()


def coord(workers, faults, seed):
    from argparse import Namespace
    spec = importlib.util.spec_from_file_location("recovery", ROOT / "Benchmarks" / "recovery.py")
    recovery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recovery)
    options = Namespace(faults=faults, workers=workers, hosts=workers, seconds=15.0, profile=False)
    return recovery.campaign("kill", options, random.Random(seed))


def main():
    if "--member" in sys.argv:
        kind, folder, *index = sys.argv[sys.argv.index("--member") + 1:]
        return torchrun_member(folder) if kind == "torchrun" else torchft_member(folder, *index)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5, help="faults of each peer; coord has as many a round as leave two workers")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    end_cleanly()
    chance = random.Random(options.seed)
    ways = {}
    if importlib.util.find_spec("torch"):
        ways["torchrun"] = lambda: torchrun(options.workers, chance)
        if importlib.util.find_spec("torchft"):
            ways["torchft"] = lambda: torchft(options.workers, chance, None)
            ways["torchft, join limit 1 s"] = lambda: torchft(options.workers, chance, 1000)
        else:
            print("torchft is not installed: left out")
    else:
        print("torch is not installed: only coord is measured")
    stalls = {name: [] for name in ["coord", *ways]}
    loads = []
    for number in range(options.rounds):
        stalls["coord"] += coord(options.workers, options.workers - 2, options.seed + number)
        for name, way in ways.items():
            stall, usual = way()
            stalls[name].append(stall)
            print(f"{name}: {stall:.2f} s (usual step {usual * 1000:.0f} ms, load {os.getloadavg()[0]:.1f})", flush=True)
        loads.append(os.getloadavg()[0])
    for name, found in stalls.items():
        print(f"{name}: {len(found)} faults, {options.workers} workers, stall p50 {statistics.median(found):.2f} s, max {max(found):.2f} s "
              f"(load {statistics.median(loads):.1f})")


if __name__ == "__main__":
    main()
