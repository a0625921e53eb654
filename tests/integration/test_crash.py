"""kill -9 at many moments, CRASH_KILLS of them: nothing is lost and nothing delivered twice, whatever a reader does meanwhile."""
import collections
import os
import sqlite3
import threading
import time

import pytest

from lib.gate import Gate
from lib.maildir import Maildir, sha256_of

ADDRESSES = ["crash%d@contoso.example" % i for i in range(4)]
PER_MAILBOX = 250
KILLS = int(os.environ.get("CRASH_KILLS", 12))


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
        before = simulator.counts("bodies")
        daemon.start(ready=False)
        goal = total * (5 + 90 * i // KILLS) // 100
        until = time.monotonic() + 30
        while True:
            state = simulator.state()
            bodies = state["counts"].get("bodies", 0)
            if bodies >= goal and bodies > before and state["in_flight"] > 0:       # of this one, not of the one before
                break
            if bodies >= total and any(line == "READY=1" for _, line in daemon.notified):
                break                       # all are on their way: what is in flight now are flushes
            assert time.monotonic() < until and daemon.process.poll() is None, "\n".join(daemon.lines[-30:])
            threading.Event().wait(0.005)
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


def add_intent(daemon, address, uid):
    """As a crash in this boot leaves it."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
        boot = f.read().strip().replace("-", "")
    with sqlite3.connect(os.path.join(daemon.state_dir, "state.db")) as db:
        db.execute("INSERT INTO intent (folder, uid, sink, maildir, tmp_name, new_name, settle_from, hash, after_owed, boot, internaldate)"
                   " SELECT ref, ?, 'maildir', ?, 'mailpolld.0.0.1', 'name', ?, zeroblob(16), 0, ?, 0 FROM folder WHERE id = ?",
                   (uid, daemon.maildir(address), uid, boot, address))


@pytest.mark.parametrize("n,hung,good", [
    (12, "hung/%{address}", "mail/%{address}"),
    (12, "%{domain}/%{local}", "%{domain}/%{local}"),       # one sink, several disks
    (12, "hung/{}", "mail/{}"),                             # a sink each
    (80, "hung/{}/Maildir", "mail/{}/Maildir"),
    (80, "hung/%{local}/in/%{folder}", "mail/%{local}/in/%{folder}"),
])
def test_many_mailboxes_on_a_disk_that_hangs(simulator, daemon, tmp_path, n, hung, good):
    """However they are named, and more than the lane has threads: those elsewhere start, and a reload is answered"""
    slow, other = ["box%02d@hung" % i for i in range(n)], ADDRESSES[0]
    for address in (*slow, other):
        simulator.mailbox(address)
    simulator.add(other, [{"seed": 1, "size": 2000}])
    gate = Gate(tmp_path / "gate", daemon.directory + "/hung/")
    daemon.config([{"address": a, "deliver": {"maildir": daemon.directory + "/" + (good if a == other else hung).replace("{}", a)}} for a in (*slow, other)])
    gate.shut()
    daemon.start(env=gate.env)
    gate.wait_stalled()
    daemon.wait_delivered(other, 1, timeout=20)
    assert daemon.ctl("reload").returncode == 0 and daemon.ctl("quarantine", "list").returncode == 0
    gate.open()
    daemon.wait(lambda s: s["totals"]["watching"] == n + 1)


def test_many_programs_on_a_disk_that_hangs(simulator, daemon, tmp_path):
    """One that lies elsewhere is started all the same"""
    programs = tmp_path / "programs"
    programs.mkdir()
    slow, other = ["box%02d@hung.example" % i for i in range(12)], ADDRESSES[0]
    for address in (*slow, other):
        simulator.mailbox(address)
        (programs / address).write_text("#!/bin/sh\ncat > /dev/null\n")
        (programs / address).chmod(0o755)
    gate = Gate(tmp_path / "gate", programs)
    daemon.config([*({"address": a, "deliver": {"command": [str(programs / a)]}} for a in slow), {"address": other, "deliver": {"command": ["/bin/cat"]}}])
    daemon.start(env=gate.env)
    daemon.wait(lambda s: s["totals"]["watching"] == len(slow) + 1)
    gate.shut()
    for address in slow:
        simulator.add(address, [{"seed": 1, "size": 2000}])
    daemon.wait(lambda s: sum(sink["running"] for sink in s["sinks"]) == len(slow))
    gate.wait_stalled()
    simulator.add(other, [{"seed": 1, "size": 2000}])
    daemon.wait_delivered(other, 1, timeout=20)
    gate.open()
    daemon.wait_total(len(slow) + 1)


@pytest.mark.parametrize("takes", [False, True])
def test_delivered_and_not_settled(simulator, daemon, takes):
    """The settlement of one message waits a moment for others; its intent says the same"""
    simulator.mailbox(ADDRESSES[0])
    simulator.add(ADDRESSES[0], [{"seed": 1, "size": 2000}])
    daemon.config(ADDRESSES[:1])
    daemon.start()
    daemon.wait_line("event=delivered")
    daemon.kill9()
    if takes:
        for path in Maildir(daemon.maildir(ADDRESSES[0])).files("new"):
            os.unlink(path)
    daemon.start()
    daemon.wait_delivered(ADDRESSES[0], 1)
    daemon.wait_state(ADDRESSES[0], "watching")
    assert len(Maildir(daemon.maildir(ADDRESSES[0]))) == (0 if takes else 1) and simulator.counts("bodies") == 1


def test_maildir_that_was_not_there_then(simulator, daemon):
    """Not mounted after the crash, perhaps: that a file is not in a tmp/ that has just been made proves no delivery"""
    address = ADDRESSES[0]
    simulator.mailbox(address)
    simulator.add(address, [{"seed": 1, "size": 2000}])
    daemon.config([address])
    daemon.start()
    daemon.wait_delivered(address, 1)
    assert daemon.stop() == 0
    simulator.add(address, [{"seed": 2, "size": 2000}])
    add_intent(daemon, address, 2)
    os.rename(daemon.maildir(address), daemon.maildir(address) + ".away")
    daemon.start()
    daemon.wait_delivered(address, 2)
    assert len(Maildir(daemon.maildir(address))) == 1 and simulator.counts("bodies") == 2


def test_disk_that_hangs_at_the_start(simulator, make_daemon, tmp_path):
    """Where the last run had a delivery under way; the others start without it"""
    daemon, (hangs, works) = make_daemon(program="mailpolld-scaled"), ADDRESSES[:2]
    for address in (hangs, works):
        simulator.mailbox(address)
        simulator.add(address, [{"seed": 1, "size": 2000}])
    daemon.config([hangs, works])
    daemon.start()
    daemon.wait_total(2)
    assert daemon.stop() == 0
    add_intent(daemon, hangs, 2)
    for address in (hangs, works):
        simulator.add(address, [{"seed": 2, "size": 2000}])
    gate = Gate(tmp_path / "gate", daemon.maildir(hangs))
    gate.shut()
    daemon.start(ready=False, env={"MAILPOLLD_CLOCK_RATE": "5", **gate.env})
    gate.wait_stalled()
    late = "level=warning .*a disk does not answer; starting with the others"
    assert daemon.ctl("reload").returncode == 0
    ready = any(line == "READY=1" for _, line in daemon.notified)
    assert not ready or daemon.has_line(late)       # a reload does not make it so
    daemon.wait_line(late)
    daemon.wait_notified("READY=1")
    daemon.wait_delivered(works, 2)
    gate.open()
    daemon.wait_delivered(hangs, 2)
    assert simulator.counts("bodies") == 3         # the intent's file is gone from tmp/: it was delivered
