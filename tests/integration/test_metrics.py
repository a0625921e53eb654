"""/metrics and /healthz: what Prometheus reads, its alerts, the dashboard; what makes the health bad, and good again."""
import calendar
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from urllib.parse import quote

import pytest

from lib.daemon import LAG_MOST_MS
from lib.disk import fill, small_disk
from lib.gate import Gate
from lib.metrics import get, numbers, wait_numbers
from lib.ports import free_port

M = "support@contoso.example"
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
PROMTOOL = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")


@pytest.fixture
def served(simulator, daemon):
    port = free_port()
    simulator.mailbox(M)
    simulator.add(M, [{"seed": i, "size": 2000} for i in range(5)])
    daemon.config([M], top={"metrics_listen": "127.0.0.1:%d" % port})
    daemon.start()
    daemon.wait_delivered(M, 5)
    daemon.port = port
    return daemon


def test_numbers(simulator, served):
    status, kind, text = get(served.port, "/metrics")
    assert status == 200 and kind.startswith("text/plain; version=0.0.4")
    n = numbers(text)
    assert n['mailpolld_deliveries_total{outcome="delivered"}'] == 5 and n["mailpolld_delivered_bytes_total"] >= 10000
    assert n["mailpolld_sessions_opened_total"] == 1 and n["mailpolld_messages_owed"] == 0 and n["mailpolld_health"] == 0
    assert n['mailpolld_token_requests_total{credential="contoso",outcome="ok"}'] == 1
    assert 3000 < n['mailpolld_token_expiry_time_seconds{credential="contoso"}'] - time.time() < 3900
    assert n["mailpolld_delivery_lag_seconds_count"] == 5 == n['mailpolld_delivery_lag_seconds_bucket{le="+Inf"}']
    assert n["mailpolld_sink_duration_seconds_count"] == 5 and n["mailpolld_sink_duration_seconds_sum"] >= 0
    assert n["mailpolld_store_commits_total"] >= 1 and n["mailpolld_oldest_undelivered_age_seconds"] == 0
    assert n["mailpolld_spool_bytes"] == n["mailpolld_spool_files"] == n["mailpolld_longest_failing_seconds"] == n["mailpolld_started_by_watchdog"] == 0
    assert n['mailpolld_build_info{version="%s"}' % served.status("?summary=1")["version"]] == 1 and "mailpolld_loop_lag_seconds_count" in n
    assert sum(v for k, v in n.items() if k.startswith("mailpolld_mailboxes{")) == 1
    assert "contoso.example" not in text                        # the port has no authentication
    # each family has its HELP and TYPE, and counters end in _total
    families = dict(re.findall(r"# TYPE (\S+) (\S+)", text))
    assert set(families) == set(re.findall(r"# HELP (\S+) ", text))
    for name in n:
        base = re.sub(r"_(bucket|sum|count)$", "", name.split("{")[0])
        assert base in families or name.split("{")[0] in families, name
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in families.items())


def test_attempts_to_get_a_token(simulator, make_daemon):
    """Counted by what came of them: none is taken back, and one without a secret to send is one, too"""
    daemon, port, kinds = make_daemon(program="mailpolld-scaled"), free_port(), ("ok", "failed")
    simulator.mailbox(M)
    simulator.post("/token", hang=True)
    os.unlink(daemon.secret_file)
    daemon.config([M], top={"metrics_listen": "127.0.0.1:%d" % port})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "10"})

    def attempts():
        n = numbers(get(port, "/metrics")[2])
        return [n['mailpolld_token_requests_total{credential="contoso",outcome="%s"}' % kind] for kind in kinds]
    daemon.wait_line("event=token-failed .*failure=secret-file")
    assert attempts()[0] == 0
    daemon.write_secret(simulator.secret)
    simulator.wait("token_requests", 1)
    ok, failed = attempts()
    assert ok == 0 and failed >= 1          # it is on its way
    simulator.post("/token", hang=False)
    daemon.wait_state(M, "watching")
    assert attempts() == [1, failed + 1]


def test_token_that_is_not_renewed(simulator, make_daemon):
    """When that was to be stays to be seen, also past its end, while nothing has failed yet"""
    daemon, port = make_daemon(program="mailpolld-scaled"), free_port()
    refresh, expiry, failing = ('token_%s{credential="contoso"}' % name for name in ("refresh_time_seconds", "expiry_time_seconds", "failing"))
    simulator.mailbox(M)
    simulator.post("/token", life_s=20)
    daemon.config([M], top={"metrics_listen": "127.0.0.1:%d" % port})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "4"})
    planned = wait_numbers(daemon, port, **{expiry: lambda at: at > 0, refresh: lambda at: at > 0})
    simulator.post("/token", hang=True)
    assert 7 <= planned[expiry] - planned[refresh] <= 13
    n = wait_numbers(daemon, port, **{expiry: 0, failing: 0})
    assert n[refresh] > 0 and n[refresh] - planned[refresh] <= 12          # of the token before the end, or of the one after it
    simulator.post("/token", hang=False)
    wait_numbers(daemon, port, **{expiry: lambda at: at > 0, refresh: lambda at: at > n[refresh], failing: 0})


def test_what_goes_wrong_is_counted(simulator, served):
    simulator.fault("fetch-empty", M, uids=[6])
    simulator.add(M, [{"seed": 9, "size": 2000}])
    served.wait(lambda s: s["mailboxes"][0]["folders"][0]["owed"] == 1)
    n = numbers(get(served.port, "/metrics")[2])
    assert n["mailpolld_messages_owed"] == 1 and n["mailpolld_messages_unretrievable"] == 0
    simulator.fault("throttle", M, ms=30000, command="UID SEARCH", count=1)
    simulator.add(M, [{"seed": 10, "size": 2000}])
    served.wait_state(M, "backing-off")
    n = numbers(get(served.port, "/metrics")[2])
    assert n['mailpolld_sessions_ended_total{reason="throttled"}'] == 1 and n["mailpolld_throttled_seconds_total"] >= 30
    assert n["mailpolld_mailboxes_failing"] == 1


def test_degraded(simulator, served):
    """A sink that fails: mail of others flows, and /healthz says what is wrong with 200"""
    assert get(served.port, "/healthz")[0] == 200 and served.status()["health"] == "ok"
    simulator.mailbox("other@contoso.example")
    simulator.add("other@contoso.example", [{"seed": 1, "size": 2000}])
    served.config([M, {"address": "other@contoso.example", "deliver": {"command": ["/bin/sh", "-c", "exit 75"]}}],
                  top={"metrics_listen": "127.0.0.1:%d" % served.port})
    assert served.ctl("reload").returncode == 0
    status = served.wait(lambda s: s["health"] == "degraded")
    assert [r["what"] for r in status["reasons"]] == ["sink"] and status["reasons"][0]["since"] and status["reasons"][0]["hint"]
    code, _, body = get(served.port, "/healthz")
    assert code == 200 and json.loads(body)["health"] == "degraded"
    simulator.add(M, [{"seed": 9, "size": 2000}])
    served.wait_delivered(M, 6)


def test_credential_that_is_refused(simulator, daemon):
    """Its mailboxes alone are not served; how its requests end is counted for it alone"""
    port, other, secret = free_port(), "other@contoso.example", os.path.join(daemon.directory, "other-secret")
    for address in (M, other):
        simulator.mailbox(address)
    with open(secret, "w") as f:
        f.write("wrong")
    os.chmod(secret, 0o600)
    daemon.config([M, {"address": other, "credential": "second"}], top={"metrics_listen": "127.0.0.1:%d" % port},
                  credentials={"second": {"client_secret_file": secret}})
    daemon.start()

    def tokens(n):
        """Failing, requests that were answered, and refused: of each credential"""
        names = ('token_failing{credential="%s"}', 'token_requests_total{credential="%s",outcome="ok"}', 'token_requests_total{credential="%s",outcome="failed"}')
        return [[n[name % credential] for credential in ("contoso", "second")] for name in names]
    n = wait_numbers(daemon, port, health=1, mailboxes_failing=1, **{'mailboxes{state="watching"}': 1})
    assert tokens(n) == [[0, 1], [1, 0], [0, 1]]
    status = daemon.status()
    assert status["health"] == "degraded" and [(r["what"], r["name"]) for r in status["reasons"]] == [("credential", "second")]
    assert "copy its Value column" in status["reasons"][0]["hint"]
    with open(secret, "w") as f:
        f.write(simulator.secret)
    assert daemon.ctl("reload").returncode == 0             # a person has changed something: tried at once
    daemon.poll(other)
    n = wait_numbers(daemon, port, health=0, mailboxes_failing=0, **{'mailboxes{state="watching"}': 2})
    assert tokens(n) == [[0, 0], [1, 1], [0, 1]]
    assert daemon.status()["reasons"] == []


def test_state_that_cannot_be_written(simulator, daemon, tmp_path):
    """Down until there is room again"""
    port = free_port()
    simulator.mailbox(M)
    with small_disk(daemon, tmp_path, "2m") as mount:
        daemon.config([M], top={"state_dir": mount, "min_free": "0K", "metrics_listen": "127.0.0.1:%d" % port})
        daemon.start()
        wait_numbers(daemon, port, health=0, store_failing=0, **{'mailboxes{state="watching"}': 1})
        fill(mount + "/full")
        simulator.add(M, [{"seed": 1, "size": 2000}])
        wait_numbers(daemon, port, health=2, store_failing=1)
        status = daemon.status()
        assert status["health"] == "down" and [(r["what"], r["name"]) for r in status["reasons"]] == [("store", "state")]
        assert "Make room on the file system of state_dir" in status["reasons"][0]["hint"] and get(port, "/healthz")[0] == 503
        os.unlink(mount + "/full")
        wait_numbers(daemon, port, health=0, store_failing=0, **{'deliveries_total{outcome="delivered"}': 1})
        assert daemon.status()["reasons"] == [] and get(port, "/healthz")[0] == 200


def test_many_that_fail_for_long(simulator, make_daemon):
    """Three at least, more than 1 % of all, for a quarter of an hour: less is no more than what each mailbox tells; all that are not paused: down.
    One with a folder that cannot be opened is served all the same"""
    daemon, closed, in_part = make_daemon(program="mailpolld-scaled"), free_port(), "in-part@contoso.example"
    works = {"address": M, "port": simulator.imap_port}
    bad = ["bad0@contoso.example", "bad1@contoso.example", {**works, "address": in_part, "folders": ["INBOX", "Missing"]}]
    idle = ["idle%03d@contoso.example" % i for i in range(296)]
    simulator.mailbox(M)
    simulator.mailbox(in_part)

    def configure(mailboxes):
        daemon.config(mailboxes, {"port": closed}, {"log_level": "warning"})
    configure([*bad, works, *idle])
    daemon.start()
    assert daemon.ctl("pause", "idle*").returncode == 0     # who is paused does not fail
    daemon.wait(lambda s: s["totals"]["paused"] == 296)
    assert daemon.stop() == 0
    configure([*bad, works, *idle[1:]])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "60"})
    status = daemon.wait(lambda s: s["totals"]["failing"] == 3 and any(r["what"] == "mailboxes" for r in s["reasons"]), query="?failing=1")
    reason = next(r for r in status["reasons"] if r["what"] == "mailboxes")
    times = [calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) for text in (reason["since"], *(m["failing_since"] for m in status["mailboxes"]))]
    assert status["health"] == "degraded" and reason["name"] == "many" and "3 of 299 mailboxes fail" in reason["hint"]
    assert len(times) == 4 and times[0] - max(times[1:]) >= 899, times
    for mailboxes, health, failing in (([*bad, works, *idle], "ok", 3), ([*bad, works], "degraded", 3), ([*bad[:2], works], "ok", 2),
                                       ([*bad[:2], idle[0]], "down", 2), (bad, "ok", 3), (bad[2:], "ok", 1)):
        configure(mailboxes)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait(lambda s: (s["totals"]["mailboxes"], s["totals"]["failing"], s["health"]) == (len(mailboxes), failing, health), 20, health, "?failing=1")


@pytest.mark.parametrize("works", [False, True], ids=["no server", "one server"])
def test_start_that_gets_through_to_nobody(simulator, make_daemon, works):
    """A firewall drops what is sent: down when the first has failed for a minute, not when the last has been tried; but not while one is served"""
    daemon, behind = make_daemon(program="mailpolld-scaled"), ["box%02d@contoso.example" % i for i in range(30)]
    line = simulator.post("/line")["port"]
    simulator.post("/line", port=line, mode="hang-tcp")
    simulator.mailbox(M)
    daemon.config([{"address": M, "port": simulator.imap_port}] * works + behind, {"port": line}, admission={"starting_at_once": 1})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20"})

    def not_tried(status):
        return sum(m["state"] == "queued" and m["failures"] == 0 for m in status["mailboxes"])
    if works:
        daemon.wait_state(M, "watching")
        status = daemon.wait(lambda s: s["totals"]["failing"] >= 12)        # one at a time, each for ten seconds
        assert status["health"] == "ok" and not_tried(status) > 0, status["reasons"]
    else:
        status = daemon.wait(lambda s: s["health"] == "down")
        reason = next(r for r in status["reasons"] if r["what"] == "mailboxes")
        assert not_tried(status) > 0 and re.search(r"of 30 mailboxes fail \(\d+ others await their first turn\), all with connect: Cannot reach", reason["hint"])
        failing_since = min(calendar.timegm(time.strptime(m["failing_since"], "%Y-%m-%dT%H:%M:%SZ")) for m in status["mailboxes"] if m["failures"])
        assert calendar.timegm(time.strptime(reason["since"], "%Y-%m-%dT%H:%M:%SZ")) - failing_since >= 59


def test_series_of_each_mailbox(simulator, daemon):
    """Only where somebody wants them; each once, all of a family together; never histograms"""
    port, addresses = free_port(), ["m%04d@contoso.example" % i for i in range(1200)]
    simulator.mailbox(M)
    simulator.add(M, [{"seed": i, "size": 2000} for i in range(5)])
    closed = {"port": free_port()}
    daemon.config([M, *({"address": a, **closed} for a in addresses)], top={"metrics_listen": "127.0.0.1:%d" % port, "metrics_per_mailbox": "on"},
                  admission={"sessions_per_second": 50})
    daemon.start()
    daemon.wait_delivered(M, 5)
    daemon.wait(lambda s: get(port, "/metrics")[2].count("mailpolld_mailbox_delivered_total{") == 1201)
    text = get(port, "/metrics")[2]
    n = numbers(text)
    assert n['mailpolld_mailbox_delivered_total{mailbox="%s"}' % M] == 5 and n['mailpolld_mailbox_failing{mailbox="%s"}' % M] == 0
    series = [line.split("{")[0] for line in text.splitlines() if line.startswith("mailpolld_mailbox_") and "{mailbox=" in line]
    families = list(dict.fromkeys(series))
    assert len(families) == 6 and all(series.count(f) == 1201 for f in families) and series == sorted(series, key=families.index)
    assert len(set(n)) == len([line for line in text.splitlines() if line and not line.startswith("#")])
    assert not re.search(r"_bucket\{[^}]*mailbox=", text) and not re.search(r"mailpolld_(?!mailbox_)[a-z_]+\{mailbox=", text)
    lag_ms, most_ms = daemon.lag_ms()
    assert lag_ms <= most_ms
    if shutil.which("promtool"):
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    daemon.config([M, *addresses[:3]], top={"metrics_listen": "127.0.0.1:%d" % port})
    assert daemon.ctl("reload").returncode == 0
    assert "contoso.example" not in get(port, "/metrics")[2]


def test_series_of_a_mailbox_before_its_state_is_read(simulator, daemon, tmp_path):
    """Left out: a counter that is kept over restarts does not begin at 0 with each"""
    port, other = free_port(), "other@contoso.example"
    of_state = ["mailpolld_mailbox_%s{mailbox=\"%s\"}" % (name, M) for name in ("delivered_total", "owed", "oldest_undelivered_age_seconds")]
    for address in (M, other):
        simulator.mailbox(address)
        simulator.add(address, [{"seed": i, "size": 2000} for i in range(5)])
    daemon.config([M, {"address": other, "deliver": {"command": ["/bin/true"]}}], top={"metrics_listen": "127.0.0.1:%d" % port, "metrics_per_mailbox": "on"})
    daemon.start()
    for address in (M, other):
        daemon.wait_delivered(address, 5)
    assert daemon.stop() == 0
    gate = Gate(tmp_path / "gate", daemon.maildir(M))
    gate.shut()
    daemon.start(env=gate.env)
    daemon.wait_state(other, "watching")
    gate.wait_stalled()
    n = numbers(get(port, "/metrics")[2])
    assert [n.get(name) for name in of_state] == [None] * 3 and n['mailpolld_mailbox_delivered_total{mailbox="%s"}' % other] == 5
    assert n['mailpolld_mailbox_failing{mailbox="%s"}' % M] == n['mailpolld_mailbox_quarantined{mailbox="%s"}' % M] == 0
    gate.open()
    daemon.wait_state(M, "watching")
    n = numbers(get(port, "/metrics")[2])
    assert [n[name] for name in of_state] == [5, 0, 0]


def test_reload_during_a_scrape(simulator, daemon):
    """Mailboxes that go while somebody reads slowly: what is left of the answer still comes"""
    port, many = free_port(), ["m%04d-%s@contoso.example" % (i, "x" * 200) for i in range(1500)]
    top = {"metrics_listen": "127.0.0.1:%d" % port, "metrics_per_mailbox": "on", "log_level": "warning"}
    command = {"deliver": {"command": ["/bin/true"]}, "port": free_port()}
    daemon.config(many, command, top)
    daemon.start()
    slow = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    slow.sock = socket.socket()
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)       # else the kernel takes megabytes of it at once
    slow.sock.settimeout(20)
    slow.sock.connect(("127.0.0.1", port))
    slow.request("GET", "/metrics")
    answer, text = slow.getresponse(), b""
    while b"mailpolld_mailbox_failing{" not in text:
        text += answer.read(1000)
    daemon.config(many[:1], command, top)
    assert daemon.ctl("reload").returncode == 0
    text = (text + answer.read()).decode()
    slow.close()
    series = [line.split("{")[0] for line in text.splitlines() if "{mailbox=" in line]
    assert len(set(series)) == 6 and 500 <= series.count("mailpolld_mailbox_failing") < 1500 and series.count("mailpolld_mailbox_quarantined") == 1


def test_messages_on_their_way(simulator, make_daemon):
    """What lies in the spool, waits, was put off, is still to be deleted on the server, lies in quarantine: while it is so, and no longer"""
    daemon, port, begun = make_daemon(program="mailpolld-scaled"), free_port(), time.monotonic()
    take = 'cd "$0"; until [ -s $MAILPOLLD_UID ]; do sleep 0.05; done; code=$(cat $MAILPOLLD_UID); rm $MAILPOLLD_UID; exit $code'
    simulator.mailbox(M)
    simulator.add(M, [{"seed": i, "size": 2000} for i in range(2)])
    daemon.config([{"address": M, "after": "delete", "deliver": {"command": ["/bin/sh", "-c", take, daemon.directory], "timeout": "10m"}}],
                  top={"metrics_listen": "127.0.0.1:%d" % port})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "10"})

    def answer(uid, code):
        with open(os.path.join(daemon.directory, str(uid)), "w") as f:
            f.write(str(code))

    def deliveries(n):
        return [n['deliveries_total{outcome="%s"}' % outcome] for outcome in ("delivered", "quarantined", "temporary")]
    n = wait_numbers(daemon, port, spool_bytes=4000, spool_files=2, messages_backlog=2, messages_after_owed=0, messages_quarantined=0, sinks_failing=0,
                     oldest_undelivered_age_seconds=lambda age: age >= 3)
    assert n["oldest_undelivered_age_seconds"] <= 10 * (time.monotonic() - begun) + 1 and deliveries(n) == [0, 0, 0]
    answer(1, 75)                           # one is kept
    n = wait_numbers(daemon, port, spool_bytes=2000, spool_files=1, messages_backlog=2, sinks_failing=1)
    assert deliveries(n) == [0, 0, 1]
    answer(1, 0)
    n = wait_numbers(daemon, port, spool_bytes=2000, spool_files=1, messages_backlog=1, messages_after_owed=1, sinks_failing=0)
    assert deliveries(n) == [1, 0, 1] and n["oldest_undelivered_age_seconds"] >= 3
    answer(2, 65)
    n = wait_numbers(daemon, port, spool_bytes=0, spool_files=0, messages_backlog=0, messages_after_owed=0, messages_quarantined=1, sinks_failing=0,
                     oldest_undelivered_age_seconds=0)
    assert deliveries(n) == [1, 1, 1] and list(simulator.folder(M)["messages"]) == ["2"]
    daemon.config([], top={"metrics_listen": "127.0.0.1:%d" % port})
    assert daemon.ctl("reload").returncode == 0             # whoever it was for: it lies there
    daemon.wait_line("event=config-doubtful mailbox=%s .*1 refused messages of it stay in quarantine" % M)
    wait_numbers(daemon, port, messages_quarantined=1, messages_backlog=0)
    assert daemon.ctl("quarantine", "drop", "%s%%2FINBOX%%2F14%%2F2" % M).returncode == 0
    assert deliveries(wait_numbers(daemon, port, messages_quarantined=0)) == [1, 1, 1]


def test_sign_ins_that_wait(simulator, daemon):
    """Behind one that hangs, as long as starting_at_once lets no other begin"""
    port, addresses = free_port(), ["m%d@contoso.example" % i for i in range(4)]
    for address in addresses:
        simulator.mailbox(address)
    simulator.fault("hang-authenticate", count=1)
    top = {"metrics_listen": "127.0.0.1:%d" % port}
    daemon.config(addresses, top=top, admission={"starting_at_once": 1})
    daemon.start()
    simulator.wait("fault-hang-authenticate", 1)
    wait_numbers(daemon, port, **{'sign_ins_waiting{credential="contoso"}': 3, 'mailboxes{state="queued"}': 3})
    daemon.config(addresses, top=top)
    assert daemon.ctl("reload").returncode == 0
    wait_numbers(daemon, port, **{'sign_ins_waiting{credential="contoso"}': 0, 'mailboxes{state="watching"}': 3})


def test_slowed_sign_ins(simulator, make_daemon):
    """From the third mailbox that is throttled within a minute until a minute without"""
    daemon, port, addresses = make_daemon(program="mailpolld-scaled"), free_port(), ["m%d@contoso.example" % i for i in range(3)]
    for address in addresses:
        simulator.mailbox(address)
        simulator.fault("throttle", address, ms=5000, command="SELECT", count=1)
    daemon.config(addresses, top={"metrics_listen": "127.0.0.1:%d" % port})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "15"})
    wait_numbers(daemon, port, **{'admission_slowed{credential="contoso"}': 1, 'sessions_ended_total{reason="throttled"}': 3})
    wait_numbers(daemon, port, **{'admission_slowed{credential="contoso"}': 0, 'mailboxes{state="watching"}': 3})


def test_reload_that_is_refused(served):
    def reload(text):
        with open(served.file, "w") as f:
            f.write(text)
        return served.ctl("reload").returncode, numbers(get(served.port, "/metrics")[2])["mailpolld_config_last_reload_successful"]
    with open(served.file) as f:
        good = f.read()
    assert [reload(good), reload(good + "nonsense"), reload(good)] == [(0, 1), (1, 0), (0, 1)]


def test_secret_expiry(simulator, daemon):
    port = free_port()
    simulator.mailbox(M)
    daemon.config([M], top={"metrics_listen": "127.0.0.1:%d" % port})
    with open(daemon.file) as f:
        conf = json.load(f)
    conf["credentials"]["contoso"]["client_secret_expires"] = "2027-01-31"
    with open(daemon.file, "w") as f:
        json.dump(conf, f)
    daemon.start()
    assert numbers(get(port, "/metrics")[2])['mailpolld_secret_expiry_time_seconds{credential="contoso"}'] == 1801353600
    conf["credentials"]["contoso"]["client_secret_expires"] = "soon"
    with open(daemon.file, "w") as f:
        json.dump(conf, f)
    refused = daemon.ctl("reload")
    assert refused.returncode == 1 and "client_secret_expires must be a date such as 2027-01-31" in refused.stderr


def test_counters_outlive_a_reload(simulator, served):
    """A sink that is not configured any more takes none of what was counted with it"""
    served.config([{"address": M, "deliver": {"maildir": os.path.join(served.directory, "mail", "elsewhere")}}],
                  top={"metrics_listen": "127.0.0.1:%d" % served.port})
    assert served.ctl("reload").returncode == 0
    simulator.add(M, [{"seed": 9, "size": 2000}])
    served.wait(lambda s: s["mailboxes"][0]["folders"][0]["delivered"] == 6)
    assert numbers(get(served.port, "/metrics")[2])['mailpolld_deliveries_total{outcome="delivered"}'] == 6


def test_the_watchdogs_mark(simulator, daemon):
    """What the unit leaves behind after the watchdog is told once, by the next run"""
    port = free_port()
    simulator.mailbox(M)
    daemon.config([M], top={"metrics_listen": "127.0.0.1:%d" % port})
    mark = os.path.join(daemon.state_dir, "ended-by-watchdog")
    with open(os.path.join(ROOT, "systemd", "mailpolld.service")) as f:
        left = re.search("^ExecStopPost=/bin/sh -c '(.*)'$", f.read(), re.M).group(1).replace("$$", "$")
    for result, expected in (("success", 0), ("watchdog", 1), ("signal", 0)):
        subprocess.run(["sh", "-c", left], check=True, env={"SERVICE_RESULT": result, "STATE_DIRECTORY": daemon.state_dir})
        assert os.path.exists(mark) == bool(expected)
        daemon.start(env={"STATE_DIRECTORY": daemon.state_dir})
        assert numbers(get(port, "/metrics")[2])["mailpolld_started_by_watchdog"] == expected
        assert not os.path.exists(mark)
        daemon.stop()
        assert daemon.has_line("event=watchdog") == bool(expected)


def test_longest_failing(simulator, make_daemon):
    """Of a session and of a sink that is tried again and again: since the first time"""
    daemon, port = make_daemon("daemon", "mailpolld-scaled"), free_port()
    simulator.mailbox(M)
    simulator.add(M, [{"seed": 1, "size": 2000}])
    daemon.config([{"address": M, "deliver": {"command": ["/bin/false"]}}], top={"metrics_listen": "127.0.0.1:%d" % port})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "200"})
    daemon.wait_state(M, "held")
    wait_numbers(daemon, port, 30, longest_failing_seconds=lambda s: s >= 900)
    assert int(daemon.status()["sinks"][0]["temporary"]) >= 4


def test_healthz(simulator, served):
    status, kind, text = get(served.port, "/healthz")
    assert status == 200 and kind == "application/json" and json.loads(text) == {"health": "ok", "reasons": []}
    simulator.fault("no-permission", M)
    simulator.post("/drop", address=M)
    served.wait_state(M, "backing-off")
    status, _, text = get(served.port, "/healthz")
    assert status == 503 and json.loads(text)["health"] == "down" and "mailpollctl status" in json.loads(text)["reasons"][0]["hint"]


def test_nothing_else(served):
    assert get(served.port, "/status")[0] == 404
    assert get(served.port, "/metrics", "POST")[0] in (405, 501)


def test_reload_moves_the_port(simulator, served):
    other = free_port()
    served.config([M], top={"metrics_listen": "127.0.0.1:%d" % other})
    assert served.ctl("reload").returncode == 0
    assert get(other, "/healthz")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        get(served.port, "/healthz")


def test_reload_to_a_port_that_is_taken(simulator, served):
    """All or nothing: an error of the reload, and the old port answers; every address at the old port is no hindrance"""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        served.config([M, "new@contoso.example"], top={"metrics_listen": "127.0.0.1:%d" % taken.getsockname()[1]})
        refused = served.ctl("reload")
    assert refused.returncode == 1 and "metrics_listen: cannot listen on 127.0.0.1 port" in refused.stderr
    assert len(served.status()["mailboxes"]) == 1 and "metrics_listen" in served.status()["config"]["error"]
    assert get(served.port, "/healthz")[0] == 200
    served.config([M], top={"metrics_listen": "0.0.0.0:%d" % served.port})
    assert served.ctl("reload").returncode == 0 and get(served.port, "/healthz")[0] == 200


def test_port_that_is_taken(simulator, daemon):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon.config([M], top={"metrics_listen": "127.0.0.1:%d" % taken.getsockname()[1]})
        daemon.start(ready=False)
        assert daemon.finish() == 71 and daemon.wait_line("metrics_listen: cannot listen on 127.0.0.1")


def exported(served):
    text = get(served.port, "/metrics")[2]
    names = set()
    for name, kind in re.findall(r"# TYPE (\S+) (\S+)", text):
        names |= {name + end for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return names


def test_dashboard_and_alerts_use_what_is_exported(served):
    names = exported(served)
    for file in ("grafana-dashboard.json", "prometheus-alerts.yml"):
        with open(os.path.join(ROOT, "conf", file)) as f:
            used = set(re.findall(r"\bmailpolld_[a-z_]+", f.read()))
        assert len(used) > 5 and used <= names, used - names
    with open(os.path.join(ROOT, "conf", "grafana-dashboard.json")) as f:
        shown = set(re.findall(r"\bmailpolld_[a-z_]+", f.read()))
    assert shown <= names and {n for n in names if not n.endswith(("_sum", "_count"))} <= shown, names - shown     # nothing is measured for nobody


@PROMTOOL
def test_alerts(tmp_path):
    rules = os.path.join(ROOT, "conf", "prometheus-alerts.yml")
    subprocess.run(["promtool", "check", "rules", rules], check=True, capture_output=True)
    with open(os.path.join(ROOT, "tests", "alerts_test.yml")) as f:
        (tmp_path / "test.yml").write_text(f.read().replace("RULES", rules))
    done = subprocess.run(["promtool", "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@PROMTOOL
def test_promtool_likes_the_metrics(served):
    done = subprocess.run(["promtool", "check", "metrics"], input=get(served.port, "/metrics")[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")
def test_prometheus_scrapes_it(served, tmp_path):
    """With the lines that the alerts' file gives, so that its rules find the daemon."""
    port = free_port()
    rules = os.path.realpath(os.path.join(ROOT, "conf", "prometheus-alerts.yml"))
    with open(rules) as f:
        given = "\n".join(re.findall(r"(?m)^#   (.*)$", f.read())) + "\n"
    assert "127.0.0.1:9479" in given and "/usr/share/mailpolld/prometheus-alerts.yml" in given
    given = given.replace("127.0.0.1:9479", "127.0.0.1:%d" % served.port).replace("/usr/share/mailpolld/prometheus-alerts.yml", rules)
    (tmp_path / "prometheus.yml").write_text("global: {scrape_interval: 1s}\n" + given)
    process = subprocess.Popen(["prometheus", "--config.file=%s" % (tmp_path / "prometheus.yml"), "--storage.tsdb.path=%s" % (tmp_path / "tsdb"),
                                "--web.listen-address=127.0.0.1:%d" % port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 40
        while True:
            try:
                answer = json.loads(get(port, "/api/v1/query?query=mailpolld_deliveries_total")[2])["data"]["result"]
                groups = json.loads(get(port, "/api/v1/rules")[2])["data"]["groups"]
                gone = next(rule["query"] for group in groups for rule in group["rules"] if rule["name"] == "MailpolldGone")
                up = json.loads(get(port, "/api/v1/query?query=" + quote(gone.replace("== 0", "== 1")))[2])["data"]["result"]
                if up and {r["metric"]["outcome"]: r["value"][1] for r in answer}.get("delivered") == "5":
                    break
            except (OSError, ValueError, KeyError):
                pass
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.2)             # it scrapes once a second
    finally:
        process.terminate()
        process.wait(20)
