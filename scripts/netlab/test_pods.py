"""What people complain about with rented pods, a part for each, named after the complaint."""

import contextlib
import pathlib
import time

from clusterlab import is_alive
from common import CNN, FAST, RUN, agent_of, show
from netlab import NetLab, check, wait_for
from runpod import KEY, FakeRunPod
from test_complaints import reference


def rented(lab, pod, identity, workers=1, extra=""):
    """A line of the cluster file without address and port: only the provider knows them."""
    return (f"  {pod.name}: {{ pod: {identity}, user: root, identity: {lab.key}, workers: {workers}, dir: /workspace/.coord{extra} }}\n")


def pods(lab):
    """The pods of `coord status`, by id."""
    return {line["pod"]: line for line in lab.json("status") if line["type"] == "pod"}


def odd(lab):
    """What `coord status` finds odd: {(pod, kind)}."""
    return {(line["pod"], finding["oddity"]) for line in pods(lab).values() for finding in line["findings"]}


def here_agents(lab):
    """Pids of agents on the machine that coord runs on."""
    found = [pid for pid, line in lab.home.processes().items() if b"\0agent\0" in line]
    check(found, "there is no agent")
    return found


def cli_cannot_give_the_ssh_connection():
    """A pod is found by its id: `coord status` says how to log in; another port is followed by itself, another key after a look."""
    with NetLab("podssh", mtu=FAST) as lab, FakeRunPod(lab) as api:
        pod = lab.add_pod("pod")
        api.add("abc123", pod)
        entry = rented(lab, pod, "abc123", workers=2)
        lab.write(entry)
        lab.digits()

        def refused(code, words, **environment):
            before = dict(lab.environment)
            lab.environment.update(environment)
            said = lab.coord("up", "-y", "--hosts-only", expect=code, timeout=60).stderr
            lab.environment.clear()
            lab.environment.update(before)
            check(words in said, f"no '{words}' in\n{said}")
            check(KEY not in said and "wrong-key" not in said, f"a key is shown:\n{said}")
            lab.coord("down", "-y", expect=None)
            with contextlib.suppress(ProcessLookupError):
                lab.kill_coordinator()

        refused(65, "RUNPOD_API_KEY is not set", RUNPOD_API_KEY="")
        refused(77, "does not accept the key in RUNPOD_API_KEY (401): Unauthorized", RUNPOD_API_KEY="wrong-key")
        refused(1, "curl is missing", PATH="/nonexistent")
        refused(65, "must be a URL that begins with https://", RUNPOD_API_BASE="http://10.77.0.9/")
        # Agents on this machine must not inherit the key.
        lab.write(entry + lab.host("here", 1))
        lab.coord("up", "-y", "--hosts-only", "--accept-new-host-keys")
        check("runpod-abc123 " in (lab.folder / "keys/known_hosts").read_text(), "the key is not pinned by the pod's id")
        check(all(KEY.encode() not in pathlib.Path(f"/proc/{pid}/environ").read_bytes() for pid in here_agents(lab)), "an agent has the key")
        login = pods(lab)["abc123"]["login"]
        check(login == f"ssh -p {pod.port} root@{pod.address}", login)
        check(lab.ssh(pod, "echo in", "-o", "StrictHostKeyChecking=accept-new").stdout == "in\n", "the login does not work")

        lab.coord("down", "here", "-y")
        run = lab.lasting(entry, {"model": CNN}, seconds=4)
        weights = reference(lab, run)
        lab.write(entry, run)
        before = lab.run()["run"]
        up = lab.start("up", "-y")
        wait_for("the run", lambda: lab.run()["run"] != before and lab.run()["step"] > 0)
        old = pod.port
        pod.move()
        out, err = up.communicate(timeout=120)
        check(up.returncode == 0 and lab.run()["weights_sha256"] == weights, f"{up.returncode}, {lab.run()}\n{out}{err}")
        check("lost" in err, f"the connection did not break\n{err}")

        fingerprint = pod.fingerprint()
        pod.reset()
        result = lab.coord("up", "-y", "--hosts-only", "--accept-new-host-keys", expect=77, timeout=120)
        check(fingerprint in result.stderr and pod.fingerprint() in result.stderr, f"not both fingerprints in\n{result.stderr}")
        lab.coord("keys", "trust", "pod", "-y")
        api.version = 1
        result = lab.coord("up", "-y", "--hosts-only")
        check(" push" not in result.stderr, f"the worker was sent although the volume has it\n{result.stderr}")
        check(pods(lab)["abc123"]["login"].startswith(f"ssh -p {pod.port} "), "the old API tells another port")
        lab.coord("down", "-y")
        check(api.told_in_arguments and not any(KEY.encode() in words for words in api.told_in_arguments), "the key is in curl's arguments")
        check({method for method, _ in api.asked} == {"GET"}, "coord changed something at the provider")
        hostile = odd_replies(lab, api)
        return f"port {old} → moved in mid-run → reset to {pod.port}: the file names none; {hostile} odd replies named; {weights[:12]}"


def odd_replies(lab, api):
    """What a broken or hostile API answers is told in a line, and never ends in a crash."""
    problem = FakeRunPod.problem
    replies = [
        ((200, {}, b"<html>Sign in to the hotel's network</html>"), "answered something else: <html>"),
        ((200, {}, b""), "answered something else"),
        ((200, {}, b"[" * 100_000), "answered something else"),
        ((200, {}, b'{"pods":[{"id":7},{"name":"x"},{"id":"abc123","status":7,"ssh":{"direct":[]}}]}'), "2 entries of RunPod's list"),
        ((200, {}, b"x" * (5 << 20)), "larger than"),
        ((302, {"Location": "http://10.77.0.66/"}, b""), "which is not followed with a key"),
        (problem(403, "Forbidden", "read access is needed"), "may not read pods (403): Forbidden; read access is needed"),
        ((429, {"Retry-After": "17"}, b""), "wants 17 s of peace"),
        (problem(500, "Internal", f"trace\x1b[2J of {KEY}"), "out of order (500): Internal; trace [2J of [redacted]"),
        ((503, {}, b"<html>busy</html>"), "out of order (503)"),
    ]
    for reply, words in replies:
        api.answer = reply
        result = lab.coord("status", timeout=60)
        said = result.stdout + result.stderr
        check(words in said and KEY not in said and "\x1b" not in said, f"no '{words}' after {reply[:2]} in\n{said}")
    api.answer = None
    api.server.shutdown()
    api.server.server_close()
    result = lab.coord("status", timeout=60)
    check("could not be asked" in result.stderr, result.stderr)
    return len(replies) + 1


def pods_lost_track_of():
    """Pods that nobody uses or knows any more, that were deleted or stopped by hand, or cost something else, are named; nothing crashes."""
    with NetLab("lost", mtu=FAST) as lab, FakeRunPod(lab) as api:
        first, second = lab.add_pod("first"), lab.add_pod("second")
        api.add("aaa1", first, cost=0.34)
        api.add("bbb2", second, cost=0.5)
        api.add("other9", name="somebody-elses")
        price = ", price_per_hour: 0.34"
        stopping = ", rented: true, stop: \"touch /workspace/stopped\""
        one, two = rented(lab, first, "aaa1", extra=price), rented(lab, second, "bbb2", extra=price + stopping)
        lab.write(one + two)
        result = lab.coord("up", "-y", "--hosts-only", "--accept-new-host-keys")
        check("costs $0.5 an hour, and the cluster file says 0.34" in result.stderr, f"up hides the price\n{result.stderr}")
        coordinator = lab.coordinator()
        # Nothing runs on the first, and nothing would stop it.
        wait_for("price and disuse", lambda: odd(lab) == {("bbb2", "price"), ("aaa1", "unused")}, 10)
        check(pods(lab)["bbb2"]["price_per_hour"] == 0.5 and "other9" not in pods(lab), f"{pods(lab)}")

        api.add("zzz3", name="coord-lab-3", cost=1.0)
        wait_for("a pod of the cluster's name", lambda: ("zzz3", "untracked") in odd(lab), 10)
        wait_for("an event of it", lambda: any("zzz3" in event["message"] for event in lab.json("events") if event["kind"] == "pod"), 10)
        check("runpodctl pod delete zzz3" in lab.coord("status").stdout, "status does not say what to do")
        del api.pods["zzz3"]

        lab.coord("down", "second", "-y")
        wait_for("a pod that bills with its host down", lambda: ("bbb2", "unused") in odd(lab), 10)
        api.pods["bbb2"].update(status="EXITED", cost=0)
        wait_for("a pod that was stopped", lambda: ("bbb2", "stopped") in odd(lab) and ("bbb2", "unused") not in odd(lab), 10)
        said = lab.coord("up", "-y", "second", expect=69).stderr
        check("second: pod bbb2 is stopped (EXITED)" in said and "runpodctl pod start bbb2" in said, said)

        # Taken out of the file while it exists: known by what the cluster was.
        api.pods["bbb2"].update(status="RUNNING", cost=0.5)
        lab.write(one)
        said = lab.coord("up", "-y", "--hosts-only").stderr
        check("bbb2 bills $0.5 an hour and was host second, but the cluster file does not name it" in said, said)
        check(any(state == "warning" and "bbb2" in line["evidence"] for line in lab.json("doctor") for state in [line["state"]]),
              "doctor says nothing of it")

        lab.write(one, RUN)
        lab.digits()
        run = lab.lasting(one, {"model": CNN}, seconds=20)
        lab.write(one, run)
        before = lab.run()["run"]
        up = lab.start("up", "-y")
        wait_for("the run", lambda: lab.run()["run"] != before and lab.run()["step"] > 0)
        check(("aaa1", "unused") not in odd(lab), "a pod in a run is told to be unused")
        first.power_off()
        api.pods.clear()
        wait_for("a pod that was deleted by hand", lambda: ("aaa1", "gone") in odd(lab), 20)
        check(is_alive(coordinator) and lab.coordinator() == coordinator, "the coordinator is gone with the pod")
        lab.coord("run", "stop")
        up.communicate(timeout=60)
        lab.kill_coordinator()
        check(odd(lab) == {("aaa1", "gone")}, "without a coordinator it is not seen")
        said = lab.coord("up", "-y", "--hosts-only", expect=65).stderr
        check("there is no pod aaa1 in the account any more" in said, said)
        check({method for method, _ in api.asked} == {"GET"}, "coord changed something at the provider")
        return f"5 kinds of drift told by status, up, doctor and events after {len(api.asked)} questions; the coordinator lived"


def laptop_off_keeps_billing():
    """This machine goes off, idle or in the middle of a run: the rented pod stops itself, not before its work is done."""
    with NetLab("laptop", mtu=FAST) as lab:
        pod = lab.add_pod("pod")
        lab.trust(pod)
        stopped = pod.path("/workspace/stopped")
        entry = lab.entry(pod, workers=2, extra=(
            ", dir: /workspace/.coord, rented: true, idle_stop: 2s, lease: 4s, stop_unsaved: true, stop: \"touch /workspace/stopped\""))
        lab.write(entry)
        lab.digits()
        run = lab.lasting(entry, {"model": CNN}, seconds=3)
        lab.write(entry, run)

        def off():
            lab.home.cable(cut=True)
            lab.kill_coordinator()
            return time.monotonic()

        lab.coord("up", "-y", "--hosts-only")
        stopped.unlink(missing_ok=True)
        begin = off()
        wait_for("the idle pod stops itself", stopped.exists, 30)
        idle = time.monotonic() - begin
        lab.home.cable(cut=False)

        stopped.unlink()
        before = lab.run()["run"]
        up = lab.start("up", "-y")
        wait_for("epoch 1", lambda: lab.run()["run"] != before and lab.run()["epoch"] >= 1)
        check(not stopped.exists(), "stopped while a run is on")
        begin = off()
        up.communicate(timeout=30)
        wait_for("the trainers end by themselves", lambda: stopped.exists() or not [p for p in lab.trainers() if p in pod.processes()])
        worked = time.monotonic() - begin
        check(not stopped.exists(), "stopped while a trainer works")
        wait_for("the pod stops itself after the run", stopped.exists, 60)
        total = time.monotonic() - begin
        check(agent_of(pod), "nobody is left who could try again")
        lab.home.cable(cut=False)
        return f"off while idle: stopped after {show(idle)}; off in a run: it went on for {show(worked)}, stopped after {show(total)}"
