"""What several parts of scripts/nettest use."""

import pathlib

FAST = 60_000  # MTU where throughput matters and packets do not
RUN = {"model": "{ type: mlp, hidden: [64] }", "epochs": "3"}
CNN = "{ type: simple_cnn, channels: [32, 64], hidden: 128 }"


def show(seconds):
    """Seconds, or milliseconds, for people."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def agent_of(host):
    """The pid of the agent on a host; None when there is none."""
    return next((pid for pid, line in host.processes().items() if b"\0agent\0" in line), None)


def cluster_id(lab):
    """The random name of a lab's cluster."""
    return (lab.folder / "artifacts" / "cluster-id").read_text().strip()


def agent_folder(lab, host):
    """Where the agent of a host keeps its things, as we see it."""
    return pathlib.Path(host.path(f"~/.coord/{cluster_id(lab)}"))
