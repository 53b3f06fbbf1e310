#!/usr/bin/env python3
"""Usage: Benchmarks/epoch-vs-torch.py --images FOLDER [--rounds N] [--workers N] [--augment] [--python PYTHON]

Whole epochs of `simple_cnn` (32 and 64 filters, 128 wide, batch 64, SGD momentum) from a folder of class folders with JPEG
files, by turns in one run: coord with the files decoded while training, coord with the pixels that `coord data add` keeps of small
images, and PyTorch with a DataLoader of N worker processes, Pillow and the same normalisation. Both train on 98 % of the
images with two threads, and judge the rest; the time of an epoch is that of all of it. `--augment`: crops with a frame of 4
and mirrors, for both. Prints each turn, the medians and their ratio, and the load; seconds are of this machine alone.

Needs `swift build -c release -Xswiftc -enable-testing --product coord`, `scripts/build-worker coord-worker`, and in PYTHON
`pip install torch numpy pillow` (CPU).
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
from clusterlab import Lab, end_cleanly  # noqa: E402

BATCH, HELD_OUT = 64, 0.02


def torch_epoch(folder, workers, augment):
    """One epoch in this process; prints its seconds and the loss."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    from native_models import build

    files = sorted(pathlib.Path(folder).glob("*/*"))
    classes = sorted({file.parent.name for file in files})

    class Files(Dataset):
        def __init__(self, own, changes):
            self.own, self.changes = own, changes

        def __len__(self):
            return len(self.own)

        def __getitem__(self, index):
            file = self.own[index]
            x = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).float().div_(255)
            if self.changes:
                at = torch.randint(0, 9, (2,)).tolist()
                framed = torch.nn.functional.pad(x, (4, 4, 4, 4))
                x = framed[:, at[0]:at[0] + x.shape[1], at[1]:at[1] + x.shape[2]]
                if torch.rand(()) < 0.5:
                    x = x.flip(2)
            return x.sub(0.47).div_(0.25), classes.index(file.parent.name)

    torch.manual_seed(1)
    torch.set_num_threads(2)
    order = torch.randperm(len(files)).tolist()
    held = int(len(files) * HELD_OUT)
    shape = torch.from_numpy(np.array(Image.open(files[0]).convert("RGB"))).permute(2, 0, 1).shape
    training = DataLoader(Files([files[i] for i in order[held:]], augment), BATCH, shuffle=True, num_workers=workers)
    validation = DataLoader(Files([files[i] for i in order[:held]], False), 256, num_workers=workers)
    model = build({"type": "simple_cnn", "parameters": {"channels": [32, 64], "hidden": 128}}, list(shape), len(classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    begin, total = time.monotonic(), 0.0
    for x, y in training:
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in validation)
    print(json.dumps({"seconds": time.monotonic() - begin, "loss": total / (len(files) - held), "accuracy": right / held}))


def coord_epoch(lab, dataset, augment):
    """One epoch of the product."""
    lab.write(lab.host("a", 1, ", threads: 2"), {
        "model": "{ type: simple_cnn, channels: [32, 64], hidden: 128 }", "epochs": "1", "batch": str(BATCH), "lanes": "2",
        "optimizer": "{ type: sgd, learning_rate: 0.01, momentum: 0.9 }", "schedule": None, "split": f"{{ validation: {HELD_OUT} }}",
        "augment": "[ { type: crop, padding: 4 }, flip ]" if augment else "[]",
    }, dataset=dataset)
    epoch = next(event["metric"] for event in lab.json("up", "-y") if event.get("type") == "epoch")
    run = lab.run()
    return {"seconds": epoch["seconds"], "loss": epoch["train_loss"], "accuracy": epoch["val_accuracy"],
            "step": run["step_seconds"], "peak": run["memory"][-1]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--torch-turn", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch_turn:
        return torch_epoch(options.images, options.workers, options.augment)
    seen = {"coord, files": [], "coord, pixels": [], "PyTorch": []}
    end_cleanly()
    images = os.path.abspath(options.images)
    with Lab("epoch") as lab:
        for storage in ("files", "pixels"):
            lab.write(lab.host("a", 1), dataset=storage)
            begin = time.monotonic()
            lab.coord("data", "add", storage, images, "--store", storage)
            print(f"coord data add --store {storage}: {time.monotonic() - begin:.1f} s", flush=True)
        for turn in range(options.rounds):
            for side, results in seen.items():
                load = os.getloadavg()[0]
                if side == "PyTorch":
                    command = [options.python, __file__, "--torch-turn", "--images", images,
                               "--workers", str(options.workers)] + ["--augment"] * options.augment
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    if done.returncode:
                        sys.exit(f"PyTorch: {done.stderr}")
                    result = json.loads(done.stdout.splitlines()[-1])
                else:
                    result = coord_epoch(lab, side.split()[1], options.augment)
                results.append(result["seconds"])
                print(f"turn {turn + 1}, {side}: {result['seconds']:.1f} s, loss {result['loss']:.3f}, "
                      f"validation accuracy {result['accuracy']:.3f}, load {load:.1f}", flush=True)
                if "step" in result:
                    all_parts = sum(result["step"].values())
                    print("   " + ", ".join(f"{k} {100 * v / all_parts:.0f} %" for k, v in result["step"].items())
                          + f"; {result['peak']}", flush=True)
    medians = {side: statistics.median(results) for side, results in seen.items()}
    for side, seconds in medians.items():
        print(f"{side}: median {seconds:.1f} s, least {min(seen[side]):.1f} s, PyTorch takes {medians['PyTorch'] / seconds:.2f} times as long")


if __name__ == "__main__":
    main()
