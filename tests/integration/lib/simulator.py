"""The simulator as a child process, with its control port as methods."""
import http.client
import json
import os
import subprocess
import sys
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
SIMULATOR = os.path.join(HERE, "..", "..", "exchange_sim")
sys.path.insert(0, SIMULATOR)
import messages  # noqa: E402,F401  the same bodies the simulator makes


class Simulator:
    def __init__(self, directory, **ports):
        args = ["/usr/bin/python3", SIMULATOR, "--dir", str(directory)]
        for name, port in ports.items():
            args += ["--%s" % name.replace("_", "-"), str(port)]
        self.log = open(os.path.join(str(directory), "simulator.log"), "ab") if os.path.isdir(str(directory)) else subprocess.DEVNULL
        self.process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=self.log)
        line = self.process.stdout.readline()
        assert line, "the simulator did not start"
        self.__dict__.update(json.loads(line))

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def call(self, method, path, data=None, timeout=120):
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=timeout)
        try:
            connection.request(method, path, json.dumps(data) if data is not None else None)
            answer = connection.getresponse()
            body = json.loads(answer.read())
            assert answer.status == 200, body
            return body
        finally:
            connection.close()

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

    def wait(self, what, at_least, address=None, timeout_s=30):
        query = {"what": what, "at_least": at_least, "timeout_s": timeout_s, **({"address": address} if address else {})}
        answer = self.call("GET", "/wait?" + urllib.parse.urlencode(query), timeout=timeout_s + 30)
        assert answer["ok"], "%s is %r, not %r" % (what, answer["value"], at_least)
        return answer["value"]
