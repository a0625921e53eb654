"""The simulator as a child process, with its control port as methods."""
import bisect
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
SIMULATOR = os.path.join(HERE, "..", "..", "exchange_sim")
sys.path.insert(0, SIMULATOR)
import imap  # noqa: E402,F401  the lists of capabilities it knows
import messages  # noqa: E402,F401  the same bodies the simulator makes


def most_within(times, seconds):
    """The most of these moments, in order, that any such time has seen."""
    return max((bisect.bisect_left(times, at + seconds) - i for i, at in enumerate(times)), default=0)


class Factory:
    """Makes simulators by fork, which costs a tenth of starting each."""

    def __init__(self):
        self.process = subprocess.Popen(["/usr/bin/python3", SIMULATOR, "--factory"], stdin=subprocess.PIPE)

    def start(self, args, log):
        """Gives the standard output of a new one."""
        directory = tempfile.mkdtemp(prefix="mailpolld-sim.")
        fifo = os.path.join(directory, "stdout")
        os.mkfifo(fifo)
        self.process.stdin.write(json.dumps({"argv": args, "stdout": fifo, "stderr": log}).encode() + b"\n")
        self.process.stdin.flush()
        stdout = open(fifo, "rb")
        os.unlink(fifo)
        os.rmdir(directory)
        return stdout

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


class Simulator:
    def __init__(self, directory, factory=None, **ports):
        args = ["--dir", str(directory)]
        for name, port in ports.items():
            args += ["--%s" % name.replace("_", "-"), str(port)]
        log = os.path.join(str(directory), "simulator.log") if os.path.isdir(str(directory)) else os.devnull
        if factory:
            self.process, self.stdout = None, factory.start(args, log)
        else:
            with open(log, "ab") as stderr:
                self.process = subprocess.Popen(["/usr/bin/python3", SIMULATOR, *args], stdout=subprocess.PIPE, stderr=stderr)
            self.stdout = self.process.stdout
        self.kept = threading.local()           # each thread's connection
        line = self.stdout.readline()
        assert line, "the simulator did not start"
        self.__dict__.update(json.loads(line))

    def stop(self):
        os.kill(self.pid, signal.SIGKILL)
        if self.process:
            self.process.wait()
        self.stdout.close()

    def call(self, method, path, data=None, timeout=120):
        connection = getattr(self.kept, "connection", None) or http.client.HTTPConnection("127.0.0.1", self.control_port)
        self.kept.connection, connection.timeout = None, timeout
        if connection.sock:
            connection.sock.settimeout(timeout)
        connection.request(method, path, json.dumps(data) if data is not None else None)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        self.kept.connection = connection       # it has come to no harm
        assert answer.status == 200, body
        return body

    def post(self, path, **data):
        return self.call("POST", path, data)

    def mailbox(self, address, folders=("INBOX",), **more):
        self.post("/mailbox", address=address, folders=list(folders), **more)

    def add(self, address, specs, folder="INBOX"):
        return self.post("/message", address=address, folder=folder, messages=specs)["uids"]

    def fault(self, kind, address="*", **more):
        self.post("/fault", address=address, kind=kind, **more)

    def clear(self, address="*"):
        self.post("/clear", address=address)

    def state(self, address=None):
        return self.call("GET", "/state" + ("?" + urllib.parse.urlencode({"address": address}) if address else ""))

    def counts(self, name):
        return self.state()["counts"].get(name, 0)

    def folder(self, address, folder="INBOX"):
        return self.state(address)["folders"][folder]

    def sums(self, address, folder="INBOX"):
        return self.call("GET", "/sums?" + urllib.parse.urlencode({"address": address, "folder": folder}))

    def log_lines(self):
        return self.call("GET", "/log")["lines"]

    def sign_ins(self):
        """When each was, in the simulator's seconds, in order."""
        return sorted(at for at, _ in self.call("GET", "/sign-ins")["sign_ins"])

    def wait(self, what, at_least, address=None, timeout_s=30):
        ok, value = self.comes(what, at_least, address, timeout_s)
        assert ok, "%s is %r, not %r" % (what, value, at_least)
        return value

    def comes(self, what, at_least, address=None, timeout_s=30):
        """Does it come to that within this time, and what is it now?"""
        query = {"what": what, "at_least": at_least, "timeout_s": timeout_s, **({"address": address} if address else {})}
        answer = self.call("GET", "/wait?" + urllib.parse.urlencode(query), timeout=timeout_s + 30)
        return answer["ok"], answer["value"]
