"""Memory depends neither on the size of a message nor on that of a mailbox. Sizes, not times: so they are asserted."""
import os
import threading

import pytest

from lib.daemon import BUILD
from lib.maildir import Maildir, sha256_of
from lib.simulator import messages

ADDRESS = "support@contoso.example"
SANITIZED = os.path.basename(BUILD) == "asan"		# its own memory is many times ours: no bound is asserted


def peak_kib(daemon):
    return daemon.memory_kib("VmHWM")


class AnonymousPeak(threading.Thread):
    """The most RssAnon that was seen: the kernel keeps none."""

    def __init__(self, daemon):
        super().__init__(daemon=True)
        self.daemon, self.kib, self.over = daemon, 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.01):
            self.kib = max(self.kib, self.daemon.memory_kib("RssAnon"))

    def end(self):
        self.over.set()
        self.join()
        return self.kib


def empty_peak(simulator, make_daemon):
    simulator.mailbox("empty@contoso.example")
    daemon = make_daemon("empty")
    daemon.config(["empty@contoso.example"], top={"log_level": "info"})
    daemon.start()
    daemon.wait_state("empty@contoso.example", "watching")
    return peak_kib(daemon)


@pytest.mark.parametrize("ranges", [[[1, 100000, 1]], [[1, 4294967295, 42949]]])
def test_first_contact_with_100000_messages(simulator, make_daemon, ranges):
    """start: new, so that it is the listing that counts; then all UIDs are listed again."""
    base = empty_peak(simulator, make_daemon)
    simulator.mailbox(ADDRESS)
    simulator.post("/uids", address=ADDRESS, folder="INBOX", ranges=ranges)
    daemon = make_daemon("full")
    daemon.config([{"address": ADDRESS, "deliver": {"command": ["/bin/false"]}}], top={"log_level": "info"})
    daemon.start()
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["backlog"] >= 99000)
    daemon.wait_state(ADDRESS, "held")
    assert SANITIZED or peak_kib(daemon) - base < 8 * 1024


def test_message_of_200_mib(simulator, daemon):
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"big": 200 * 1024 * 1024}])
    daemon.config([ADDRESS], top={"log_level": "info"})
    daemon.start()
    peak = AnonymousPeak(daemon)
    daemon.wait_delivered(ADDRESS, 1)
    kib = peak.end()
    assert 0 < kib and (SANITIZED or kib < 24 * 1024)
    assert sha256_of(next(Maildir(daemon.maildir(ADDRESS)).files())) == messages.sha256({"big": 200 * 1024 * 1024})
