"""Secrets show up nowhere."""

import base64
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading

from common import FAST, RUN, agent_folder, cluster_id
from netlab import LAB_ID, ROOT, NetLab, check, wait_for


def secrets_stay_secret():
    """The private key, a generation's secret and the serve token show up in no argv, no environment of others, no log, no output
    and not in the registry, during a run that is deployed, loses a trainer and refuses clients."""
    token = "tok-" + os.urandom(16).hex()
    with NetLab("secrets", mtu=FAST) as lab:
        hosts = [lab.add_host("h0", sshd=f"SetEnv COORD_TOKEN={token}", quota="800m"), lab.add_host("h1")]
        lab.trust(*hosts)
        # The second host knows the cluster's own key, restricted to the bridge; it has no other way in.
        own = lab.folder / "keys" / "coord_ed25519"
        lab.home.execute(
            "env", f"COORD_SSH_OPTIONS=-F /dev/null -o IdentitiesOnly=yes -i {lab.key}",
            f"COORD_WORKERS={lab.environment['COORD_WORKERS']}", ROOT / "scripts" / "bootstrap-keys.sh", "--yes", "--restrict",
            "--dir", own.parent, f"{hosts[1].user}@{hosts[1].address}", "-p", hosts[1].port)
        entries = lab.entry(hosts[0]) + lab.entry(hosts[1]).replace(str(lab.key), str(own))

        def write(run):
            lab.write(entries, run, "deploy: { host: h0 }\n")
            text = lab.file.read_text()
            lab.file.write_text(text.replace(f":{lab.serve_port} }}", f":{lab.serve_port}, token_env: COORD_TOKEN }}"))

        write(RUN)
        lab.digits()
        run = {"model": "{ type: mlp, hidden: [64] }", "epochs": "400"}
        write(run)
        said = []
        with Watch(lab) as watch:
            # The private key and the token are known; the secret of the generation is what the agent tells root on its socket.
            up = lab.start("up", "-y", "-v") if "-v" in lab.coord("up", "--help").stdout.split() else lab.start("up", "-y")
            wait_for("a run", lambda: lab.json("run", "list") and lab.run()["step"] > 0)
            secrets = {secret_of_generation(lab, hosts[0])}
            trainer = next(pid for pid in lab.trainers() if pid in hosts[1].processes())
            os.kill(trainer, signal.SIGKILL)
            wait_for("another generation", lambda: lab.run()["generations"] > 1, 60)
            secrets.add(wait_for("its secret", lambda: {secret_of_generation(lab, hosts[0])} - secrets).pop())
            lab.coord("run", "stop")
            said += up.communicate(timeout=60)
            write(RUN)
            said += texts(lab.coord("up", "-y"))
            said += texts(lab.coord("predict", "--sample", "1"))
            for sent in (token, "wrong-token"):
                status = http_status(hosts[0], lab.serve_port, sent)
                check(status == (200 if sent == token else 401), f"HTTP {status} with {'the' if sent == token else 'a wrong'} token")
            said += texts(lab.coord("status")) + texts(lab.coord("events")) + texts(lab.coord("run", "list", "--json"))
            lab.write(entries.replace(str(lab.key), str(lab.folder / "missing_key")), RUN, name="wrong.yaml")
            said += texts(lab.coord("up", "-y", "--hosts-only", file=lab.folder / "wrong.yaml", expect=None))
            needles = [form for secret in secrets for form in forms(secret, "a generation's secret")]
            for key, what in ((lab.key, "the private key"), (own, "the restricted private key")):
                needles += forms(private_seed(key), what)
                # The key's own text, of which the fourth line holds the seed.
                needles += [(key.read_bytes().splitlines()[4], what)]
            needles += [(token.encode(), "the serve token")]
            # What cannot find a secret proves nothing: each form is planted once and must be seen.
            check(len(found_in(b"".join(b"x" + needle for needle, _ in needles), needles)) == len(needles), "the search finds nothing")
            with open(lab.folder / "planted.log", "wb") as planted:
                planted.write(b"planted " + needles[0][0])
            plant = subprocess.Popen(hosts[1].argv("sleep", "30", token), stderr=subprocess.DEVNULL)
            wait_for("the planted secret is seen", lambda: watch.search([(token.encode(), "")]), 10)
            plant.kill()
            plant.wait()
            watch.forget(token.encode())
        lab.coord("down", "-y")
        leaks = [f"{what} in {where}" for text, where in zip(said, [f"output {i}" for i in range(len(said))])
                 for what in found_in(text.encode(), needles)]
        leaks += watch.search(needles)
        in_files = leaks_in_files(lab, hosts, needles, {lab.key, own})
        check(any("planted.log" in leak for leak in in_files), "the planted file was not found")
        leaks += [leak for leak in in_files if "planted.log" not in leak]
        check(not leaks, "\n".join(sorted(set(leaks))))
        return f"{len(needles)} forms of {len(secrets) + 3} secrets in {len(watch.seen)} processes and all files: none"


class Watch:
    """Looks at the command lines and environments of all processes of a lab, again and again, in a thread."""

    def __init__(self, lab):
        self.seen, self.over = {}, threading.Event()
        self.spaces = {node.namespace: node for node in lab.nodes}

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.over.wait(0.1):
            for entry in pathlib.Path("/proc").iterdir():
                try:
                    node = self.spaces.get(os.readlink(entry / "ns/pid")) if entry.name.isdigit() else None
                    if node:
                        owner = (entry / "environ").stat().st_uid
                        line, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
                        self.seen[(entry.name, line, environment)] = (node.name, owner)
                except OSError:
                    continue  # it ended meanwhile

    def search(self, needles):
        """What was found where; the token may stand in the environment of the user whose agent needs it, nowhere else."""
        leaks = []
        for (pid, line, environment), (name, owner) in list(self.seen.items()):
            leaks += [f"{what} in the command line {line} on {name}" for what in found_in(line, needles)]
            own = [n for n in needles if not (n[1] == "the serve token" and name == "h0" and owner in (0, LAB_ID))]
            leaks += [f"{what} in the environment of {line} on {name}, user {owner}" for what in found_in(environment, own)]
        return leaks

    def forget(self, text):
        self.seen = {key: value for key, value in list(self.seen.items()) if text not in key[1]}

    def __exit__(self, kind, value, trace):
        self.over.set()
        self.thread.join()


def texts(result):
    return [result.stdout, result.stderr]


def found_in(data, needles):
    return [what for needle, what in needles if needle in data]


def forms(secret, what):
    """A secret as bytes, hex, base64, and as lists of numbers."""
    return [(form, what) for form in {
        secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="), ",".join(map(str, secret)).encode(), ", ".join(map(str, secret)).encode()}]


def private_seed(file):
    """The seed of an Ed25519 key file."""
    lines = file.read_text().splitlines()[1:-1]
    blob = base64.b64decode("".join(lines))
    public = base64.b64decode(file.with_suffix(".pub").read_text().split()[1])[-32:]
    at = blob.rindex(public)
    seed = blob[at - 32:at]
    check(len(seed) == 32 and blob.count(public) == 3, "the key file is not what we think")
    return seed


def secret_of_generation(lab, host):
    """The secret of the generation that a host's agent has now, asked of the agent as the coordinator asks."""
    here = os.open(agent_folder(lab, host), os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(20)
        channel.connect(f"/proc/self/fd/{here}/agent.sock")
        os.close(here)
        hello = {"hello": {"protocolVersion": protocol_version(), "cluster": cluster_id(lab), "host": host.name}}
        for message in (hello, {"status": {}}):
            payload = json.dumps(message).encode()
            channel.sendall((len(payload) + 1).to_bytes(4, "little") + b"\x01" + payload)
            length = int.from_bytes(exactly(channel, 4), "little")
            answer = json.loads(exactly(channel, length)[1:])
        plan = max(answer["status"]["_0"]["generations"], key=lambda plan: plan["number"])
        secret = bytes(plan["secret"]["bytes"])
        check(len(secret) == 32, f"a secret of {len(secret)} bytes")
        return secret


def exactly(channel, count):
    data = b""
    while len(data) < count:
        part = channel.recv(count - len(data))
        check(part, "the agent closed its socket")
        data += part
    return data


def protocol_version():
    text = (ROOT / "Sources/Wire/AgentMessages.swift").read_text()
    return int(text.split("public let protocolVersion = ")[1].split()[0])


def http_status(host, port, token):
    with host.socket() as connection:
        connection.settimeout(20)
        connection.connect(("127.0.0.1", port))
        body = json.dumps({"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}]})
        connection.sendall(f"POST /v2/models/lab/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
        return int(connection.recv(4096).split()[1])


def leaks_in_files(lab, hosts, needles, keys):
    """Secrets in files: the workspace but the key files themselves, and all that hosts have written."""
    leaks, count = [], 0
    roots = [lab.folder] + [host.path(place) for host in hosts for place in ("/root", "/home", "/tmp", "/run", "/var", "/dev/shm")]
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                path = pathlib.Path(folder) / name
                # sshd's own configuration holds the token because the test put it there.
                if path in keys | {lab.folder / "hosts/h0/etc/ssh/sshd_config"} or not path.is_file() or path.is_symlink():
                    continue
                count += 1
                leaks += [f"{what} in {path}" for what in found_in(path.read_bytes(), needles)]
    check(count > 50, f"only {count} files were looked at")
    return leaks
