"""Many mailboxes on Dovecot: a poll of all, all in IDLE, their start, how soon mail is there."""
import os
import statistics
import subprocess
import threading
import time

import peers
from ours import Ours
from place import QUICK, Sample, cpu_s, measure, memory_kib, started, tool, until
from report import paired, spread
from rows_messages import ROUNDS

POLLED = 20 if QUICK else 500
IDLE = (10, 40) if QUICK else (1000, 5000)
WATCHED, DELIVERIES, PER_SECOND = (60, 90, 10) if QUICK else (1000, 3000, 10)
BODY = 4096


# --- the floor's login ---

def floor_logins(server, token_file, users, n):
    """Words for full handshakes, and for resumed sessions."""
    told = measure([tool("floor"), "poll", str(server.port), server.ca_file, token_file, users, str(n), "20"], n)[1]
    return [line.split() for line in told.strip().split("\n")]


def note_logins(bench, floors, n):
    """CPU in ms of one with a full handshake."""
    for i, what in enumerate(("full handshakes", "resumed")):
        bench.report.note("floor, sign in + STATUS + LOGOUT, %s (%s of %d resumed): CPU ms per mailbox %s, wall s %s" % (
            what, floors[0][i][3], n, spread([1000 * float(w[i][7]) / n for w in floors]), spread([float(w[i][5]) for w in floors])))
    return statistics.median([1000 * float(w[0][7]) / n for w in floors])


# --- one poll ---

class Poller:
    """A mailpolld that goes on from poll to poll, as it does in life: the TLS sessions are resumed."""

    def __init__(self, bench, users):
        self.users, self.delivered = users, 0
        self.daemon = Ours(os.path.join(bench.place.disk, "mailpolld"), bench.simulator, bench.dovecot, users, {"watch": "poll", "interval": "24h"})
        self.daemon.start()
        self.asleep(0)

    def asleep(self, delivered):
        # seldom asked: each question is CPU of the daemon's
        self.daemon.wait_totals(lambda t: t["sleeping"] == len(self.users) and t["delivered"] >= delivered, "all asleep, %d delivered" % delivered, pause=0.2)

    def run(self, n):
        """n: new messages. The request to poll all is part of it."""
        self.delivered += n
        begun, cpu = time.monotonic(), cpu_s(self.daemon.pid)
        self.daemon.call("POST", "/mailboxes/*/poll")
        self.asleep(self.delivered)
        return Sample(time.monotonic() - begun, cpu_s(self.daemon.pid) - cpu, memory_kib(self.daemon.pid, "VmHWM"), self.daemon.anon_kib(), len(self.users))


def poll(bench):
    """One poll of 500 mailboxes: one new message in each, and nothing new"""
    dovecot, runs = bench.dovecot, {}

    def users_of(who, n):
        users = ["poll%03d.%s@bench.test" % (i, who) for i in range(n)]
        for user in users:
            dovecot.put(user, 1, BODY)          # for the first run, which is not measured
        return users
    bench.place.clean()
    mine = users_of("ours", POLLED)
    poller = Poller(bench, mine)
    poller.delivered = POLLED
    runs["mailpolld"] = (mine, poller.run)
    for peer in peers.installed:
        few = max(POLLED // 10, 2) if peer.name == "getmail6" else POLLED
        users = users_of(peer.name, few)
        one = peer(bench.place, dovecot)
        one.run(users, few)
        runs[peer.name if few == POLLED else "%s (%d)" % (peer.name, few)] = (users, lambda n, one=one, users=users: one.run(users, n))
    new, nothing, floors = {who: [] for who in runs}, {who: [] for who in runs}, []
    names = list(runs)
    for i in range(ROUNDS):
        for who in names[i % len(names):] + names[:i % len(names)]:
            users, run = runs[who]
            for user in users:
                dovecot.put(user, 1, BODY)
            new[who].append(run(len(users)))
            nothing[who].append(run(0))
        floors.append(floor_logins(dovecot, dovecot.token_file, "poll%03u.ours@bench.test", POLLED))
    poller.daemon.cleanup()
    for title, samples in (("one new message in each", new), ("nothing new", nothing)):
        bench.report.note(title + ":")
        bench.report.table(("", "wall s", "CPU s", "CPU ms per mailbox", "VmHWM MiB"),
                           [(who, spread([s.wall for s in v]), spread([s.cpu for s in v]), spread([1000 * s.cpu / len(runs[who][0]) for s in v]),
                             spread([s.rss_kib / 1024 for s in v])) for who, v in samples.items()])
    login_ms = note_logins(bench, floors, POLLED)
    if "mbsync" in new:
        bench.report.target("poll", "one new message: wall against mbsync", paired([s.wall for s in new["mailpolld"]], [s.wall for s in new["mbsync"]]), "<=", 0.4)
    for what, samples, limit_ms in (("one new message", new, 1.4), ("nothing new", nothing, 1.2)):
        bench.report.against_login("poll", what, statistics.median([1000 * s.cpu / POLLED for s in samples["mailpolld"]]), login_ms, limit_ms)


# --- IDLE ---

class FloorIdle:
    """The floor's clients in IDLE. lost: how many connections the server closed; they were opened again."""

    def __init__(self, server, token_file, users, n):
        self.process = subprocess.Popen([tool("floor"), "idle", str(server.port), server.ca_file, token_file, users, str(n)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(self.process)
        assert self.process.stdout.readline() == "ready\n"
        self.base_kib = memory_kib(self.process.pid, "RssAnon")
        self.begun = time.monotonic()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.lost = 0
        while (words := self.process.stdout.readline().split())[:1] == ["lost"]:
            self.lost += 1
        if words[:1] != ["idle"]:
            raise RuntimeError("the floor ended: status %d" % self.process.wait())
        self.wall, self.cpu = time.monotonic() - self.begun, float(words[3])
        self.each_kib = (memory_kib(self.process.pid, "RssAnon") - self.base_kib) / n

    def listen(self, told, missed):
        """told(index, when) for each EXISTS, missed(index) for each lost connection, from a thread."""
        def read():
            for line in self.process.stdout:
                words = line.split()
                if words[0] == "lost":
                    self.lost += 1
                    missed(int(words[1]))
                else:
                    told(int(words[1]), float(words[2]))
        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()

    def stop(self):
        self.process.terminate()
        self.process.wait()


def note_lost(bench, lost):
    if lost > 0:
        bench.report.note("The server closed %d of the floor's connections (why: standard error); opened again, which is part of its figures." % lost)


def base_kib(bench, server):
    """With one mailbox that watches: RssAnon and VmRSS."""
    bench.place.clean()
    daemon = Ours(os.path.join(bench.place.disk, "mailpolld"), bench.simulator, server, ["base@bench.test"]).start()
    daemon.wait_totals(lambda t: t["watching"] == 1, "watching")
    anon, rss = daemon.anon_kib(), memory_kib(daemon.pid, "VmRSS")
    daemon.cleanup()
    return anon, rss


def idle_run(bench, n, base):
    """From the start to all watching; then what they hold."""
    bench.place.clean()
    users = ["idle%05d@bench.test" % i for i in range(n)]
    daemon = Ours(os.path.join(bench.place.disk, "mailpolld"), bench.simulator, bench.dovecot, users).start()
    daemon.wait_totals(lambda t: t["watching"] == n, "all watching", 300, pause=0.2)
    wall, cpu = time.monotonic() - daemon.begun, cpu_s(daemon.pid)
    time.sleep(0.2 if QUICK else 3)
    run = {"wall": wall, "cpu_ms": 1000 * cpu / n, "each_kib": (daemon.anon_kib() - base) / n, "rss_kib": memory_kib(daemon.pid, "VmRSS")}
    before, seconds = cpu_s(daemon.pid), 1 if QUICK else 5
    time.sleep(seconds)
    run["idle_ms"] = 1000 * (cpu_s(daemon.pid) - before) / seconds
    daemon.cleanup()
    return run


def idle(bench):
    """1,000 and 5,000 mailboxes in IDLE: start and memory"""
    for i in range(IDLE[-1]):
        bench.dovecot.maildir("idle%05d@bench.test" % i)
    base, rss = base_kib(bench, bench.dovecot)
    bench.report.note("base, one mailbox: RssAnon %.1f MiB, VmRSS %.1f MiB" % (base / 1024, rss / 1024))
    bench.report.target("idle", "base RssAnon, MiB", base / 1024, "<=", 6)
    for n in IDLE:
        ours, floors, lost = [], [], 0
        for _ in range(ROUNDS):
            ours.append(idle_run(bench, n, base))
            floor = FloorIdle(bench.dovecot, bench.dovecot.token_file, "idle%05u@bench.test", n)
            floors.append({"wall": floor.wall, "cpu_ms": 1000 * floor.cpu / n, "each_kib": floor.each_kib, "rss_kib": memory_kib(floor.process.pid, "VmRSS"), "idle_ms": 0})
            lost += floor.lost
            floor.stop()
        bench.report.note("%d mailboxes:" % n)
        bench.report.table(("", "start to all idle, s", "start, CPU ms each", "KiB each", "VmRSS MiB", "idle: CPU ms/s"),
                           [(who, *(spread([r[k] / (1024 if k == "rss_kib" else 1) for r in runs]) for k in ("wall", "cpu_ms", "each_kib", "rss_kib", "idle_ms")))
                            for who, runs in (("mailpolld", ours), ("floor", floors))])
        note_lost(bench, lost)
        bench.report.target("idle", "KiB per mailbox at %d" % n, statistics.median([r["each_kib"] for r in ours]), "<=", 28)
        if n == IDLE[-1]:
            logins = [floor_logins(bench.dovecot, bench.dovecot.token_file, "idle%05u@bench.test", min(n, 500)) for _ in range(ROUNDS)]
            bench.report.against_login("idle", "start of %d" % n, statistics.median([r["cpu_ms"] for r in ours]), note_logins(bench, logins, min(n, 500)), 1.5)


# --- from delivery to the Maildir ---

class Clocked(Ours):
    """Tells when each line of the log came."""

    def start(self):
        read, write = os.pipe()
        self.told = lambda address, when: None
        threading.Thread(target=self.read_log, args=(os.fdopen(read),), daemon=True).start()
        return super().start(os.fdopen(write, "wb"))

    def read_log(self, lines):
        for line in lines:
            when = time.monotonic()
            if " event=delivered " in line:
                self.told(line.split(" mailbox=", 1)[1].split(" ", 1)[0], when)


def latency(bench):
    """From a delivery to durable in the Maildir, 1,000 mailboxes, 10 per second; the floor: to EXISTS, as many others at the same time"""
    dovecot = bench.dovecot
    users = {"mailpolld": ["late%04d.ours@bench.test" % i for i in range(WATCHED)], "floor": ["late%04d.floor@bench.test" % i for i in range(WATCHED)]}
    for user in users["mailpolld"] + users["floor"]:
        dovecot.maildir(user)
    bench.place.clean()
    daemon = Clocked(os.path.join(bench.place.disk, "mailpolld"), bench.simulator, dovecot, users["mailpolld"]).start()
    daemon.wait_totals(lambda t: t["watching"] == WATCHED, "all watching")
    floor = FloorIdle(dovecot, dovecot.token_file, "late%04u.floor@bench.test", WATCHED)
    sent, took = {}, {"mailpolld": [], "floor": []}

    def told(who):
        def note(user, when):
            at = sent.pop(user, None)
            if at:
                took[who].append(1000 * (when - at))
        return note
    daemon.told = told("mailpolld")
    floor_told = told("floor")
    # what comes while it has no connection is not told to it: that delivery does not count
    floor.listen(lambda i, when: floor_told(users["floor"][i], when), lambda i: sent.pop(users["floor"][i], None))
    time.sleep(4)
    begun = time.monotonic()
    for i in range(2 * DELIVERIES):
        who = ("mailpolld", "floor")[i % 2]
        # each in turn, so that the server's session has gone into hibernation again: before, it tells half a second late
        user = users[who][i // 2 % WATCHED]
        time.sleep(max(0, begun + i / (2 * PER_SECOND) - time.monotonic()))
        sent[user] = time.monotonic()
        dovecot.put(user, 1, BODY)
    until(lambda: not sent, "EXISTS or delivery of %s" % list(sent)[:10], 60)
    daemon.cleanup()
    floor.stop()

    def quantile(values, q):
        return sorted(values)[min(int(len(values) * q), len(values) - 1)]
    bench.report.table(("ms", "n", "p50", "p90", "p99", "max"), [(who, str(len(v)), *(quantile(v, q) for q in (0.5, 0.9, 0.99, 1))) for who, v in took.items()])
    note_lost(bench, floor.lost)
    bench.report.target("latency", "p99 beyond the floor's EXISTS, ms", quantile(took["mailpolld"], 0.99) - quantile(took["floor"], 0.99), "<=", 15, comparable=False)


ROWS = [poll, idle, latency]
