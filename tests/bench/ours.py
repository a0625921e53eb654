"""mailpolld as the benchmarks run it: admission switched off, the log in a file, everything else as it is by default."""
import json
import os
import shutil
import sys
import time

from place import HERE, TOOLS, AnonymousPeak, Sample, cpu_s, memory_kib, started, until

sys.path.insert(0, os.path.join(HERE, "..", "integration"))
from lib.daemon import Daemon, UnixConnection  # noqa: E402

NO_ADMISSION = {"sessions_per_second": "off", "starting_at_once": 100000, "fetching_at_once": 100000}


class Ours(Daemon):
    """A daemon below directory, which is made anew; port and CA are the IMAP server's."""

    def __init__(self, directory, simulator, server, mailboxes, defaults=None, top=None):
        shutil.rmtree(directory, ignore_errors=True)
        super().__init__(directory, simulator)
        self.server, self.defaults, self.top = server, defaults or {}, top or {}
        self.set(mailboxes)

    def set(self, mailboxes):
        self.config(mailboxes, {"port": self.server.port, **self.defaults}, {"log_level": "info", **self.top}, NO_ADMISSION)

    def start(self, stderr=None):
        self.log = stderr or open(os.path.join(TOOLS, "..", "mailpolld.log"), "wb")
        self.begun = time.monotonic()
        super().start(stderr=self.log)
        started.append(self.process)
        self.connection, self.called = UnixConnection(self.socket, 60), time.monotonic()
        return self

    def finish(self, timeout=30):
        code = super().finish(timeout)
        self.log.close()
        return code

    @property
    def pid(self):
        return self.process.pid

    def call(self, method, path):
        """Over one connection, which the daemon closes after half a minute of silence."""
        if time.monotonic() - self.called > 20:
            self.connection.close()
        self.called = time.monotonic()
        self.connection.request(method, path)
        answer = self.connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body

    def totals(self):
        return json.loads(self.call("GET", "/status?summary=1"))["totals"]

    def wait_totals(self, condition, what, timeout=600, pause=0.02):
        until(lambda: self.process.poll() is not None or condition(self.totals()), what, timeout, pause)
        assert self.process.poll() is None, "it ended"

    def anon_kib(self):
        return memory_kib(self.pid, "RssAnon")

    def delivers(self, n):
        """From its start until n messages are delivered and settled."""
        self.start()
        peak = AnonymousPeak(self.pid)
        self.wait_totals(lambda t: t["delivered"] >= n, "%d delivered" % n)
        wall = time.monotonic() - self.begun
        sample = Sample(wall, cpu_s(self.pid), memory_kib(self.pid, "VmHWM"), peak.stop(), n)
        self.cleanup()
        return sample
