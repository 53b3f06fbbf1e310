#!/usr/bin/env python3
"""Load a checkpoint of the native engine into PyTorch and compare its outputs with the golden ones.

    check-model.py FOLDER [--tolerance 1e-4]

FOLDER holds model.safetensors, model.json and golden.safetensors. Prints the largest difference of a logit;
ends with 1 when it is above the tolerance. Needs torch and safetensors.
"""
import argparse
import json
import os
import sys

import torch
from safetensors.torch import load_file
from torch import nn


class Dense(nn.Module):
    """`linear` (no hidden layer) and `mlp`."""

    def __init__(self, features, hidden, classes):
        super().__init__()
        sizes = [features, *hidden, classes]
        self.depth = len(sizes) - 1
        for i in range(self.depth):
            setattr(self, f"fc{i + 1}", nn.Linear(sizes[i], sizes[i + 1]))

    def forward(self, x):
        x = x.flatten(1)
        for i in range(self.depth):
            x = getattr(self, f"fc{i + 1}")(x)
            if i + 1 < self.depth:
                x = torch.relu(x)
        return x


class SimpleCNN(nn.Module):
    """`simple_cnn`: (3x3 convolution, relu, 2x2 max pool) for each of `channels`, then two dense layers."""

    def __init__(self, shape, channels, hidden, classes):
        super().__init__()
        self.depth = len(channels)
        c, h, w = shape
        for i, filters in enumerate(channels):
            setattr(self, f"conv{i + 1}", nn.Conv2d(c, filters, 3, padding=1))
            c, h, w = filters, h // 2, w // 2
        self.fc1 = nn.Linear(c * h * w, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x):
        for i in range(self.depth):
            x = nn.functional.max_pool2d(torch.relu(getattr(self, f"conv{i + 1}")(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def build(signature):
    kind, parameters = signature["model"]["type"], signature["model"]["parameters"]
    shape, classes = signature["inputShape"], len(signature["classes"])
    features = 1
    for size in shape:
        features *= size
    if kind == "linear":
        return Dense(features, [], classes)
    if kind == "mlp":
        return Dense(features, parameters.get("hidden", [128]), classes)
    if kind == "simple_cnn":
        return SimpleCNN(shape, parameters.get("channels", [32, 64]), parameters.get("hidden", 128), classes)
    sys.exit(f"check-model: there is no model {kind} here")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    with open(os.path.join(arguments.folder, "model.json")) as file:
        signature = json.load(file)
    golden = load_file(os.path.join(arguments.folder, "golden.safetensors"))
    module = build(signature)
    module.load_state_dict(load_file(os.path.join(arguments.folder, "model.safetensors")))
    module.eval()
    inputs = golden["inputs"]
    per_channel = [1, -1] + [1] * (inputs.dim() - 2) if len(signature["mean"]) > 1 else [1] * inputs.dim()
    mean = torch.tensor(signature["mean"], dtype=torch.float32).reshape(per_channel)
    deviation = torch.tensor(signature["deviation"], dtype=torch.float32).reshape(per_channel)
    with torch.no_grad():
        logits = module((inputs - mean) / deviation)
    difference = (logits - golden["logits"]).abs().max().item()
    right = (golden["logits"].argmax(1) == golden["labels"]).sum().item()
    print(f"largest difference {difference:.3g} over {len(inputs)} examples, {right} of them right")
    # Not "difference > tolerance": a NaN must fail.
    sys.exit(0 if difference <= arguments.tolerance else 1)


if __name__ == "__main__":
    main()
