"""What people complain about in other tools, a part for each, named after the complaint."""

import concurrent.futures
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

from common import CNN, FAST, RUN, agent_folder, agent_of, show
from netlab import LAB_ID, ROOT, NetLab, check, wait_for


def up_of_eight():
    """Eight hosts come up at once, cold and warm; how that compares with eight `ssh HOST true`."""
    with NetLab("eight", mtu=FAST) as lab:
        hosts = lab.add_hosts(8)
        lab.trust(*hosts)
        lab.write("".join(map(lab.entry, hosts)))

        def up():
            begin = time.monotonic()
            lab.coord("up", "-y", "--hosts-only")
            return time.monotonic() - begin

        def ssh():
            begin = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda host: lab.ssh(host, "true"), hosts))
            return time.monotonic() - begin

        cold = up()
        for host in hosts:
            check(any(b"\0agent\0" in line for line in host.processes().values()), f"no agent on {host.name}")
        again, reconnected, down, baseline = [], [], [], []
        for _ in range(2):
            again.append(up())
            lab.kill_coordinator()
            reconnected.append(up())
            lab.coord("down", "-y")
            down.append(up())
            baseline.append(ssh())
        parallel = min(baseline)
        return (f"8 ssh {show(parallel)}; cold {show(cold)} = {cold / parallel:.1f}x; after `down` {show(min(down))} = "
                f"{min(down) / parallel:.1f}x; new coordinator, agents there {show(min(reconnected))} = "
                f"{min(reconnected) / parallel:.1f}x; all connected {show(min(again))}")


def only_the_head_came_up():
    """Hosts that are down do not stop the others: a line each, and the exit code says that some are missing."""
    with NetLab("head", mtu=FAST) as lab:
        good, refusing, silent = lab.add_host("good"), lab.add_host("refusing"), lab.add_host("silent")
        lab.trust(good, refusing, silent)
        lab.write("".join(map(lab.entry, (good, refusing, silent))))
        refusing.stop_sshd()
        silent.power_off()
        begin = time.monotonic()
        result = lab.coord("up", "-y", "--hosts-only", expect=69, timeout=60)
        seconds = time.monotonic() - begin
        said = {}
        for name, words in (("good", "ready"), ("refusing", "refused"), ("silent", "phase connect")):
            lines = [line for line in (result.stdout + result.stderr).splitlines() if name in line and words in line]
            check(lines, f"no line with '{name}' and '{words}' in\n{result.stdout}{result.stderr}")
            said[name] = lines[0]
        check(any(b"\0agent\0" in line for line in good.processes().values()), "the good host has no agent")
        refusing.start_sshd()
        silent.power_on()
        lab.coord("up", "-y", "--hosts-only", timeout=60)
        return f"exit 69 after {show(seconds)}, one host up meanwhile; all up when they are back"


def reference(lab, run):
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


def only_port_22_is_open():
    """Hosts and this machine behind NAT with port 22 mapped and nothing else: the run ends with the weights of one machine."""
    with NetLab("port22", mtu=FAST) as lab:
        host = lab.add_host("far", nat=True)
        lab.link.tell("nat", lab.home.number, 1)
        lab.trust(host)
        lab.write(lab.entry(host, workers=2), RUN)
        lab.digits()
        lab.coord("up", "-y")
        weights = lab.run()["weights_sha256"]
        check(weights == reference(lab, RUN), "other weights than on one machine")
        dropped = lab.stats()["nat"]
        return f"two workers behind NAT, {dropped} other packets refused on the way: {weights[:12]}"


def bad_key_does_not_hang():
    """A wrong key, a wrong user, a wrong key file: named at once, and nothing spins."""
    with NetLab("badkey", mtu=FAST) as lab:
        hosts = lab.add_hosts(4)
        lab.trust(*hosts)
        other = lab.folder / "other_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(lab.folder / "locked")], check=True)
        # A key that the host would take, if only it could be read.
        hosts[3].run(f"cat >> ~/.ssh/authorized_keys <<'EOF'\n{(lab.folder / 'locked.pub').read_text()}EOF")
        lines = [lab.entry(host) for host in hosts]
        lines[0] = lines[0].replace(str(lab.key), str(other))
        lines[1] = lines[1].replace("user: coord-lab", "user: nobody-here")
        lines[2] = lines[2].replace(str(lab.key), str(lab.folder / "missing"))
        lines[3] = lines[3].replace(str(lab.key), str(lab.folder / "locked"))
        lab.write("".join(lines))
        begin = time.monotonic()
        result = lab.coord("up", "-y", "--hosts-only", expect=77, timeout=60)
        seconds = time.monotonic() - begin
        for name, words in (("h0", "does not let user coord-lab in"), ("h1", "does not let user nobody-here in"),
                            ("h2", "cannot read the key"), ("h3", "passphrase")):
            check(any(name in line and words in line for line in result.stderr.splitlines()),
                  f"nothing about {name} with '{words}' in\n{result.stderr}")
        check(seconds < 20, f"it took {seconds:.1f} s")
        coordinator = lab.coordinator()
        before = processor_time(coordinator)
        time.sleep(1)  # a second of doing nothing is what is measured
        spent = processor_time(coordinator) - before
        check(spent < 0.3, f"the coordinator used {spent:.2f} s of a second")
        return f"four hosts refused in {show(seconds)}; the coordinator then used {spent * 100:.0f} % of a core"


def processor_time(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def slow_handshake_is_not_death():
    """A host that takes five seconds to begin each handshake comes up and trains."""
    with NetLab("slow", mtu=FAST) as lab:
        host = lab.add_host("slow")
        lab.trust(host)
        lab.write(lab.entry(host, workers=2), RUN)
        lab.digits()
        lab.coord("up", "-y", "--hosts-only")
        lab.kill_coordinator()
        with slow_sshd(host, 5.0) as connections:
            begin = time.monotonic()
            lab.coord("up", "-y", timeout=120)
            seconds = time.monotonic() - begin
            check(connections and seconds > 5, f"nothing was slow: {connections} in {seconds:.1f} s")
        check(lab.run()["state"] == "finished", f"the run is {lab.run()}")
        return f"up and trained in {show(seconds)} with {len(connections)} handshakes of 5 s and more"


class slow_sshd:
    """In place of a host's sshd, one that begins with each connection only after some seconds."""

    def __init__(self, host, seconds):
        self.host, self.seconds, self.children, self.connections = host, seconds, [], []

    def __enter__(self):
        self.host.stop_sshd()
        self.listener = self.host.tcp_server(self.host.port)
        threading.Thread(target=self.serve, daemon=True).start()
        return self.connections

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Timer(self.seconds, self.answer, [connection]).start()

    def answer(self, connection):
        self.children.append(subprocess.Popen(
            self.host.argv("/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "/usr/sbin/sshd", "-i", "-f", "/etc/ssh/sshd_config"),
            stdin=connection.fileno(), stdout=connection.fileno(), stderr=subprocess.DEVNULL))
        connection.close()

    def __exit__(self, kind, value, trace):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for child in self.children:
            child.kill()
            child.wait()


def lost_connection_ends_nothing():
    """Connections that break in the middle of a run end nothing: the run goes on without us and ends with the same weights."""
    with NetLab("lost", mtu=FAST) as lab:
        hosts = lab.add_hosts(2)
        lab.trust(*hosts)
        entries = "".join(map(lab.entry, hosts))
        lab.write(entries)
        lab.digits()
        run = lab.lasting(entries, {"model": CNN}, seconds=3)
        lab.write(entries, run)
        lab.coord("up", "-y")
        weights = lab.run()["weights_sha256"]
        before = lab.run()["run"]
        up = lab.start("up", "-y")
        wait_for("a new run", lambda: lab.run()["run"] != before and lab.run()["step"] > 0)
        this, agents = lab.run()["run"], [agent_of(host) for host in hosts]
        lab.home.cable(cut=True)
        for host in hosts:
            for pid, line in host.processes().items():
                if line.startswith(b"sshd: coord-lab"):
                    os.kill(pid, signal.SIGKILL)
        at_cut = lab.run()["step"]
        ended = [agent_folder(lab, host) / "runs" / this / "events.jsonl" for host in hosts]
        wait_for("the run ends on the hosts while nobody is connected", lambda: any("inished" in f.read_text() for f in ended), 120)
        check(lab.run()["state"] == "running", f"the coordinator knows of the end already: {lab.run()}")
        lab.home.cable(cut=False)
        out, err = up.communicate(timeout=120)
        check(up.returncode == 0, f"up ended with {up.returncode}\n{out}{err}")
        check(lab.run()["state"] == "finished" and lab.run()["weights_sha256"] == weights, f"{lab.run()} and not {weights}")
        check([agent_of(host) for host in hosts] == agents, "an agent was ended")
        return f"cut at step {at_cut} of {lab.run()['step']} until the end; the same weights {weights[:12]}"


def no_sudo():
    """An ordinary user without sudo is enough: all processes are the user's, all files lie in the user's home."""
    with NetLab("nosudo", mtu=FAST) as lab:
        host = lab.add_host("plain")
        lab.trust(host)
        lab.write(lab.entry(host, workers=2), {"epochs": "400"})
        lab.digits()
        asked = host.folder / "sudo-was-asked"
        # A sudo that is called leaves a trace.
        host.execute("sh", "-ec", "printf '#!/bin/sh\\ntouch /tmp/sudo-was-asked\\nexit 1\\n' > /tmp/sudo; chmod 755 /tmp/sudo")
        host.execute("sh", "-ec", "for name in sudo su doas; do mount --bind /tmp/sudo /usr/bin/$name 2>/dev/null || true; done")
        before = files_outside(host)
        up = lab.start("up", "-y")
        wait_for("the run", lambda: lab.json("run", "list") and lab.run()["step"] > 0)
        users = {process_user(pid) for pid, line in host.processes().items() if b"coord" in line and not line.startswith(b"sshd")}
        lab.coord("run", "stop")
        up.communicate(timeout=60)
        check(users == {LAB_ID}, f"processes of users {users}")
        check(not host.path("/tmp/sudo-was-asked").exists() and not asked.exists(), "sudo was called")
        new = files_outside(host) - before
        check(not new, f"files outside the home: {sorted(new)}")
        return f"all processes of user {LAB_ID}, no file outside the home"


def process_user(pid):
    try:
        return int(next(line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:")).split()[1])
    except OSError:
        return LAB_ID  # it ended meanwhile


def files_outside(host):
    return set(host.execute("find", "/run", "/tmp", "/var", "/root", "/dev/shm", "-not", "-path", "/run/sshd*").stdout.split("\n"))


def other_ssh_port():
    """Hosts on ports of their own, one IPv4 address or name or IPv6 address each: all come up, and train together."""
    with NetLab("port", mtu=FAST) as lab:
        hosts = [lab.add_host("odd", port=2222), lab.add_host("high", port=40022, user="root"), lab.add_host("six", port=2022)]
        entries = lab.entry(hosts[0]) + lab.entry(hosts[1], address="high") + lab.entry(hosts[2], address=f'"{hosts[2].address6}"')
        lab.write(entries, RUN)
        lab.digits()
        lab.coord("up", "-y", "--accept-new-host-keys")
        run = lab.run()
        check(run["state"] == "finished" and len(run["workers"]) == 3, f"{run}")
        known = (lab.folder / "keys" / "known_hosts").read_text()
        check("]:2222 " in known and "]:40022 " in known and "]:2022 " in known, known)
        return f"ports 2222, 40022 by name, 2022 over IPv6: {run['weights_sha256'][:12]}"


def pod_reset_changes_port_and_key():
    """A pod that was reset is refused until its new key is pinned, then comes back with what its volume holds."""
    with NetLab("pod", mtu=FAST) as lab:
        pod = lab.add_pod("pod")
        volume = ", dir: /workspace/.coord"

        def write(key):
            lab.write(lab.entry(pod, workers=2, extra=f'{volume}, host_key: "{key}"'), RUN)

        write(pod.fingerprint())
        lab.digits()
        lab.coord("up", "-y")
        weights = lab.run()["weights_sha256"]
        old = pod.fingerprint()
        pod.reset()
        # The provider told the new port, but nobody has looked at the key.
        write(old)
        result = lab.coord("up", "-y", "--hosts-only", "--accept-new-host-keys", expect=77)
        check(old in result.stderr and pod.fingerprint() in result.stderr, f"not both fingerprints in\n{result.stderr}")
        write(pod.fingerprint())
        result = lab.coord("up", "-y")
        check(lab.run()["weights_sha256"] == weights, "other weights")
        check(" push" not in result.stderr, f"the worker was sent although the volume has it\n{result.stderr}")
        return f"port {pod.port} and a new key: refused with both fingerprints, then up with its volume; {weights[:12]}"


def all_pools_or_none():
    """`coord up HOST` and `coord down HOST` concern that host alone."""
    with NetLab("pools", mtu=FAST) as lab:
        hosts = lab.add_hosts(3)
        lab.trust(*hosts)
        lab.write("".join(map(lab.entry, hosts)))

        def agents():
            return {host.name: agent_of(host) for host in hosts if agent_of(host)}

        lab.coord("up", "h1", "-y")
        first = agents()
        check(set(first) == {"h1"}, f"agents on {first}")
        lab.coord("up", "h0", "h2", "-y")
        second = agents()
        check(set(second) == {"h0", "h1", "h2"} and second["h1"] == first["h1"], f"agents {second} after {first}")
        lab.coord("down", "h0", "-y")
        wait_for("h0's agent is gone", lambda: set(agents()) == {"h1", "h2"}, 10)
        check(agents() == {name: second[name] for name in ("h1", "h2")}, "another host's agent was replaced")
        return "one of three up, then all, then one down: the others kept their agents"


def cannot_add_or_remove_a_host_without_stopping_all():
    """A host joins a run that is on, over a link with a round trip of 10 ms, and another leaves: the same weights."""
    with NetLab("elastic", mtu=FAST) as lab:
        stays, comes, goes = lab.add_host("stays"), lab.add_host("comes"), lab.add_host("goes")
        lab.trust(stays, comes, goes)
        before_, all_ = lab.entry(stays) + lab.entry(goes), lab.entry(stays) + lab.entry(goes) + lab.entry(comes)
        lab.write(lab.entry(comes))
        lab.digits()
        # The worker is there before the run: how long it takes to send depends on the machine.
        lab.coord("up", "-y", "--hosts-only")
        lab.coord("down", "-y")
        lab.write(before_)
        run = lab.lasting(before_, {"model": CNN}, seconds=16)
        lab.write(before_, run)
        lab.coord("up", "-y")
        weights, old = lab.run()["weights_sha256"], lab.run()["run"]
        comes.cable(delay=0.005)
        up = lab.start("up", "-y")
        wait_for("a new run", lambda: lab.run()["run"] != old and lab.run()["step"] > 3)
        lab.write(all_, run)
        lab.coord("up", "comes", "-y")
        wait_for("it works", lambda: any(w["host"] == "comes" and w["steps"] > 0 for w in lab.run()["workers"]), 60)
        comes.cable(delay=0)  # the rest of the run need not be slow
        lab.coord("down", "goes", "-y")
        out, err = up.communicate(timeout=180)
        check(up.returncode == 0, f"up ended with {up.returncode}\n{out}{err}")
        ended = lab.run()
        check(ended["state"] == "finished" and ended["weights_sha256"] == weights, f"{ended} and not {weights}")
        # One comes in twice: first to hear what the others do, then to work.
        check(lab.upheavals() == 4, f"{lab.events('membership')}")
        return f"{ended['generations']} generations, the same weights {weights[:12]}"


def pods_cannot_reach_each_other():
    """Two pods that nobody but this machine reaches: the preflight names the pairs that have no way, with no hang."""
    with NetLab("pods", mtu=FAST) as lab:
        pods, near = [lab.add_pod("pod-1"), lab.add_pod("pod-2")], lab.add_host("near")
        lab.trust(*pods, near)
        lab.write("".join(map(lab.entry, [*pods, near])), RUN)
        lab.digits()
        lab.coord("up", "-y", "--hosts-only")
        begin = time.monotonic()
        found = lab.json("preflight")
        seconds = time.monotonic() - begin
        ways = {(line["from"], line["to"]): line.get("problem") for line in found if line["type"] == "link"}
        blocked = {pair for pair, problem in ways.items() if problem}
        # Nobody dials a pod; the pods dial who is not behind NAT.
        check(len(ways) == 6, f"{ways}")
        check(blocked == {("pod-1", "pod-2"), ("pod-2", "pod-1"), ("near", "pod-1"), ("near", "pod-2")}, f"{ways}")
        return f"6 ways, 4 blocked, in {show(seconds)}: {next(filter(None, ways.values()))}"


def odd_hosts_work_or_are_named():
    """Hosts with an odd shell, a noisy one, one session, no setsid: up. A home that is full, read-only or noexec: named."""
    with NetLab("odd", mtu=FAST) as lab:
        good = {
            "dash": lab.add_host("dash", shell="/bin/dash"),
            "single": lab.add_host("single", sshd="MaxSessions 1\nAllowTcpForwarding no\nAllowStreamLocalForwarding no\nPermitTTY no"),
            "noisy": lab.add_host("noisy", sshd="Banner /etc/ssh/banner"),
            "nosetsid": lab.add_host("nosetsid"),
            "elsewhere": lab.add_host("elsewhere", folders=["data"]),
        }
        bad = {
            "full": (lab.add_host("full", quota="8m"), "no space left"),
            "readonly": (lab.add_host("readonly"), "read-only file system"),
            "noexec": (lab.add_host("noexec"), "noexec"),
        }
        (good["noisy"].folder / "etc/ssh/banner").write_text("All your packets are belong to us\n" * 30)
        good["noisy"].path("~/.bashrc").write_text("echo welcome; echo trouble >&2; printf 'no newline'\n")
        good["nosetsid"].execute("mount", "--bind", "/dev/null", "/usr/bin/setsid")
        good["elsewhere"].execute("sh", "-ec", "mount -o remount,ro /home; chmod 777 /data")
        bad["readonly"][0].execute("mount", "-o", "remount,ro", "/home")
        bad["noexec"][0].execute("mount", "-o", "remount,noexec", "/home")
        hosts = [*good.values(), *(host for host, _ in bad.values())]
        lab.trust(*hosts)
        lab.write("".join(lab.entry(h, extra=", dir: /data/coord" if h.name == "elsewhere" else "") for h in hosts))
        result = lab.coord("up", "-y", "--hosts-only", expect=None, timeout=90)
        lines = {line.split()[0]: line for line in result.stderr.splitlines() if line.split()[1:2] in (["ready"], ["failed"])}
        for name in good:
            check(lines.get(name, "").split()[1:2] == ["ready"], f"{name}: {lines.get(name)}\n{result.stderr}")
        for name, (_, words) in bad.items():
            check(words in lines.get(name, "").lower() and "failed" in lines[name], f"{name}: {lines.get(name)}, no '{words}'")
        check(result.returncode == 73, f"exit {result.returncode}")
        return f"{', '.join(good)} are up; {', '.join(bad)} are named"


def transfers_freeze_at_90_percent():
    """A link that is cut while the worker is sent: the transfer goes on when it is back, and its progress is told."""
    with NetLab("freeze", mtu=FAST) as lab:
        host = lab.add_host("far")
        lab.trust(host)
        lab.write(lab.entry(host))
        size = (ROOT / "artifacts/workers/x86_64-unknown-linux-gnu/coord-worker").stat().st_size
        host.down(rate=20e6)
        up = lab.start("up", "-y", "--hosts-only", "--json")
        wait_for("half of it is there", lambda: lab.stats()["bytes"] > size / 2, 60)
        lab.home.cable(cut=True)
        at_cut = lab.stats()["bytes"]
        time.sleep(4)  # what is tested is a time without a network
        check(lab.stats()["bytes"] - at_cut < size / 4, "nothing was cut")
        lab.home.cable(cut=False)
        out, err = up.communicate(timeout=120)
        check(up.returncode == 0, f"up ended with {up.returncode}\n{out}{err}")
        told = [line["detail"] for line in map(json.loads, out.splitlines()) if line.get("type") == "host" and line.get("phase") == "push"]
        check(len(told) > 3 and len(set(told)) > 3, f"progress was told so: {told}")
        return f"cut at {at_cut / 1e6:.0f} of {size / 1e6:.0f} MB for 4 s; told {len(told)} times, last '{told[-1]}'"
