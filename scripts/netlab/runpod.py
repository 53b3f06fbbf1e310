"""A server that answers as RunPod's REST API does, for pods of netlab; in the network of the lab's home, on loopback."""

import http.server
import json
import pathlib
import threading

KEY = "rpa_netlab0key0that0nobody0else0has"


class FakeRunPod:
    """Knows netlab pods by id: their address and port are told as they are when it is asked.

    `version` 1 is the old API, without the new one; `answer`, when set, is (status, headers, body) for everybody.
    """

    def __init__(self, lab):
        self.pods, self.machines = {}, {}
        self.version, self.answer = 2, None
        self.asked, self.told_in_arguments = [], []
        self.lab = lab
        server = http.server.ThreadingHTTPServer.__new__(http.server.ThreadingHTTPServer)
        super(http.server.HTTPServer, server).__init__(("127.0.0.1", 0), self._handler(), bind_and_activate=False)
        server.socket.close()
        server.socket = lab.home.socket()
        server.socket.bind(("127.0.0.1", 0))
        server.server_address = server.socket.getsockname()
        server.server_activate()
        lab.home.execute("ip", "link", "set", "lo", "up")
        self.server = server
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        lab.environment.update(RUNPOD_API_KEY=KEY, RUNPOD_API_BASE=self.url, COORD_POD_INTERVAL="0.5")

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(self, identity, machine=None, name="", cost=0.34, status="RUNNING"):
        """Rents a pod; `machine` is the netlab pod that it is."""
        self.pods[identity] = {"id": identity, "name": name or identity, "cost": cost, "status": status}
        self.machines[identity] = machine

    def describe(self, identity):
        """The pod as the API in force describes it."""
        pod, machine = dict(self.pods[identity]), self.machines[identity]
        is_open = machine is not None and pod["status"] == "RUNNING"
        if self.version == 1:
            mapped = {"publicIp": machine.address, "portMappings": {"22": machine.port}} if is_open else {"publicIp": "", "portMappings": None}
            return {"id": identity, "name": pod["name"], "desiredStatus": pod["status"], "costPerHr": str(pod["cost"]), **mapped}
        direct = {"host": machine.address, "port": machine.port, "username": "root", "command": "ssh"} if is_open else None
        return {**pod, "ssh": {"direct": direct, "proxy": {"host": "ssh.runpod.io"}}, "runtime": None, "actions": ["stop"]}

    def reply(self, path, authorization):
        if self.answer:
            return self.answer
        parts = path.strip("/").split("/")
        if parts[0] != f"v{self.version}" or parts[1] != "pods":
            return 404, {"Content-Type": "text/html"}, b"<html><body>404 page not found</body></html>"
        if authorization != f"Bearer {KEY}":
            return self.problem(401, "Unauthorized", f"the key {authorization} is not valid")
        if len(parts) == 2:
            pods = [self.describe(identity) for identity in self.pods]
            return 200, {"Content-Type": "application/json"}, json.dumps(pods if self.version == 1 else {"pods": pods}).encode()
        if parts[2] not in self.pods:
            return self.problem(404, "Not Found", f"pod {parts[2]} was not found")
        return 200, {"Content-Type": "application/json"}, json.dumps(self.describe(parts[2])).encode()

    @staticmethod
    def problem(status, title, detail):
        """An error in the form of RFC 9457."""
        return status, {"Content-Type": "application/problem+json"}, json.dumps(
            {"title": title, "status": status, "detail": detail, "errors": []}).encode()

    def _look_at_arguments(self):
        # curl waits for the answer right now: whoever can see its arguments sees them.
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if words.startswith(b"curl\0"):
                    self.told_in_arguments.append(words)

    def _handler(self):
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                api.asked.append((self.command, self.path))
                api._look_at_arguments()
                status, headers, body = api.reply(self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    pass  # whoever asked had enough

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *words):
                pass

        return Handler
