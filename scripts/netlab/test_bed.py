"""The test bed tests itself: what it does to packets is what was asked for, and nothing is left of it."""

import hashlib
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

from common import show
from netlab import NetLab, check, is_alive, wait_for


def numbered(lab, a, b, count=1000):
    """Sends numbered datagrams from a to b; the numbers in the order of arrival."""
    into = b.socket(socket.SOCK_DGRAM)
    into.bind((b.address, 0))
    into.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
    out = a.socket(socket.SOCK_DGRAM)
    before = lab.stats()
    for number in range(count):
        out.sendto(number.to_bytes(4, "big") + bytes(60), into.getsockname())
        if number % 100 == 99:
            # The device's queue holds 500 packets.
            wait_for("the emulator saw the datagrams", lambda sent=number + 1: settled(lab, before) >= sent)
    into.settimeout(0)
    seen = []
    with into, out:
        while True:
            try:
                seen.append(int.from_bytes(into.recv(100)[:4], "big"))
            except BlockingIOError:
                return seen


def settled(lab, before):
    """Packets that the emulator has done with since `before`."""
    now = lab.stats()
    return sum(now[key] - before[key] for key in ("packets", "lost", "cut", "queue"))


def transfer(a, b, data):
    """Sends bytes over TCP from a to b; the digest of what arrived, and seconds."""
    with b.tcp_server() as listener:
        arrived = hashlib.sha256()

        def take():
            connection, _ = listener.accept()
            with connection:
                while part := connection.recv(1 << 20):
                    arrived.update(part)

        taker = threading.Thread(target=take)
        taker.start()
        begin = time.monotonic()
        with a.dial(b, listener.getsockname()[1], 60) as connection:
            connection.sendall(data)
        taker.join()
        return arrived.hexdigest(), time.monotonic() - begin


def test_bed():
    """Delay, loss, rate, order, damage and cuts are what was asked for, and the same again with the same seed."""
    saw = []
    with NetLab("bed") as lab:
        a, home = lab.add_host("a"), lab.home
        def losses(seed):
            lab.replay(seed)
            return set(range(1000)) - set(numbered(lab, home, a))

        home.up(loss=0.1)
        first, again, other = losses(5), losses(5), losses(6)
        check(first == again, f"the same seed lost others: {sorted(first ^ again)}")
        check(first != other, "another seed lost the same")
        check(50 <= len(first) <= 150 and 50 <= len(other) <= 150, f"{len(first)} and {len(other)} lost of 1000 at 10 %")
        saw.append(f"{len(first)} of 1000 lost at 10 %")
        home.up(loss=0)
        check(numbered(lab, home, a) == list(range(1000)), "datagrams were lost or changed places without being asked to")
        home.up(reorder=0.05, reorder_by=0.001)
        order = numbered(lab, home, a)
        check(order != sorted(order) and sorted(order) == list(range(1000)), "nothing changed places")
        home.up(reorder=0)

        home.cable(delay=0.02)
        trips = []
        for _ in range(5):
            begin = time.monotonic()
            home.dial(a, 22).close()
            trips.append(time.monotonic() - begin)
        check(0.0399 < min(trips) < 0.1, f"round trips of {trips} s, not of 0.04")
        saw.append(f"round trip {show(min(trips))} of 40")
        home.cable(delay=0)

        data = os.urandom(3 << 20)
        right = hashlib.sha256(data).hexdigest()
        home.up(rate=4e6)
        digest, seconds = transfer(home, a, data)
        check(digest == right and 0.7 < seconds < 5, f"3 MiB at 4 MB/s in {seconds:.2f} s")
        saw.append(f"{len(data) / seconds / 1e6:.1f} MB/s of 4")
        home.up(rate=0, corrupt=0.02)
        digest, _ = transfer(home, a, data)
        errors = csum_errors(a)
        check(digest == right and lab.stats()["corrupted"] > 10 and errors > 10, f"damage: {lab.stats()}, {errors} seen by TCP")
        saw.append(f"{errors} damaged segments caught by TCP")
        home.up(corrupt=0, forge=0.02)
        digest, _ = transfer(home, a, data)
        check(digest != right and csum_errors(a) == errors, "forged segments did not get through")
        home.up(forge=0, cut=True)
        check(numbered(lab, home, a, 100) == [] and len(numbered(lab, a, home, 100)) == 100, "a cut of one direction")
        home.up(cut=False)
    return ", ".join(saw)


def csum_errors(host):
    names, values = [line.split() for line in host.execute("cat", "/proc/net/snmp").stdout.splitlines() if line.startswith("Tcp:")]
    return int(values[names.index("InCsumErrors")])


def test_bed_hosts():
    """NAT, jump hosts, pods, quotas; and nothing is left when the lab, or its process, ends."""
    with NetLab("hosts") as lab:
        a, b = lab.add_host("a"), lab.add_host("b", user="root", port=2222)
        nat, inner, pod = lab.add_host("nat", nat=True), lab.add_host("inner", behind=a, quota="8m"), lab.add_pod("pod")
        lab.trust(a, b, nat, pod)
        home, wait = lab.home, 0.2
        lab.part(a, b)
        matrix = {f"{x.name}>{y.name}": x.reaches(y, y.port, wait) for x in (home, a, b, nat, inner, pod)
                  for y in (a, b, nat, inner, pod) if x is not y}
        lab.join(a, b)
        closed = {"a>b", "b>a", "a>nat", "b>nat", "pod>nat", "inner>nat", "a>pod", "b>pod", "nat>pod", "inner>pod", "home>inner",
                  "b>inner", "nat>inner", "pod>inner", "inner>b"}
        check({pair for pair, open_ in matrix.items() if not open_} == closed, f"reachable: {matrix}")
        check(a.reaches(b, 2222), "parted hosts were not joined")
        for host, user in ((a, "coord-lab"), (b, "root"), (nat, "coord-lab"), (pod, "root")):
            said = lab.ssh(host, "id -un; hostname").stdout.split()
            check(said == [user, host.name], f"{host.name} says {said}")
        full = inner.run("head -c 20000000 /dev/zero > big", expect=None)
        check(inner.path("~/big").stat().st_size <= 8 << 20, f"more than the quota was written {full}")
        pod.run("echo kept > /workspace/file; echo lost > file")
        port, key = pod.port, pod.fingerprint()
        pod.reset()
        check(pod.port != port and pod.fingerprint() != key, "the pod has its old port or key")
        check(not pod.path("~/file").exists() and pod.path("/workspace/file").exists(), "files of the pod")
        check("Host key" in lab.ssh(pod, "true", expect=255).stderr, "ssh trusted the new key")
        lab.trust(pod)
        lab.ssh(pod, "true")
        a.run("sleep 1000 >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 &")
        pids = [node.pid for node in lab.nodes] + lab.processes()
        folder = lab.folder
    check(not [pid for pid in pids if is_alive(pid)] and not folder.exists(), "something was left")
    killed = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); from netlab import NetLab\n"
         "lab = NetLab('killed'); a = lab.add_host('a'); print(lab.folder, lab.link.process.pid, lab.home.pid, a.pid, a.sshd.pid, flush=True)\n"
         "sys.stdin.read()", str(pathlib.Path(__file__).parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder, *pids = killed.stdout.readline().split()
    check(all(is_alive(pid) for pid in pids), "the lab to be killed did not start")
    killed.kill()
    killed.communicate()
    wait_for("a killed lab leaves no process", lambda: not any(is_alive(pid) for pid in pids), 10)
    subprocess.run(["rm", "-rf", folder], check=True)
    return f"{len(matrix)} pairs, {len(matrix) - len(closed)} reachable; a killed lab left no process"
