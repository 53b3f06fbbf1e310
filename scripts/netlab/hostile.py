"""SSH servers that mean harm or are broken, one a port of 127.0.0.1. Needs paramiko; scripts/nettest runs it.

Usage: hostile.py HOST_KEY GOOD WORKER    prints {"name": port, …} on one line, serves until its standard input ends

GOOD is the address of a real sshd, WORKER the file name of the worker that a host is thought to have.
A server either speaks raw TCP (until the keys are agreed nothing else is needed) or is paramiko's server with one habit.
"""

import json
import os
import re
import socket
import struct
import sys
import threading
import time

import paramiko

BANNER = b"SSH-2.0-OpenSSH_9.2p1\r\n"
FOREVER = 3600
HOST_KEY = None
GOOD = ("", 0)
WORKER = ""
RAW = {}
HABITS = {}


def raw(function):
    RAW[function.__name__] = function
    return function


# Before and during the key exchange

@raw
def wrong_banner(connection):
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    time.sleep(FOREVER)


@raw
def no_banner(connection):
    time.sleep(FOREVER)


@raw
def endless_banner(connection):
    while True:
        connection.sendall(b"welcome to this fine machine\r\n" * 100)


@raw
def endless_banner_line(connection):
    while True:
        connection.sendall(b"SSH-2.0-" + b"x" * 65536)


@raw
def binary_banner(connection):
    connection.sendall(os.urandom(4096))
    time.sleep(FOREVER)


@raw
def closes_at_connect(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@raw
def old_protocol(connection):
    connection.sendall(b"SSH-1.5-Cisco-1.25\n")
    time.sleep(FOREVER)


@raw
def hangs_in_key_exchange(connection):
    connection.sendall(BANNER)
    time.sleep(FOREVER)


@raw
def garbage_in_key_exchange(connection):
    connection.sendall(BANNER + os.urandom(20000))
    time.sleep(FOREVER)


@raw
def huge_packet_length(connection):
    connection.sendall(BANNER + struct.pack(">IB", 0xFFFFFFFF, 4) + b"\x14" * 1000)
    time.sleep(FOREVER)


@raw
def zero_packet_length(connection):
    connection.sendall(BANNER + bytes(4096))
    time.sleep(FOREVER)


@raw
def nothing_in_common(connection):
    """A KEXINIT whose lists name algorithms that nobody has."""
    body = b"\x14" + os.urandom(16) + (struct.pack(">I", 8) + b"no-such1") * 10 + bytes(5)
    padding = 8 - (len(body) + 5) % 8 + 4
    padding += -(len(body) + 5 + padding) % 8
    connection.sendall(BANNER + struct.pack(">IB", len(body) + padding + 1, padding) + body + os.urandom(padding))
    time.sleep(FOREVER)


@raw
def one_byte_a_second(connection):
    for byte in BANNER + struct.pack(">IB", 30000, 4) + bytes(30000):
        connection.sendall(bytes([byte]))
        time.sleep(1)


@raw
def wrong_mac(connection):
    """A real sshd, and somebody on the way who changes a byte once it is encrypted."""
    with socket.create_connection(GOOD) as real:
        threading.Thread(target=copy, args=(connection, real), daemon=True).start()
        passed = 0
        while data := real.recv(65536):
            if passed > 1800:
                data = bytes([data[0]]) + bytes([data[len(data) // 2] ^ 1]) + data[2:]
            passed += len(data)
            connection.sendall(data)


def copy(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass


# With agreed keys: paramiko's server and a habit

FACTS = b"clock\t1\nsystem\tLinux\nmachine\tx86_64\nuser\troot\nroute\t127.0.0.1 1 127.0.0.1 2\ncores\t2\n"


class Habit(paramiko.ServerInterface):
    """A server that does everything right; subclasses do one thing wrong."""

    def __init__(self, transport):
        self.transport = transport

    def get_allowed_auths(self, username):
        return "publickey"

    def check_auth_publickey(self, username, key):
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind, number):
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel, command):
        threading.Thread(target=self.execute, args=(channel, command.decode()), daemon=True).start()
        return True

    def execute(self, channel, command):
        try:
            if "uname -s" in command:
                self.uname(channel)
            elif " bridge --directory " in command:
                self.bridge(channel)
            elif " start --directory " in command:
                self.start(channel)
            else:
                self.other(channel, command)
        except (OSError, EOFError):
            pass  # coord has hung up

    def uname(self, channel):
        self.say(channel, FACTS + b"worker\t" + WORKER.encode() + b"\n")

    def start(self, channel):
        self.say(channel, b"")

    def other(self, channel, command):
        self.say(channel, b"")

    def bridge(self, channel):
        self.say(channel, b"")

    def say(self, channel, text):
        channel.sendall(text)
        channel.send_exit_status(0)
        channel.close()


def habit(kind):
    HABITS[re.sub(r"(?<=.)([A-Z])", r"_\1", kind.__name__).lower()] = kind
    return kind


@habit
class HangsInAuth(Habit):
    def check_auth_publickey(self, username, key):
        time.sleep(FOREVER)


@habit
class WantsMethodsNobodyHas(Habit):
    def get_allowed_auths(self, username):
        return "hostbased,retina-scan"

    def check_auth_publickey(self, username, key):
        return paramiko.AUTH_FAILED


@habit
class EndlessAuthBanner(Habit):
    def check_auth_publickey(self, username, key):
        while self.transport.is_active():
            message = paramiko.Message()
            message.add_byte(b"\x35")  # SSH_MSG_USERAUTH_BANNER
            message.add_string("welcome " * 3000)
            message.add_string("en")
            self.transport._send_message(message)
        return paramiko.AUTH_FAILED


@habit
class PartialForEver(Habit):
    def check_auth_publickey(self, username, key):
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL


@habit
class DropsAfterAuth(Habit):
    def check_channel_request(self, kind, number):
        self.transport.close()
        return paramiko.OPEN_SUCCEEDED


@habit
class RefusesChannels(Habit):
    def check_channel_request(self, kind, number):
        return paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED


@habit
class ChannelNeverOpens(Habit):
    def check_channel_request(self, kind, number):
        time.sleep(FOREVER)


@habit
class RefusesCommands(Habit):
    def check_channel_exec_request(self, channel, command):
        return False


@habit
class CommandNeverStarts(Habit):
    def check_channel_exec_request(self, channel, command):
        time.sleep(FOREVER)


@habit
class ClosesWithoutExitStatus(Habit):
    def uname(self, channel):
        channel.close()


@habit
class EndlessOutput(Habit):
    def uname(self, channel):
        while True:
            channel.sendall(b"system\tLinux\n" * 10000)


@habit
class EndlessErrors(Habit):
    def uname(self, channel):
        while True:
            channel.sendall_stderr(b"warning: all is well\n" * 10000)


@habit
class OneByteAtATime(Habit):
    def uname(self, channel):
        while True:
            channel.sendall(b"L")
            time.sleep(0.2)


@habit
class EmptyPackets(Habit):
    def uname(self, channel):
        while self.transport.is_active():
            message = paramiko.Message()
            message.add_byte(b"\x5e")  # SSH_MSG_CHANNEL_DATA
            message.add_int(channel.remote_chanid)
            message.add_string(b"")
            self.transport._send_user_message(message)
            time.sleep(0.001)


@habit
class ExitsBeforeOutput(Habit):
    def uname(self, channel):
        channel.send_exit_status(0)
        time.sleep(0.2)
        channel.sendall(FACTS)
        time.sleep(FOREVER)


@habit
class GarbageForUname(Habit):
    def uname(self, channel):
        self.say(channel, os.urandom(3000))


@habit
class EscapesForUname(Habit):
    def uname(self, channel):
        self.say(channel, b"system\t\x1b]0;owned\x07\x1b[2J\x1b[1;31m\rcoord: all hosts are ready\n")


@habit
class WorkerArrivesChanged(Habit):
    def uname(self, channel):
        self.say(channel, FACTS)

    def other(self, channel, command):
        if "cat >" in command:
            while channel.recv(1 << 20):
                pass
            self.say(channel, b"0" * 64 + b"  -\n")
        else:
            self.say(channel, b"")


@habit
class WorkerIsNotTaken(Habit):
    """Reads a little of the worker and then hangs."""

    def uname(self, channel):
        self.say(channel, FACTS)

    def other(self, channel, command):
        if "cat >" in command:
            channel.recv(100000)
            self.transport.close()
        else:
            self.say(channel, b"")


@habit
class NoSentinel(Habit):
    def bridge(self, channel):
        time.sleep(FOREVER)


@habit
class NoiseBeforeSentinel(Habit):
    def bridge(self, channel):
        while True:
            channel.sendall(b"motd motd motd\n" * 1000)


SENTINEL = b"COORD-BRIDGE-1\n"


def frame(payload, kind=1):
    return struct.pack("<IB", len(payload) + 1, kind) + payload


@habit
class LyingLength(Habit):
    def bridge(self, channel):
        channel.sendall(SENTINEL + b"\xff\xff\xff\xff\x01{}")
        time.sleep(FOREVER)


@habit
class FrameThatStalls(Habit):
    def bridge(self, channel):
        channel.sendall(SENTINEL + struct.pack("<IB", 50000, 1) + b'{"hello":')
        time.sleep(FOREVER)


@habit
class FrameThatDrips(Habit):
    def bridge(self, channel):
        channel.sendall(SENTINEL + struct.pack("<IB", 50000, 1))
        while True:
            channel.sendall(b" ")
            time.sleep(0.5)


@habit
class TruncatedFrame(Habit):
    def bridge(self, channel):
        self.say(channel, SENTINEL + struct.pack("<IB", 500, 1) + b'{"hello":')


@habit
class NotOurLanguage(Habit):
    def bridge(self, channel):
        channel.sendall(SENTINEL + frame(b'{"hello":{"protocolVersion":"../../etc","instance":7}}'))
        time.sleep(FOREVER)


@habit
class DeepNesting(Habit):
    def bridge(self, channel):
        channel.sendall(SENTINEL + frame(b"[" * 60000))
        time.sleep(FOREVER)


@habit
class OtherVersion(Habit):
    def bridge(self, channel):
        channel.sendall(SENTINEL + frame(
            b'{"hello":{"protocolVersion":9999,"instance":"x","worker":"' + b"0" * 64 + b'"}}'))
        time.sleep(FOREVER)


@habit
class NeverSaysHello(Habit):
    def bridge(self, channel):
        channel.sendall(SENTINEL)
        time.sleep(FOREVER)


# Serving

def serve_raw(function, connection):
    try:
        function(connection)
    except OSError:
        pass
    connection.close()


def serve_habit(kind, connection):
    transport = paramiko.Transport(connection)
    transport.add_server_key(HOST_KEY)
    try:
        transport.start_server(server=kind(transport), event=threading.Event())
    except (paramiko.SSHException, EOFError, OSError):
        transport.close()


def listen(serve, what):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(what, connection), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def main():
    global HOST_KEY, GOOD, WORKER
    HOST_KEY, GOOD, WORKER = paramiko.Ed25519Key(filename=sys.argv[1]), (sys.argv[2], 22), sys.argv[3]
    ports = {name: listen(serve_raw, function) for name, function in RAW.items()}
    ports |= {name: listen(serve_habit, kind) for name, kind in HABITS.items()}
    print(json.dumps(ports), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    import logging
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    logging.getLogger("paramiko").propagate = False
    main()
