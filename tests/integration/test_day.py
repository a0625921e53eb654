"""A day of a fleet in fast time: daemon and simulator with clocks that run alike. The whole day of 500 mailboxes is `make day`; `make test`
takes a morning of fewer. What is to be seen: one token request for each renewal, no second with more sign-ins than admitted, no mailbox
that waits for its turn without a session, every message delivered."""
import collections
import os
import random
import time

from lib.daemon import Daemon
from lib.simulator import Simulator

MAILBOXES, HOURS = int(os.environ.get("DAY_MAILBOXES", 60)), float(os.environ.get("DAY_HOURS", 4))
RATE = float(os.environ.get("DAY_RATE", 240))
PER_SECOND = 5
LIFE_S = 65 * 60


def test_a_day(tmp_path):
    os.makedirs(tmp_path / "sim")
    simulator = Simulator(tmp_path / "sim", clock_rate=RATE)
    daemon = Daemon(tmp_path / "daemon", simulator, "mailpolld-scaled")
    try:
        run(simulator, daemon, tmp_path / "log")
    finally:
        daemon.cleanup()
        simulator.stop()


def run(simulator, daemon, log):
    simulator.post("/token", life_s=LIFE_S)
    addresses = ["m%03d@contoso.example" % i for i in range(MAILBOXES)]
    for address in addresses:
        simulator.mailbox(address)
    daemon.config(addresses, {"interval": "25m"}, admission={"sessions_per_second": PER_SECOND, "starting_at_once": 20})
    with open(log, "wb") as stderr:
        daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(RATE)}, stderr=stderr)
    daemon.wait(lambda s: s["totals"]["watching"] == MAILBOXES, timeout=120 + MAILBOXES / PER_SECOND / RATE)
    rng, added, ends = random.Random(5), 0, time.monotonic() + HOURS * 3600 / RATE
    while time.monotonic() < ends:              # mail comes all day; a pause here is the passing of its time
        for address in rng.sample(addresses, min(MAILBOXES, 5)):
            added += len(simulator.add(address, [{"seed": added + 1, "size": 1200}]))
        time.sleep(min(1.0, max(0.0, ends - time.monotonic())))
    status = daemon.wait(lambda s: s["totals"]["delivered"] == added and s["totals"]["failing"] == 0, timeout=60)
    state = simulator.state()
    assert daemon.stop() == 0

    with open(log, encoding="utf-8", errors="replace") as f:
        lines = f.read().splitlines()
    refreshed = sum("event=token-refreshed" in line for line in lines)
    assert state["counts"]["token_requests"] == refreshed == status["credentials"][0]["requests"]
    assert HOURS * 3600 / LIFE_S <= refreshed <= HOURS * 3600 / (LIFE_S * 0.4) + 2
    admitted = collections.Counter(line.split(" ", 1)[0] for line in lines if "admitted to sign in" in line)
    assert max(admitted.values()) <= PER_SECOND, admitted.most_common(3)
    logins, starts = state["counts"]["logins"], sum(admitted.values())
    assert starts - PER_SECOND <= logins <= starts, (logins, starts)      # some may be on their way at the end
    assert logins >= MAILBOXES * (1 + int(HOURS * 3600 / LIFE_S)), logins
    assert not any('-> queued"' in line for line in lines)      # nobody waited for their turn without a session, but at the start
    assert not any("failure=" in line for line in lines)
    print("%d mailboxes, %.0f h: %d messages, %d token requests, %d sign-ins, at most %d in a second" %
          (MAILBOXES, HOURS, added, refreshed, logins, max(admitted.values())))
