"""Everything at once: a fleet, mail all the while, and faults drawn at random. When they are over, each message is there,
once. CHAOS_SEED and CHAOS_SECONDS for other draws."""
import collections
import os
import random
import time

from lib.maildir import Maildir
from lib.simulator import messages

SEED, SECONDS = int(os.environ.get("CHAOS_SEED", 1)), float(os.environ.get("CHAOS_SECONDS", 10))
RATE = 40
COMMANDS = ["SELECT", "UID SEARCH", "UID FETCH", "UID FETCH", "UID STORE", "UID MOVE", "UID EXPUNGE", "IDLE", "DONE", "CAPABILITY", "STATUS", None]
LINES = ["{tag} NO not now", "{tag} NO [UNAVAILABLE] later", "{tag} BAD Command Error. 10", "{tag} BAD User is authenticated but not connected.",
         "* BYE Connection closed. 14", "* BYE Session invalidated - AccessTokenExpired", "Z1 OK who is that", "{tag} OK done.", "+ go ahead\n{tag} OK done."]
FORMS = ["reversed", "uid-last", "lower-case", "extra", "plus", "literal8", "no-date", "flags-first", "unasked", "twice"]
HOWS = [{"hang_after": 900}, {"cut_after": 900}, {"cut_after": 0, "raw": True}, {"length": 5000}, {"length": 100}, {"single": True}, {"raw": True}]
ADDRESSES = ["chaos%02d@contoso.example" % i for i in range(12)]
AFTERS = ["keep", "seen", "delete", {"move": "Done"}]


def play(rng):
    kind = rng.choice(["throttle", "unavailable", "answer", "answer", "close-raw", "two-tags", "garbage", "hang"])
    more = {"throttle": {"form": rng.choice(["NO", "BAD", "BAD-BYE", "BYE", "untagged"]), "ms": rng.randrange(1, 9000)},
            "unavailable": {"form": rng.choice(["NO", "BAD", "bare"])}, "answer": {"line": rng.choice(LINES), "close": rng.random() < 0.5}}.get(kind, {})
    return kind, more


def strike(simulator, rng, lines, seen):
    """One fault, for one mailbox, a few times."""
    address, count = rng.choice(ADDRESSES), rng.randrange(1, 3)
    some = [rng.choice(seen[address])] if seen[address] else [1]
    what = rng.randrange(12)
    if what < 4:
        kind, more = play(rng)
        command = rng.choice(COMMANDS)
        if "OK" in more.get("line", ""):        # but not to what it is asked to do
            command = rng.choice(["SELECT", "UID SEARCH", "UID FETCH", "IDLE", "DONE"])
        simulator.fault(kind, address, count=count, skip=rng.randrange(3), **more, **({"command": command} if command else {}))
    elif what == 4:
        kind, more = play(rng)
        simulator.fault("in-idle", address, play=kind, count=1, **more)
    elif what == 5:
        kind = rng.choice(["fetch-no", "fetch-empty", "substitute", "body-nil", "fetch-whole-empty"])
        simulator.fault(kind, address, count=count, uids=some)
    elif what == 6:
        kind = rng.choice(["close-mid-literal", "hang-mid-literal"])
        simulator.fault(kind, address, count=1, uids=some, after=rng.randrange(1, 1200))
    elif what == 7:
        simulator.fault("fetch-odd", address, form=rng.choice(FORMS), count=rng.randrange(1, 9))
    elif what == 8:
        kind = rng.choice(["search-hides", "esearch", "unsolicited", "store-no", "move-no", "copy-no", "expunge-no", "auth-refused", "no-permission",
                           "silent-idle", "news", "odd-flags", "number-above-exists", "expunge-alone", "hang-authenticate", "close-after-move"])
        simulator.fault(kind, address, count=count)
    elif what == 9:
        mode = rng.choice([{"mode": "refuse"}, {"mode": "reset"}, {"mode": "hang-tls"}, {"cut_after": rng.randrange(5000)}, {"chunk": 7}])
        simulator.post("/line", port=lines[address], end=True, **mode)
    elif what == 10:
        simulator.post("/fault", port=lines[address], kind="cut", after=rng.randrange(4000), count=count)
    else:
        rng.choice([lambda: simulator.post("/expire"), lambda: simulator.post("/drop", address=address),
                    lambda: simulator.post("/token", script=[{"status": 503}, {"status": 429, "retry_after": 2}, None]),
                    lambda: simulator.post("/token", script=[{"how": rng.choice(HOWS)}]),
                    lambda: simulator.post("/line", port=lines[address], mode="ok")])()


def test_chaos(simulator, make_daemon):
    rng, daemon = random.Random(SEED), make_daemon(program="mailpolld-scaled")
    lines, after = {}, {}
    for i, address in enumerate(ADDRESSES):
        simulator.mailbox(address, ["INBOX", "Done"])
        lines[address], after[address] = simulator.post("/line")["port"], AFTERS[i % len(AFTERS)]
    daemon.config([{"address": a, "port": lines[a], "after": after[a], **({"watch": "poll", "interval": "30s"} if i % 5 == 4 else {})}
                   for i, a in enumerate(ADDRESSES)])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(RATE)})
    seen, expected, n, ends = {a: [] for a in ADDRESSES}, {a: collections.Counter() for a in ADDRESSES}, 0, time.monotonic() + SECONDS
    while time.monotonic() < ends:              # faults and mail for as long as was asked for
        strike(simulator, rng, lines, seen)
        address = rng.choice(ADDRESSES)
        specs = [{"seed": n + i + 1, "size": rng.randrange(300, 3000)} for i in range(rng.choice([1, 1, 1, 8]))]
        seen[address] = simulator.add(address, specs)
        n += len(specs)
        for spec in specs:
            expected[address][messages.sha256(spec)] += 1
        if rng.random() < 0.2:
            daemon.poll(rng.choice(ADDRESSES))
        if rng.random() < 0.01:
            daemon.kill9()
            daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(RATE)})
        time.sleep(0.02)
    for address in ADDRESSES:
        simulator.clear(address)
        simulator.post("/clear", port=lines[address])
        simulator.post("/line", port=lines[address], mode="ok", end=True)
    simulator.post("/token", script=[], fail=None)
    for address in ADDRESSES:
        daemon.poll(address)
    daemon.wait(lambda s: sum(len(Maildir(daemon.maildir(a))) for a in ADDRESSES) >= n, timeout=150, what="all %d messages" % n)
    for address in ADDRESSES:
        daemon.poll(address)
    daemon.wait(lambda s: s["totals"]["failing"] == 0 and all(f["owed"] == 0 and f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]), timeout=150)
    for address in ADDRESSES:
        assert Maildir(daemon.maildir(address)).sums() == expected[address], address
        left, done = simulator.folder(address)["messages"], simulator.folder(address, "Done")["messages"]
        if after[address] in ("keep", "seen"):
            assert len(left) == sum(expected[address].values())
        else:
            assert not left
        assert after[address] != "seen" or all("\\Seen" in flags for flags in left.values())
        assert len(done) >= (sum(expected[address].values()) if isinstance(after[address], dict) else 0)
    print("%d messages, %d sign-ins, seed %d" % (n, simulator.counts("logins"), SEED))
