"""Parts of scripts/nettest about hosts that cannot dial each other: gradients go over SSH, and nothing is lost by it."""

import os
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from common import CNN, agent_folder  # noqa: E402
from netlab import Ledger, NetLab, check, wait_for  # noqa: E402

MLP = {"model": "{ type: mlp, hidden: [256, 128] }", "epochs": "4"}
CNN_RUN = {"model": CNN, "lanes": "8"}
FAST = 60000


def routes(lab):
    """What `coord status` says of each pair, by its hosts."""
    return {tuple(line["hosts"]): line for line in lab.json("status") if line["type"] == "route"}


def alone(lab, run):
    """Weights of the same run on this machine alone."""
    file, lab.file = lab.file, lab.folder / "alone" / "cluster.yaml"
    lab.file.parent.mkdir()
    try:
        lab.write(lab.host("alone", 2), run, name="alone/cluster.yaml")
        lab.digits()
        lab.coord("up", "-y")
        weights = lab.run()["weights_sha256"]
        lab.coord("down", "-y")
        return weights
    finally:
        lab.file = file


def relay_over_this_machine():
    """Two hosts behind NAT with only SSH reachable: gradients meet on this machine, the weights are those of one machine."""
    with NetLab("relay", mtu=FAST) as lab:
        a, b = lab.add_host("a", nat=True), lab.add_host("b", nat=True)
        lab.trust(a, b)
        lab.write(lab.entry(a) + lab.entry(b), MLP)
        lab.digits()
        out = lab.coord("up", "-y")
        run = lab.run()
        check(run["state"] == "finished" and lab.upheavals() == 1, f"{run['state']}, {run['generations']} generations")
        words = [message for message in lab.events("route") if "over this machine" in message]
        check(len(words) == 1 and "they pause while it is away" in words[0], f"events say {lab.events('route')}")
        check(words[0] in out.stdout + out.stderr, f"`coord up` does not say it:\n{out.stdout}{out.stderr}")
        check(run["weights_sha256"] == alone(lab, MLP), "other weights than on one machine")
        return f"{words[0]}; weights {run['weights_sha256'][:12]}"


def lasting(lab, hosts):
    """A run that lasts some seconds on these hosts, however fast they are."""
    lab.write(hosts)
    lab.digits()
    return lab.lasting(hosts, MLP, seconds=6.0)


def relayed_pair_waits_for_this_machine():
    """kill -9 of the coordinator, which carries the gradients: members wait, the next one makes new links, same weights."""
    with NetLab("relayaway", mtu=FAST) as lab:
        a, b = lab.add_host("a", nat=True), lab.add_host("b", nat=True)
        lab.trust(a, b)
        hosts = lab.entry(a) + lab.entry(b)
        run = lasting(lab, hosts)
        lab.write(hosts, run)
        before = lab.run()["run"]
        up = lab.start("up", "-y")
        wait_for("a new run", lambda: lab.run()["run"] != before)
        wait_for("epoch 1", lambda: lab.run()["epoch"] >= 1)
        pairs = routes(lab)
        check(pairs[("a", "b")]["way"] == "relay" and pairs[("a", "b")]["pauses_without_this_machine"], f"status says {pairs}")
        trainers = lab.trainers()
        check(len(trainers) == 2, f"{len(trainers)} trainers")
        lab.kill_coordinator()
        up.communicate(timeout=30)
        known = lab.run()["step"]
        check(lab.trainers() == trainers, "a trainer ended with the coordinator")
        lab.coord("up", "-y")
        ended = lab.run()
        check(ended["state"] == "finished", f"the run is {ended['state']}: {ended['message']}")
        check(lab.upheavals() == 2, f"{ended['generations']} generations: {lab.events('membership')}")
        check(ended["weights_sha256"] == alone(lab, run), "other weights than on one machine")
        return f"killed at step {known} of {ended['step']}: the same two trainers end with {ended['weights_sha256'][:12]}"


def kill_across_a_relay_is_harmless():
    """kill -9 of a trainer whose gradients are relayed: the other host goes on alone to the same weights."""
    with NetLab("relaykill", mtu=FAST) as lab:
        a, b = lab.add_host("a", nat=True), lab.add_host("b", nat=True)
        lab.trust(a, b)
        hosts = lab.entry(a) + lab.entry(b)
        run = lasting(lab, hosts)
        lab.write(hosts, run)
        before = lab.run()["run"]
        up = lab.start("up", "-y")
        wait_for("a new run", lambda: lab.run()["run"] != before)
        wait_for("epoch 1", lambda: lab.run()["epoch"] >= 1)
        victim = next(pid for pid, line in b.processes().items() if b"\0train\0" in line)
        os.kill(victim, signal.SIGKILL)
        out, err = up.communicate(timeout=120)
        check(up.returncode == 0, f"up ended with {up.returncode}\n{out}{err}")
        ended = lab.run()
        check(lab.upheavals() == 2, f"{ended['generations']} generations: {lab.events('membership')}")
        check(ended["weights_sha256"] == alone(lab, run), "other weights after the kill")
        return f"{ended['generations']} generations, weights {ended['weights_sha256'][:12]}"


def workers_of_a_host_add_up_first():
    """Two hosts of two workers each, 200 Mbit/s apart, a model of several buckets: two levels, and kill -9 of one trainer on each
    host, whatever was on its way, leaves the weights of one machine."""
    run = {"model": "{ type: mlp, hidden: [1024, 1024] }", "epochs": "3", "lanes": "8"}
    with NetLab("levels", mtu=FAST) as lab:
        a, b = lab.add_host("a"), lab.add_host("b")
        for one, other in ((a, b), (b, a)):
            lab.way(one, other, rate=25e6, delay=0.001)
        lab.trust(a, b)
        lab.write(lab.entry(a, workers=2) + lab.entry(b, workers=2), run)
        lab.digits()
        up = lab.start("up", "-y")
        wait_for("a run", Ledger(lab).run)
        # As long as no worker is taken for slow: two levels pay for an even share of the lanes.
        wait_for("run show says two levels", lambda: lab.run()["exchange"] == "sync, in two levels")
        out, err = up.communicate(timeout=300)
        check(up.returncode == 0, f"up ended with {up.returncode}\n{out}{err}")
        whole = lab.run()
        up = lab.start("up", "-y")
        wait_for("a new run", lambda: lab.run()["run"] != whole["run"])
        for host, steps in ((b, 5), (a, 30)):
            wait_for(f"step {steps}", lambda steps=steps: lab.run()["step"] >= steps)
            os.kill(next(pid for pid, line in host.processes().items() if b"\0train\0" in line), signal.SIGKILL)
        out, err = up.communicate(timeout=300)
        check(up.returncode == 0, f"up ended with {up.returncode}\n{out}{err}")
        ended = lab.run()
        check(lab.upheavals() >= 3, f"{ended['generations']} generations: {lab.events('membership')}")
        same = {whole["weights_sha256"], ended["weights_sha256"], alone(lab, run)}
        check(len(same) == 1, f"weights {same}")
        return f"{ended['generations']} generations after two kills, weights {ended['weights_sha256'][:12]}"


def only_one_side_can_dial():
    """One host behind NAT, one in the open: the hidden one dials, whichever its number is, and nothing is relayed."""
    seen = []
    with NetLab("oneway", mtu=FAST) as lab:
        hidden, open_ = lab.add_host("a", nat=True), lab.add_host("b")
        lab.trust(hidden, open_)
        weights = set()
        for order in ((hidden, open_), (open_, hidden)):
            lab.write("".join(map(lab.entry, order)), MLP)
            if not seen:
                lab.digits()
            lab.coord("up", "-y")
            run = lab.run()
            check(run["state"] == "finished" and lab.upheavals() == 1, f"{run['state']}, {run['generations']} generations")
            weights.add(run["weights_sha256"])
            words = lab.events("route")
            check(len(words) == 1 and "only a can dial" in words[0], f"events say {words}")
            seen.append(words[0])
        check(weights == {alone(lab, MLP)}, "other weights than on one machine")
    return f"{seen[0]}; the same weights in both orders"


def relay_connection_is_cut():
    """All connections to one host end at once in the middle of a relayed run: it goes on, with the same weights."""
    with NetLab("relaycut", mtu=FAST) as lab:
        a, b = lab.add_host("a", nat=True), lab.add_host("b", nat=True)
        lab.trust(a, b)
        hosts = lab.entry(a) + lab.entry(b)
        run = lasting(lab, hosts)
        lab.write(hosts, run)
        before = lab.run()["run"]
        up = lab.start("up", "-y")
        wait_for("a new run", lambda: lab.run()["run"] != before)
        wait_for("epoch 1", lambda: lab.run()["epoch"] >= 1)
        sessions = [pid for pid, line in b.processes().items() if b"\0bridge\0" in line]
        check(len(sessions) >= 3, f"{len(sessions)} bridges on b")
        # What a network that drops its state does: every connection of the host ends at once.
        for pid in sessions:
            os.kill(pid, signal.SIGKILL)
        out, err = up.communicate(timeout=180)
        check(up.returncode == 0, f"up ended with {up.returncode}\n{out}{err}")
        ended = lab.run()
        check(lab.upheavals() == 2, f"{ended['generations']} generations: {lab.events('membership')}")
        check(len(ended["workers"]) == 2 and all(w["lanes"] for w in ended["workers"]), f"workers {ended['workers']}")
        check(ended["weights_sha256"] == alone(lab, run), "other weights after the cut")
        return f"{len(sessions)} connections of one host ended at once: {ended['generations']} generations, same weights"


def relay_over_a_hub():
    """Two hidden hosts meet on a third that both reach by their own ssh: the run key works for nothing else, and goes."""
    with NetLab("relayhub", mtu=FAST) as lab:
        a, b, hub = lab.add_host("a", nat=True), lab.add_host("b", nat=True), lab.add_host("hub")
        lab.trust(a, b, hub)
        hosts = "".join(map(lab.entry, (a, b, hub)))
        before = hub.run("cat ~/.ssh/authorized_keys")
        run = lasting(lab, hosts)
        lab.write(hosts, run)
        last = lab.run()["run"]
        up = lab.start("up", "-y")
        wait_for("a new run", lambda: lab.run()["run"] != last)
        wait_for("epoch 1", lambda: lab.run()["epoch"] >= 1)
        pairs = routes(lab)
        check(pairs[("a", "b")]["way"] == "relay" and pairs[("a", "b")].get("by") == "hub", f"status says {pairs}")
        check(not any(pair["pauses_without_this_machine"] for pair in pairs.values()), f"status says {pairs}")
        check(any("added up on hub:" in message for message in lab.events("route")), f"events say {lab.events('route')}")
        during = hub.run("cat ~/.ssh/authorized_keys")
        lines = [line for line in during.splitlines() if "coord-relay-" in line]
        check(len(lines) == 2 and all(line.startswith('restrict,command="') for line in lines), f"keys on the hub: {lines}")
        key = a.run("find ~/.coord -name hub.key -perm 600").split()
        check(len(key) == 1, f"keys on a: {key}")
        tried = a.run(
            f"ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i {key[0]} "
            f"-p {hub.port} -W {hub.address}:{hub.port} {hub.user}@{hub.address} < /dev/null", expect=None)
        check("SSH-2.0" not in tried, f"the run key forwards: {tried}")
        # Nobody needs this machine while the links stand.
        lab.kill_coordinator()
        up.communicate(timeout=30)
        wait_for(
            "the trainers finish alone",
            lambda: not any(b"\0train\0" in line for host in (a, b, hub) for line in host.processes().values()), 120)
        lab.coord("up", "-y")
        ended = lab.run()
        check(ended["run"] != last and ended["state"] == "finished", f"{ended['run']} is {ended['state']}: {ended['message']}")
        check(lab.upheavals() == 1, f"{ended['generations']} generations: {lab.events('membership')}")
        wait_for("the keys go", lambda: hub.run("cat ~/.ssh/authorized_keys") == before)
        check(not a.run("find ~/.coord -name 'hub.key'"), "the key is still on a")
        check(ended["weights_sha256"] == alone(lab, run), "other weights than on one machine")
        words = [message for message in lab.events("route") if message.startswith("a and b")]
        return f"{words[-1]}; finished while nobody coordinated: {ended['weights_sha256'][:12]}"


def halves_never_both_go_on():
    """Three hosts cut into two parts, the coordinator beside the smaller one: the larger one alone goes on and ends, same weights."""
    with NetLab("halves", mtu=FAST) as lab:
        a, b, c = (lab.add_host(name) for name in "abc")
        lab.trust(a, b, c)
        hosts = "".join(map(lab.entry, (a, b, c)))
        run = lasting(lab, hosts)
        lab.write(hosts, run)
        before = lab.run()["run"]
        up = lab.start("up", "-y")
        wait_for("a new run", lambda: lab.run()["run"] != before)
        wait_for("epoch 1", lambda: lab.run()["epoch"] >= 1)
        for inside in (lab.home, a):
            for outside in (b, c):
                lab.part(inside, outside)
        spools = {host: next(agent_folder(lab, host).rglob(f"{lab.run()['run']}/events.jsonl")) for host in (a, b, c)}
        wait_for("b and c make a generation", lambda: all('"accepted"' in spools[host].read_text() for host in (b, c)), 60)
        waits = lab.run()["step"]
        wait_for(
            "b and c end the run",
            lambda: not any(b"\0train\0" in line for host in (b, c) for line in host.processes().values()), 120)
        check(lab.run()["step"] == waits and lab.run()["state"] == "running", f"the smaller part went on: {lab.run()}")
        check('"accepted"' not in spools[a].read_text(), "the smaller part made a generation")
        for inside in (lab.home, a):
            for outside in (b, c):
                lab.join(inside, outside)
        out, err = up.communicate(timeout=180)
        check(up.returncode == 0, f"up ended with {up.returncode}\n{out}{err}")
        ended = lab.run()
        check(ended["state"] == "finished", f"the run is {ended['state']}: {ended['message']}")
        check(ended["weights_sha256"] == alone(lab, run), "other weights than on one machine")
        return f"a waited at step {waits} of {ended['step']}; b and c ended with {ended['weights_sha256'][:12]}"


def a_host_that_vanishes_while_a_run_begins():
    """The cable of a host is pulled, which nobody knows yet, and a run is submitted: the others begin, and the host joins when it is back."""
    with NetLab("vanishes", mtu=FAST) as lab:
        nodes = lab.add_hosts(3)
        lab.trust(*nodes)
        hosts = "".join(map(lab.entry, nodes))
        lab.write(hosts)
        lab.digits()
        lab.write(hosts, {**CNN_RUN, "epochs": "1"})
        lab.coord("up", "-y")
        lab.write(hosts, {**CNN_RUN, "epochs": "100000"})
        ledger, before = Ledger(lab), lab.run()["run"]
        nodes[1].cable(cut=True)
        begin = time.monotonic()
        up = lab.start("up", "-y")
        wait_for("steps", lambda: ledger.run()["id"] != before and ledger.run()["steps"] > 50, 120)
        waited = time.monotonic() - begin
        words = [message for message in lab.events("membership") if "before its trainers were started" in message]
        check(len(words) == 1 and nodes[1].name in words[0], f"events say {lab.events('membership')}")
        nodes[1].cable(cut=False)
        wait_for("it joins", lambda: any(reason == f"{nodes[1].name} is back at work" for _, _, reason in ledger.generations()))
        lab.coord("run", "stop")
        up.communicate(timeout=60)
        return f"{words[0]}; they began {waited:.0f} s after it was submitted"


def lost_hosts_cost_little():
    """Four hosts: the cable of one is pulled, another one loses its power. Each costs less than two seconds and no bit; both come back."""
    with NetLab("lost-hosts", mtu=FAST) as lab:
        nodes = lab.add_hosts(4)
        lab.trust(*nodes)
        hosts = "".join(map(lab.entry, nodes))
        lab.write(hosts)
        lab.digits()
        run = lab.lasting(hosts, CNN_RUN, seconds=30.0)
        lab.write(hosts, run)
        up = lab.start("up", "-y")
        ledger, before = Ledger(lab), lab.run()["run"]
        wait_for("steps", lambda: ledger.run()["id"] != before and ledger.run()["steps"] > 50)
        said = []
        for node, what in ((nodes[1], "cable pulled"), (nodes[2], "power lost")):
            known = ledger.run()
            if what == "cable pulled":
                node.cable(cut=True)
            else:
                node.power_off()
            # Before that there may be one in which others only compute its lanes.
            wait_for("it is lost", lambda: any(f"lost {node.name}: " in reason for _, _, reason in ledger.generations()), 20)
            then = ledger.run()["steps"]
            wait_for("steps", lambda: ledger.run()["steps"] > then + 50, 20)
            seconds = {step: took for step, took in ledger.steps().items() if step > known["steps"]}
            stall = max(seconds.values())
            check(0.7 < stall <= 2, f"{what}: the longest step took {stall:.2f} s: {lab.events('membership')}")
            said.append(f"{what}: {stall:.2f} s")
        nodes[1].cable(cut=False)
        nodes[2].power_on()
        out, err = up.communicate(timeout=240)
        check(up.returncode == 0, f"up ended with {up.returncode}\n{out}{err}")
        ended = lab.run()
        seconds = ledger.steps()
        check(sorted(seconds) == list(range(1, ended["step"] + 1)), "steps are missing or counted twice")
        check(ended["weights_sha256"] == alone(lab, run), "other weights than on one machine")
        return f"{', '.join(said)}; weights {ended['weights_sha256'][:12]}"


BETWEEN = [
    halves_never_both_go_on, lost_hosts_cost_little, a_host_that_vanishes_while_a_run_begins,
    relay_over_this_machine, relayed_pair_waits_for_this_machine, kill_across_a_relay_is_harmless,
    only_one_side_can_dial, relay_connection_is_cut, workers_of_a_host_add_up_first,
    relay_over_a_hub,
]
