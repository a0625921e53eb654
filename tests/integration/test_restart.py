"""A restart of a large fleet, and a server that ends all of its sessions at once: they pass the gate, and ask for nothing that the state knows."""
import collections
import datetime
import re
import time

import pytest

from lib.simulator import most_within

N, RATE, PER_SECOND, AT_ONCE = 400, 10, 5, 20


def test_many_mailboxes(simulator, make_daemon, tmp_path):
    addresses = ["m%04d@contoso.example" % i for i in range(N)]
    for address in addresses:
        simulator.mailbox(address)
        simulator.add(address, [{"seed": 1, "size": 1200}])
    daemon = make_daemon(program="mailpolld-scaled")

    def run(log, per_second, delivered):
        """Until all watch. Gives the lines of the log, and how long it took of the daemon's clock."""
        daemon.config(addresses, admission={"sessions_per_second": per_second, "starting_at_once": AT_ONCE})
        with open(log, "wb") as stderr:
            daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(RATE)}, stderr=stderr)
        started = time.monotonic()
        simulator.wait("idling", N, timeout_s=300)
        took_s = (time.monotonic() - started) * RATE
        daemon.wait(lambda s: [s["totals"][k] for k in ("watching", "delivered")] == [N, delivered], query="?summary=1")
        assert daemon.stop() == 0
        with open(log, encoding="utf-8", errors="replace") as f:
            return f.read().splitlines(), took_s

    run(tmp_path / "first", "off", N)
    before = simulator.state()
    assert before["counts"]["bodies"] == N
    lines, took_s = run(tmp_path / "again", PER_SECOND, 0)
    after = simulator.state()

    admitted = collections.Counter(line.split(" ", 1)[0] for line in lines if "admitted to sign in" in line)
    again = sum("event=sign-in-failed" in line for line in lines)         # a busy machine's fault, at ten times its speed
    assert sum(admitted.values()) == N + again and again < N / 100 and max(admitted.values()) <= PER_SECOND, admitted.most_common(3)
    assert took_s >= (N - 2) / PER_SECOND and after["signing_in_most"] <= AT_ONCE, (took_s, after["signing_in_most"])
    commands = {name: n - before["commands"].get(name, 0) for name, n in after["commands"].items() if n > before["commands"].get(name, 0)}
    assert N <= commands.pop("IDLE") < 2 * N and commands.pop("UID SEARCH", 0) < N        # on a slow machine the first look again before the last have begun
    assert set(commands) == {"CAPABILITY", "AUTHENTICATE", "SELECT"}, commands
    assert 2 * N <= commands["CAPABILITY"] <= 2 * (N + again) and all(N <= commands[name] <= N + again for name in ("AUTHENTICATE", "SELECT")), commands
    searches = re.findall(r"(?m)^C \S+ UID SEARCH (.*)$", "\n".join(simulator.log_lines()))
    assert set(searches) <= {"UID 2:*"}
    assert after["counts"]["bodies"] == N and after["counts"]["token_requests"] == before["counts"]["token_requests"] + 1


@pytest.mark.parametrize("by", ["drop", "expire"])
def test_server_that_ends_all_sessions(simulator, make_daemon, by):
    """exchange-online 5.3, 5.13: cut, or with the end of the token that they share. They come back as they began, no more in a second than
    configured, as the server sees it, and one new token is for all of them"""
    n, per_second, rate = 66, 1, 10         # signing in takes 65 s: a BYE does not renew a token of less than a minute (5.2)
    addresses = ["m%02d@contoso.example" % i for i in range(n)]
    for address in addresses:
        simulator.mailbox(address)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config(addresses, admission={"sessions_per_second": per_second})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(rate)})
    simulator.wait("idling", n)
    simulator.post("/" + by, address="*")
    simulator.wait("logins", 2 * n)
    simulator.wait("idling", n)
    at = simulator.sign_ins()
    assert not daemon.has_line("failure="), [line for line in daemon.lines if "failure=" in line]
    assert len(at) == 2 * n
    admitted = [datetime.datetime.fromisoformat(line.split()[0].rstrip("Z")).timestamp() for line in daemon.lines if "admitted to sign in" in line]
    assert len(admitted) == 2 * n and most_within(admitted, 10) <= 10 * per_second + 1, admitted       # by its own clock, in whole seconds
    assert simulator.counts("refused") == 0 and simulator.counts("token_requests") == 1 + (by == "expire")
    for came in (at[:n], at[n:]):
        assert most_within(came, 1) <= 2 * per_second * rate, came         # on a busy machine those on their way come together
        assert came[-1] - came[0] >= (n - 1) / (per_second * rate) - 1, came       # the first may have waited for the token


def test_who_fails_does_not_stand_before_others(simulator, make_daemon):
    """Sign-ins that hang have the only place at the gate for a minute each, and have never had a look; the one that works gets its turn"""
    failing, works = ["hangs%d@contoso.example" % i for i in range(6)], "works@contoso.example"
    for address in (*failing, works):
        simulator.mailbox(address)
    for address in failing:
        simulator.fault("hang-authenticate", address)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([*failing, {"address": works, "watch": "poll", "interval": "1m"}], admission={"starting_at_once": 1})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "40"})
    simulator.wait("logins", 3, works, timeout_s=120)
    assert not daemon.has_line("mailbox=%s .*failure=" % works)
