"""kill -9 at many moments: nothing is lost and nothing delivered twice, whatever a reader does meanwhile."""
import collections
import os
import threading
import time

import pytest

from lib.maildir import Maildir, sha256_of

ADDRESSES = ["crash%d@contoso.example" % i for i in range(4)]
PER_MAILBOX = 250
KILLS = 30


class Reader:
    """What becomes of a file in new/: nothing, taken out at once, or moved to cur/ with flags."""

    def __init__(self, kind, maildirs, away):
        self.kind, self.maildirs, self.away = kind, maildirs, away
        self.seen = collections.Counter()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        if kind != "nobody":
            os.makedirs(away, exist_ok=True)
            self.thread.start()

    def run(self):
        while not self.stop.is_set():
            self.once()
            self.stop.wait(0.002)

    def once(self):
        for maildir in self.maildirs:
            for path in list(Maildir(maildir).files("new")):
                name = os.path.basename(path)
                if self.kind == "takes":
                    self.seen[sha256_of(path)] += 1
                    os.unlink(path)
                else:
                    os.rename(path, os.path.join(maildir, "cur", name + ":2,S"))

    def finish(self):
        if self.kind != "nobody":
            self.stop.set()
            self.thread.join()
            self.once()
        total = collections.Counter(self.seen)
        for maildir in self.maildirs:
            total += Maildir(maildir).sums()
        return total


def kill_often(simulator, daemon, total):
    """Kills when a FETCH is being answered or a flush runs, spread between 5 % and 95 % of the bodies."""
    in_flight = 0
    for i in range(KILLS):
        daemon.start(ready=False)
        goal = total * (5 + 90 * i // KILLS) // 100
        until = time.monotonic() + 30
        while True:
            state = simulator.state()
            if state["counts"].get("bodies", 0) >= goal and state["in_flight"] > 0:
                break
            if state["counts"].get("bodies", 0) >= total:
                break                       # all are on their way: what is in flight now are flushes
            assert time.monotonic() < until and daemon.process.poll() is None, "\n".join(daemon.lines[-30:])
        in_flight += state["in_flight"] > 0
        daemon.kill9()
    return in_flight


def prepare(simulator, daemon, **defaults):
    for n, address in enumerate(ADDRESSES):
        simulator.mailbox(address, ["INBOX", "Processed"])
        simulator.add(address, [{"seed": n * 10000 + i, "size": 2000 + 37 * (i % 50)} for i in range(PER_MAILBOX)])
    simulator.fault("drip", bytes_per_second=4000000)
    daemon.config(ADDRESSES, defaults, {"log_level": "info"})


def expected_sums(simulator, folder="INBOX"):
    return sum((collections.Counter(simulator.sums(address, folder).values()) for address in ADDRESSES), collections.Counter())


@pytest.mark.parametrize("reader", ["nobody", "takes", "moves"])
def test_exactly_once(simulator, daemon, reader, tmp_path):
    prepare(simulator, daemon)
    total = PER_MAILBOX * len(ADDRESSES)
    reading = Reader(reader, [daemon.maildir(a) for a in ADDRESSES], str(tmp_path / "away"))
    in_flight = kill_often(simulator, daemon, total)
    daemon.start()
    daemon.wait_total(total)
    assert daemon.stop() == 0
    assert reading.finish() == expected_sums(simulator)
    assert in_flight >= KILLS // 3      # the others met flushes: how many depends on the machine
    # each kill may cost what was being fetched: at most a batch
    assert simulator.counts("bodies") <= total + KILLS * 100


@pytest.mark.parametrize("after", ["delete", {"move": "Processed"}])
def test_after(simulator, daemon, after):
    prepare(simulator, daemon, after=after)
    total, expected = PER_MAILBOX * len(ADDRESSES), expected_sums(simulator)
    kill_often(simulator, daemon, total)
    daemon.start()
    daemon.wait(lambda s: all(f["after_owed"] == 0 and f["delivered"] >= PER_MAILBOX for m in s["mailboxes"] for f in m["folders"]), 120)
    assert daemon.stop() == 0
    assert sum((Maildir(daemon.maildir(a)).sums() for a in ADDRESSES), collections.Counter()) == expected
    for address in ADDRESSES:
        assert simulator.folder(address)["messages"] == {}
    assert expected_sums(simulator, "Processed") == (expected if after != "delete" else collections.Counter())
    assert simulator.counts("plain-expunge") == 0
