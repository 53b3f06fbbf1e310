#!/usr/bin/env python3
"""Usage: Benchmarks/learning-vs-torch.py mnist --data FOLDER [--seeds N] [--epochs N] [--python PYTHON]
       Benchmarks/learning-vs-torch.py cifar --data FOLDER [--seeds N] [--steps N] [--width N] [--lanes N] [--python PYTHON]

Whether the engine learns what PyTorch learns, by turns in one run, from the same settings and other seeds.

`mnist`: `simple_cnn` (32 and 64 filters, 128 wide, batch 64, SGD 0.02 with momentum 0.9) on an IDX folder, four fifths for training. Both
train on the engine's own split, computed here from the samples' ids, and with its normalisation. Prints each turn's accuracy
on the held-out fifth, and the medians.

`cifar`: the training loss of the first steps of `resnet18` (CIFAR stem, batch 64, SGD 0.05 with momentum 0.9 and weight decay
5e-4) on a folder of class folders, no changes of images. PyTorch takes the batch in as many parts as the engine has lanes, so that batch-norm sees
as many samples. Prints the mean loss of each tenth of the steps: the engine's, the least and the largest of PyTorch's, and how many
of PyTorch's deviations the engine's is from PyTorch's mean. Of exchangeable runs one in (N + 1) / 2 tenths lies outside the other N.

Needs `swift build -c release -Xswiftc -enable-testing --product coord`, `scripts/build-worker coord-worker`, and in PYTHON
`pip install torch numpy pillow` (CPU).
"""
import argparse
import gzip
import hashlib
import json
import os
import pathlib
import statistics
import shutil
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from clusterlab import Lab, end_cleanly  # noqa: E402

BATCH, TENTHS = 64, 10


def read_idx(folder):
    """Images `[N, 28, 28]` and labels of the only pair of IDX files in a folder."""
    import numpy as np

    def content(pattern, header):
        file = next(pathlib.Path(folder).glob(pattern))
        data = (gzip.open if file.suffix == ".gz" else open)(file, "rb").read()
        return np.frombuffer(data, np.uint8, offset=header)

    labels = content("*labels-idx1*", 8)
    return content("*images-idx3*", 16).reshape(len(labels), 28, 28), labels


def philox(key, c0, c1, c2, c3):
    """Philox4x32-10, as the engine draws (Salmon et al. 2011)."""
    mask, k0, k1 = 0xFFFFFFFF, key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & mask, (p0 >> 32) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1


def engine_split(images, labels, held_out, seed):
    """The engine's training and validation samples: of each class those first whose ids draw the least numbers."""
    header = b"".join(struct.pack("<I", len(word)) + word for word in (b"coord-sample 1", b"u8")) + struct.pack("<3I", 1, 28, 28)
    members = {}
    for place, image in enumerate(images):
        content = int.from_bytes(hashlib.sha256(header + image.tobytes()).digest()[:8], "big")
        draw = philox(seed, content & 0xFFFFFFFF, content >> 32, 0, 3 << 24)
        members.setdefault(int(labels[place]), []).append((draw, place))
    exact = {label: len(own) * held_out for label, own in members.items()}
    counts = {label: int(count) for label, count in exact.items()}
    short = round(len(labels) * held_out) - sum(counts.values())
    for label in sorted(exact, key=lambda label: (counts[label] - exact[label], label))[:short]:
        counts[label] += 1
    validation = sorted(place for label, own in members.items() for _, place in sorted(own)[:counts[label]])
    chosen = set(validation)
    return [place for place in range(len(labels)) if place not in chosen], validation


def torch_mnist(options):
    import torch

    from native_models import build

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    images, labels = read_idx(options.data)
    training, validation = engine_split(images, labels, 0.2, 1)
    x, y = torch.from_numpy(images.copy()).float().unsqueeze(1), torch.from_numpy(labels.copy()).long()
    mean, deviation = x[training].mean(), x[training].std(correction=0)
    x = (x - mean) / deviation
    model = build({"type": "simple_cnn", "parameters": {"channels": [32, 64], "hidden": 128}}, [1, 28, 28], 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, fused=True)
    for _ in range(options.epochs):
        order = torch.tensor(training)[torch.randperm(len(training))]
        for own in order.split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[own]), y[own]).backward()
            optimizer.step()
    with torch.no_grad():
        right = sum(int((model(x[own]).argmax(1) == y[own]).sum()) for own in torch.tensor(validation).split(256))
    print(json.dumps({"accuracy": right / len(validation), "mean": float(mean), "deviation": float(deviation)}))


def torch_cifar(options):
    import numpy as np
    import torch
    from PIL import Image

    from native_models import build

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    files = sorted(pathlib.Path(options.data).glob("*/*"))
    classes = sorted({file.parent.name for file in files})
    x = torch.from_numpy(np.stack([np.array(Image.open(file).convert("RGB")) for file in files])).permute(0, 3, 1, 2)
    y = torch.tensor([classes.index(file.parent.name) for file in files])
    values = x.transpose(0, 1).flatten(1).double()
    mean, deviation = (part.float().view(1, 3, 1, 1) for part in (values.mean(1), values.std(1, correction=0)))
    model = build({"type": "resnet18", "parameters": {"stem": "cifar", "width": options.width}}, [3, 32, 32], len(classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    losses = []
    for own in torch.randperm(len(files))[:options.steps * BATCH].split(BATCH):
        optimizer.zero_grad()
        total = 0.0
        for part in own.chunk(options.lanes):
            loss = torch.nn.functional.cross_entropy(model((x[part].float() - mean) / deviation), y[part]) / options.lanes
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
    print(json.dumps({"losses": losses}))


def train(lab, run, seed):
    """One run of the product: the last epoch's metrics and the loss of each step."""
    lab.write(lab.host("a", 1, ", threads: 2"), {**run, "batch": str(BATCH), "seed": str(seed), "schedule": None}, dataset="data")
    epochs = [event["metric"] for event in lab.json("up", "-y") if event.get("type") == "epoch"]
    return epochs[-1], [step["loss"] for step in lab.json("run", "logs", "latest", "--steps")]


def torch_turn(options, data, seed):
    command = [options.python, __file__, options.what, "--torch-turn", "--data", data, "--seed", seed, "--epochs", options.epochs,
               "--steps", options.steps, "--width", options.width, "--lanes", options.lanes]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"PyTorch: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def mnist(options, lab):
    lab.write(lab.host("a", 1))
    lab.coord("data", "add", "data", options.data)
    run = {
        "model": "{ type: simple_cnn, channels: [32, 64], hidden: 128 }", "epochs": str(options.epochs), "lanes": "2",
        "optimizer": "{ type: sgd, learning_rate: 0.02, momentum: 0.9 }", "split": "{ validation: 0.2, seed: 1 }",
    }
    ours, theirs = [], []
    for seed in range(1, options.seeds + 1):
        ours.append(train(lab, run, seed)[0]["val_accuracy"])
        theirs.append(torch_turn(options, options.data, seed)["accuracy"])
        print(f"seed {seed}: coord {ours[-1]:.4f}, PyTorch {theirs[-1]:.4f}, load {os.getloadavg()[0]:.1f}", flush=True)
    difference = statistics.median(ours) - statistics.median(theirs)
    print(f"medians of {options.seeds}: coord {statistics.median(ours):.4f}, PyTorch {statistics.median(theirs):.4f}, {difference:+.4f}")
    return difference >= -0.002


def cifar(options, lab):
    # As many images of each class as the steps need: one epoch is all of it.
    data = lab.folder / "images"
    count = -(-options.steps * BATCH * 100 // 98)
    kinds = sorted(path for path in pathlib.Path(options.data).iterdir() if path.is_dir())
    for kind in kinds:
        (data / kind.name).mkdir(parents=True)
        for file in sorted(kind.iterdir())[:-(-count // len(kinds))]:
            shutil.copyfile(file, data / kind.name / file.name)
    lab.write(lab.host("a", 1))
    lab.coord("data", "add", "data", data)
    run = {
        "model": f"{{ type: resnet18, stem: cifar, width: {options.width} }}", "epochs": "1", "lanes": str(options.lanes),
        "optimizer": "{ type: sgd, learning_rate: 0.05, momentum: 0.9, weight_decay: 5e-4 }", "split": "{ validation: 0.02 }",
    }

    def tenths(losses):
        size = options.steps // TENTHS
        return [statistics.mean(losses[size * i:size * (i + 1)]) for i in range(TENTHS)]

    theirs = []
    for seed in range(1, options.seeds + 1):
        if seed == (options.seeds + 1) // 2:
            ours = tenths(train(lab, run, seed)[1])
            print(f"coord: {' '.join(f'{loss:.3f}' for loss in ours)}, load {os.getloadavg()[0]:.1f}", flush=True)
        theirs.append(tenths(torch_turn(options, data, seed)["losses"]))
        print(f"PyTorch, seed {seed}: {' '.join(f'{loss:.3f}' for loss in theirs[-1])}, load {os.getloadavg()[0]:.1f}", flush=True)
    inside, farthest = 0, 0.0
    for i, loss in enumerate(ours):
        own = [curve[i] for curve in theirs]
        away = (loss - statistics.mean(own)) / max(1e-9, statistics.stdev(own))
        inside += min(own) <= loss <= max(own)
        farthest = max(farthest, abs(away))
        print(f"tenth {i + 1}: coord {loss:.3f}, PyTorch {min(own):.3f} to {max(own):.3f}, {away:+.1f} deviations")
    print(f"{inside} of {TENTHS} tenths inside PyTorch's spread, at most {farthest:.1f} deviations from its mean")
    # The 99.9th percentile of Student's t for a further one of five, for all ten together about one in a hundred.
    return farthest < 8.6 * (1 + 1 / options.seeds) ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["mnist", "cifar"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--torch-turn", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.data = os.path.abspath(options.data)
    if options.torch_turn:
        return (torch_mnist if options.what == "mnist" else torch_cifar)(options)
    end_cleanly()
    with Lab("learning") as lab:
        holds = (mnist if options.what == "mnist" else cifar)(options, lab)
    return None if holds else sys.exit("learning-vs-torch: outside what chance allows")


if __name__ == "__main__":
    main()
