#!/usr/bin/python3
"""Stands in a host's folder in place of coord-worker: as the real one, but its bridge lies about checkpoints.

What it does is the first word of the file `lie` beside it: `parent` and `absolute` rename a file of each checkpoint's manifest,
`size` says that it is larger than can be, `bytes` changes a byte of each batch of chunks, `cut` ends three transfers in their
middle.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
REAL = os.path.join(HERE, "real-worker")
SENTINEL = b"COORD-BRIDGE-1\n"
asked = None  # what the bytes that come next are about: the bytes of a lying manifest, "chunks", or nothing of interest


def read(stream, count):
    data = b""
    while len(data) < count:
        part = stream.read(count - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def frames(stream):
    while True:
        length = int.from_bytes(read(stream, 4), "little")
        body = read(stream, length)
        yield body[0], body[1:]


def send(stream, kind, payload):
    stream.write((len(payload) + 1).to_bytes(4, "little") + bytes([kind]) + payload)
    stream.flush()


def stored(data):
    """A zstd frame that holds the data as it is: a header with the size, then raw blocks."""
    parts = [data[i:i + (128 << 10)] for i in range(0, len(data), 128 << 10)] or [b""]
    blocks = (((len(part) << 3) | (part is parts[-1])).to_bytes(3, "little") + part for part in parts)
    return b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little") + b"".join(blocks)


def lie_about(root, digest, lie):
    """A manifest made of a real one; its digest. Kept beside the worker, for the connections that come later."""
    places = (os.path.join(folder, digest) for folder, _, names in os.walk(f"{root}/store/manifests") if digest in names)
    with open(next(places), "rb") as file:
        manifest = json.load(file)
    victim = manifest["files"][0]
    if lie == "parent":
        victim["name"] = "../../../../evil-file"
    elif lie == "absolute":
        victim["name"] = "/tmp/evil-file"
    elif lie == "size":
        victim["size"] = 1 << 50
    lying = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    name = hashlib.sha256(lying).hexdigest()
    with open(os.path.join(HERE, f"lie-{name}"), "wb") as target:
        target.write(digest.encode() + b"\n" + lying)
    return name


def from_coordinator(source, target):
    global asked
    for kind, payload in frames(source):
        if kind == 1:
            message = json.loads(payload)
            asked = "chunks" if "getChunks" in message else None
            if "getManifest" in message:
                name = message["getManifest"]["_0"]
                file = os.path.join(HERE, f"lie-{name}")
                if os.path.exists(file):
                    real, _, asked = open(file, "rb").read().partition(b"\n")
                    payload = json.dumps({"getManifest": {"_0": real.decode()}}).encode()
        send(target, kind, payload)
    os._exit(0)


def main():
    if "bridge" not in sys.argv[1:2]:
        os.execv(REAL, [REAL] + sys.argv[1:])
    lie = open(os.path.join(HERE, "lie")).read().strip()
    root = os.path.dirname(HERE)
    real = subprocess.Popen([REAL] + sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out = sys.stdout.buffer
    out.write(read(real.stdout, len(SENTINEL)))
    out.flush()
    threading.Thread(target=from_coordinator, args=(sys.stdin.buffer, real.stdin), daemon=True).start()
    for kind, payload in frames(real.stdout):
        if kind == 1 and lie in ("parent", "absolute", "size"):
            message = json.loads(payload)
            report = message.get("report", {})
            if "checkpoint" in report:
                report["checkpoint"]["manifest"] = lie_about(root, report["checkpoint"]["manifest"], lie)
                payload = json.dumps(message).encode()
        elif kind == 2 and payload:
            if asked == "chunks" and lie == "bytes":
                payload = payload[:-1] + bytes([payload[-1] ^ 1])
            elif asked == "chunks" and lie == "cut":
                count = os.path.join(HERE, "cuts")
                cuts = int(open(count).read()) if os.path.exists(count) else 0
                if cuts < 3:
                    open(count, "w").write(str(cuts + 1))
                    out.write((len(payload) + 1).to_bytes(4, "little") + b"\x02" + payload[:len(payload) // 2])
                    out.flush()
                    os._exit(0)
            elif asked and asked != "chunks":
                payload = stored(asked)
        send(out, kind, payload)


main()
