"""How fast messages come in: many small ones, few large ones, many mailboxes at once."""
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time

import peers
from ours import Ours, UnixConnection
from place import QUICK, Sample, cpu_s, measure, memory_kib, tool, until
from report import paired, spread

ROUNDS = int(os.environ.get("BENCH_ROUNDS", 2 if QUICK else 5))
PAIRS = int(os.environ.get("BENCH_ROUNDS", 2 if QUICK else 7))
SMALL, SMALL_BYTES = 200 if QUICK else 10000, 4096
LARGE, LARGE_BYTES = 4 if QUICK else 200, 5 << 20
FEW = {"fetchmail": 50, "getmail6": 200}        # what the slow ones get: so many times less
MANY, ASKING = 10 if QUICK else 100, 10


def table(report, samples, what):
    """samples: who, list of Samples."""
    report.table(("", what + "/s", "wall s", "CPU s", "CPU ms each", "VmHWM MiB", "RssAnon MiB"),
                 [(who, spread([s.n / s.wall for s in v]), spread([s.wall for s in v]), spread([s.cpu for s in v]), spread([1000 * s.cpu / s.n for s in v]),
                   spread([s.rss_kib / 1024 for s in v]), spread([s.anon_kib / 1024 for s in v])) for who, v in samples.items()])


def alternate(bench, contestants, rounds):
    """Each in turn, on an empty disk; the one that begins changes."""
    samples = {who: [] for who in contestants}
    names = list(contestants)
    for i in range(rounds):
        for who in names[i % len(names):] + names[:i % len(names)]:
            bench.place.clean()
            try:
                samples[who].append(contestants[who]())
            except peers.GivenUp as e:
                bench.report.note("%s: %s" % (who, e))
    bench.place.clean()
    return {who: v for who, v in samples.items() if v}


def ours(bench, users, n):
    return Ours(os.path.join(bench.place.disk, "mailpolld"), bench.simulator, bench.dovecot, users).delivers(n)


def floor(bench, what, user, n):
    args = [str(bench.dovecot.port), bench.dovecot.ca_file, bench.dovecot.token_file, user]
    sample, told = measure([tool("floor"), what, *args, *([os.path.join(bench.place.disk, "floor")] if what == "copy" else [])], n)
    assert told.split()[1] == str(n), told
    return sample


def write(bench, n, size):
    return measure([tool("floor"), "write", os.path.join(bench.place.disk, "floor"), str(n), str(size)], n)[0]


def contestants(bench, user, made, size):
    """mailpolld and mbsync get all messages; the slower ones some of them: their rate is what counts."""
    runs = {"mailpolld": lambda: ours(bench, [user], len(made))}
    for peer in peers.installed:
        who, one, n = peer.name, user, len(made)
        if peer.name in FEW:
            n = max(n // FEW[peer.name], 2)
            who, one = "%s (%d)" % (peer.name, n), "%s.%s" % (peer.name, user)
            bench.dovecot.put(one, n, size, made)
            bench.dovecot.warm(one)
        runs[who] = lambda peer=peer, one=one, n=n: peer(bench.place, bench.dovecot).run([one], n)
    bench.dovecot.warm(user)
    return runs


def small(bench):
    """10,000 messages of 4 KiB, one mailbox"""
    user = "small@bench.test"
    made = bench.dovecot.put(user, SMALL, SMALL_BYTES)
    samples = alternate(bench, {**contestants(bench, user, made, SMALL_BYTES), "floor: fetch": lambda: floor(bench, "fetch", user, SMALL),
                                "floor: write + flush": lambda: write(bench, SMALL, SMALL_BYTES), "floor: both": lambda: floor(bench, "copy", user, SMALL)}, ROUNDS)
    table(bench.report, samples, "messages")
    mine, best = samples["mailpolld"], samples.get("mbsync")
    if best:
        bench.report.target("small", "rate against mbsync", paired([s.n / s.wall for s in mine], [s.n / s.wall for s in best]), ">=", 6)
        bench.report.target("small", "CPU against mbsync", paired([s.cpu for s in mine], [s.cpu for s in best]), "<=", 0.8)


class Writer:
    """Another program that writes on the same disk: 2 MiB after the other, without a flush. A single process: none writes on when it is killed."""
    # paced, so that it is company and not the whole of the disk
    SCRIPT = ("import sys, time\nblock, i = bytes(2 << 20), 0\nwhile True:\n    i = (i + 1) % 64\n    with open('%s/%d' % (sys.argv[1], i), 'wb') as f:\n"
              "        f.write(block)\n    time.sleep(0.05)\n")

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        os.makedirs(self.path)
        self.process = subprocess.Popen([sys.executable, "-c", self.SCRIPT, self.path])

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def beside(bench):
    """The same while another program writes about 30 MiB/s on the same disk"""
    user = "beside@bench.test"
    n = SMALL // 2
    bench.dovecot.put(user, n, SMALL_BYTES)
    bench.dovecot.warm(user)

    def with_writer(run):
        with Writer(os.path.join(bench.place.disk, "other")):
            return run()
    runs = {"mailpolld": lambda: ours(bench, [user], n), "floor: both": lambda: floor(bench, "copy", user, n)}
    if peers.Mbsync in peers.installed:
        runs["mbsync"] = lambda: peers.Mbsync(bench.place, bench.dovecot).run([user], n)
    samples = alternate(bench, {who: lambda run=run: with_writer(run) for who, run in runs.items()}, ROUNDS)
    table(bench.report, samples, "messages")
    if "mbsync" in samples:
        bench.report.target("beside", "rate against mbsync", paired([s.n / s.wall for s in samples["mailpolld"]], [s.n / s.wall for s in samples["mbsync"]]), ">=", 6)


def large(bench):
    """200 messages of 5 MiB"""
    user = "large@bench.test"
    made = bench.dovecot.put(user, LARGE, LARGE_BYTES)
    all_runs = contestants(bench, user, made, LARGE_BYTES)
    samples = alternate(bench, {"mailpolld": all_runs.pop("mailpolld"), "floor: both": lambda: floor(bench, "copy", user, LARGE)}, PAIRS)
    samples.update(alternate(bench, {**all_runs, "floor: fetch": lambda: floor(bench, "fetch", user, LARGE)}, ROUNDS))
    table(bench.report, samples, "messages")
    mine, both = samples["mailpolld"], samples["floor: both"]
    bench.report.target("large", "CPU against the floor", paired([s.cpu for s in mine], [s.cpu for s in both]), "<=", 1.3)
    bench.report.target("large", "wall against the floor", paired([s.wall for s in mine], [s.wall for s in both]), "<=", 1.3)
    bench.report.target("large", "peak RssAnon, MiB", statistics.median([s.anon_kib / 1024 for s in mine]), "<=", 10)
    shutil.rmtree(os.path.join(bench.dovecot.base, "home", user))


def ask_all(daemon, paths):
    """Several at a time: each is answered when the state has it, and what is asked together is written together."""
    def ask(some):
        connection = UnixConnection(daemon.socket, 60)
        for path in some:
            connection.request("POST", path)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
        connection.close()
    threads = [threading.Thread(target=ask, args=(paths[i::ASKING],)) for i in range(ASKING)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fetch_many(bench, users, each):
    """All at once through one sink, from mailboxes that are signed in and have been told that nothing is new; also the slowest one's rate."""
    daemon = Ours(os.path.join(bench.place.disk, "mailpolld"), bench.simulator, bench.dovecot, users, {"start": "new"})
    daemon.start()
    daemon.wait_totals(lambda t: t["watching"] == len(users), "all watching")
    begun, cpu, last = time.monotonic(), cpu_s(daemon.pid), {}

    def note():
        for m in daemon.status()["mailboxes"]:
            if m["address"] not in last and sum(f["delivered"] for f in m["folders"]) >= each:
                last[m["address"]] = time.monotonic() - begun
        return len(last) == len(users)
    ask_all(daemon, ["/mailboxes/%s/resync?since=2000-01-01" % user for user in users])
    until(note, "all delivered", 600, 0.05)
    sample = Sample(max(last.values()), cpu_s(daemon.pid) - cpu, memory_kib(daemon.pid, "VmHWM"), daemon.anon_kib(), each * len(users))
    daemon.cleanup()
    rates = [each / t for t in last.values()]
    return sample, min(rates) / statistics.mean(rates)


def many(bench):
    """100 mailboxes fetching at once through one sink, against one mailbox with as many messages"""
    each = SMALL // 100 if not QUICK else 20
    users = ["many%03d@bench.test" % i for i in range(MANY)]
    one = "many-one@bench.test"
    made = bench.dovecot.put(one, each * MANY, SMALL_BYTES)
    for i, user in enumerate(users):
        bench.dovecot.put(user, each, SMALL_BYTES, made[i * each:(i + 1) * each])
        bench.dovecot.warm(user)
    bench.dovecot.warm(one)
    fairness = []

    def run():
        sample, fair = fetch_many(bench, users, each)
        fairness.append(fair)
        return sample
    samples = alternate(bench, {"100 mailboxes": run, "one mailbox": lambda: fetch_many(bench, [one], each * MANY)[0]}, ROUNDS)
    table(bench.report, samples, "messages")
    bench.report.note("slowest mailbox's rate against the mean: %s" % spread(fairness))
    bench.report.target("many", "rate against one mailbox", paired([s.n / s.wall for s in samples["100 mailboxes"]], [s.n / s.wall for s in samples["one mailbox"]]), ">=", 0.8)
    bench.report.target("many", "slowest mailbox against the mean", statistics.median(fairness), ">=", 0.5)


ROWS = [small, large, beside, many]
