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

from native_models import build


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    with open(os.path.join(arguments.folder, "model.json")) as file:
        signature = json.load(file)
    golden = load_file(os.path.join(arguments.folder, "golden.safetensors"))
    module = build(signature["model"], signature["inputShape"], len(signature["classes"]))
    # PyTorch's batch-norm counts batches, which nothing needs.
    missing, unknown = module.load_state_dict(
        load_file(os.path.join(arguments.folder, "model.safetensors")), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown:
        sys.exit(f"check-model: missing {missing}, unknown {unknown}")
    module.eval()
    inputs = golden["inputs"]
    per_channel = [1, -1] + [1] * (inputs.dim() - 2) if len(signature["mean"]) > 1 else [1] * inputs.dim()
    mean = torch.tensor(signature["mean"], dtype=torch.float32).reshape(per_channel)
    deviation = torch.tensor(signature["deviation"], dtype=torch.float32).reshape(per_channel)
    with torch.no_grad():
        logits = module((inputs - mean) / deviation)
    if logits.dim() == 3:
        # A language model answers at each token; what is served is what follows the last.
        logits = logits[:, -1]
    difference = (logits - golden["logits"]).abs().max().item()
    right = (golden["logits"].argmax(1) == golden["labels"]).sum().item()
    print(f"largest difference {difference:.3g} over {len(inputs)} examples, {right} of them right")
    # Not "difference > tolerance": a NaN must fail.
    sys.exit(0 if difference <= arguments.tolerance else 1)


if __name__ == "__main__":
    main()
