#!/usr/bin/env python3
"""Prove the dependency rules on `swift package dump-package`; exit 1 and name each arrow that breaks one.

Prints the lines of code per floor, so that growth is seen.
"""
import json, pathlib, subprocess, sys

FLOORS = [
    {"CImages", "CJPEG", "CKernels", "COpenBLAS", "CPNG", "CSSH", "CZstd", "CShims"},
    {"Basics"},
    {"Images", "Tensors", "Collectives", "ContentStore", "Wire", "Remote", "ClusterFile", "Registry"},
    {"Training", "Datasets"},
    {"Coordinator", "Agent", "Serving"},
    {"coord", "coord-worker", "coord-serve", "coord-bench"},
]
NEVER = {  # door -> what must not be reachable from it
    "coord-worker": {"CSSH", "GRDB", "Yams", "Hummingbird", "ArgumentParser", "ServiceLifecycle"},
    "coord": {"COpenBLAS", "Tensors", "Training"},
    "coord-serve": {"CSSH", "GRDB", "Yams"},
}
package = json.loads(subprocess.check_output(["swift", "package", "dump-package"]))
edges = {
    t["name"]: {next(iter(d.values()))[0] for d in t["dependencies"]}
    for t in package["targets"]
}
floor = {name: i for i, names in enumerate(FLOORS) for name in names}
bad = [f"{t}: not on any floor" for t in edges if t not in floor and not t.endswith("Tests") and t != "CoordTesting"]
for t, deps in edges.items():
    if t not in floor:
        continue
    bad += [f"{t} (floor {floor[t]}) -> {d} (floor {floor[d]})" for d in deps if d in floor and floor[d] >= max(floor[t], 1)]
    bad += [f"{t} -> CoordTesting, which only tests may use" for d in deps if d == "CoordTesting"]


def reach(t, seen):
    for d in edges.get(t, ()):
        if d not in seen:
            seen.add(d)
            reach(d, seen)
    return seen


for door, never in NEVER.items():
    bad += [f"{door} reaches {x}" for x in sorted(reach(door, set()) & never)]


def lines(target):
    return sum(
        len(path.read_bytes().splitlines())
        for top in ("Sources", "Benchmarks", "Tests")
        for path in (pathlib.Path(top) / target).rglob("*")
        if path.suffix in {".swift", ".c", ".h"}
    )


for i, names in enumerate(FLOORS):
    counts = {t: lines(t) for t in sorted(names)}
    print(f"floor {i}: {sum(counts.values()):6} lines  " + "  ".join(f"{t} {n}" for t, n in counts.items()))
tests = sorted(t for t in edges if t not in floor)
print(f"tests:   {sum(map(lines, tests)):6} lines")
print("\n".join(bad) if bad else f"floors hold: {len(edges)} targets")
sys.exit(bool(bad))
