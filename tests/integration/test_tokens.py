"""One token serves all; it is renewed in time; what the endpoint says is understood."""
import calendar
import email.utils
import os
import re
import shutil
import threading
import time

import pytest

from lib.daemon import Daemon, lateness
from lib.maildir import Maildir
from lib.simulator import Simulator

ADDRESS = "support@contoso.example"
FAST = 4


@pytest.fixture
def fast(tmp_path, certificates):
    """Daemon and simulator whose clocks run alike, faster."""
    shutil.copytree(certificates, tmp_path / "fast-sim")
    sim = Simulator(tmp_path / "fast-sim", clock_rate=FAST)
    d = Daemon(tmp_path / "fast", sim, "mailpolld-scaled")
    yield sim, d
    d.cleanup()
    sim.stop()


def seconds(text):
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


def credential(status):
    return status["credentials"][0]


def test_two_hundred_mailboxes_cause_one_request(simulator, daemon):
    addresses = ["box%03d@contoso.example" % i for i in range(200)]
    for address in addresses:
        simulator.mailbox(address)
    daemon.config(addresses, top={"log_level": "info"})
    daemon.start()
    simulator.wait("idling", 200, timeout_s=60)
    assert simulator.counts("token_requests") == 1


def test_short_tokens(fast):
    """Tokens of 20 s: every mailbox signs in anew (exchange-online 5.3), mail flows on, nothing counts as a failure."""
    simulator, daemon = fast
    addresses = ["box%d@contoso.example" % i for i in range(5)]
    for address in addresses:
        simulator.mailbox(address)
    simulator.post("/token", life_s=20)
    daemon.config(addresses)
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(FAST)})
    n = 0
    while any(simulator.state(address)["logins"] < 5 for address in addresses):
        n += 1
        assert n <= 120
        for address in addresses:
            simulator.add(address, [{"seed": n, "size": 1200}])
        daemon.wait_total(n * len(addresses))
        threading.Event().wait(1 / FAST)	# mail comes at its own pace
        status = daemon.status()
        assert all(m["failures"] == 0 and m["error"] is None for m in status["mailboxes"]), status
        assert credential(status)["error"] is None
    assert all(simulator.state(address)["refused"] == 0 for address in addresses)
    assert not daemon.has_line("event=(sign-in-failed|token-failed|mailbox-stalled)")


def test_numbers_as_strings_and_refresh_in(simulator, daemon):
    """exchange-online 2.4, 2.5"""
    simulator.mailbox(ADDRESS)
    simulator.post("/token", life_s=86400, refresh_in=43200, strings=True)
    daemon.config([ADDRESS])
    daemon.start()
    simulator.wait("idling", 1)
    c = credential(daemon.status())
    assert c["state"] == "fresh"
    expires, refresh = (time.mktime(time.strptime(c[k], "%Y-%m-%dT%H:%M:%SZ")) for k in ("expires_at", "refresh_at"))
    assert 43200 - 400 <= expires - refresh <= 43200 + 400


@pytest.mark.parametrize("told", [None, 0])
def test_life_that_is_not_told(fast, told):
    """RFC 6749 5.1: an endpoint need not tell it: an hour is assumed; the server ends the session before, and another token is asked for"""
    simulator, daemon = fast
    simulator.mailbox(ADDRESS)
    simulator.post("/token", life_s=70, expires_in=told)
    daemon.config([ADDRESS])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(FAST)})
    simulator.wait("idling", 1)
    c = credential(daemon.status())
    assert c["state"] == "fresh" and 1200 <= seconds(c["expires_at"]) - seconds(c["refresh_at"]) <= 2400, c
    daemon.wait_line(r"event=token-refreshed .*good for 3[56]\d\d s \(assumed: the endpoint does not tell\)")
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(ADDRESS, 1)
    assert simulator.counts("token_requests") == simulator.counts("logins") == 1
    simulator.wait("token_requests", 2, timeout_s=40)
    simulator.add(ADDRESS, [{"seed": 2, "size": 1500}])
    daemon.wait_delivered(ADDRESS, 2)
    assert simulator.counts("token_requests") == 2 and simulator.state(ADDRESS)["refused"] == 0
    assert daemon.of(ADDRESS)["failures"] == 0 and daemon.status()["health"] == "ok" and not daemon.has_line("failure=")


def test_life_that_is_too_short(simulator, make_daemon):
    """No session would come to anything with it: that fails, and is told; the endpoint is asked with patience, until its tokens live"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    simulator.post("/token", expires_in=1)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20"})
    line = daemon.wait_line("event=token-failed")
    assert "failure=token-short-lived " in line and "a token that is good for 1 s" in line and "set their life there to some minutes" in line, line
    status = daemon.wait(lambda s: s["mailboxes"][0]["failures"] >= 8)         # it asks the cache after 60 s at most
    assert simulator.counts("token_requests") <= 10 and simulator.counts("logins") == 0
    assert status["health"] == "down" and credential(status)["state"] == "failed"
    assert [(r["what"], r["name"]) for r in status["reasons"]] == [("mailboxes", "all"), ("credential", "contoso")]
    simulator.post("/token", expires_in=3899)
    daemon.wait_delivered(ADDRESS, 1)
    assert daemon.wait(lambda s: s["health"] == "ok")["reasons"] == []


def test_answer_that_takes_most_of_the_life(simulator, make_daemon):
    """Too old for a sign-in before it is here: as one whose life is too short"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    simulator.post("/token", life_s=20, fail={"delay_s": 2})
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "10"})
    assert re.search("a token that is good for 20 s, asked for 2[0-9] s ago", daemon.wait_line("event=token-failed.*failure=token-short-lived "))
    assert credential(daemon.status())["error"] is not None
    simulator.post("/token", life_s=3899, fail=None)
    daemon.wait_delivered(ADDRESS, 1)
    assert daemon.wait(lambda s: s["health"] == "ok")["reasons"] == []


def test_wrong_secret_mended_without_restart(simulator, make_daemon):
    """exchange-online 3.2: permanent, with the sentence; the file is read anew, so a new secret needs no reload."""
    simulator.mailbox(ADDRESS)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS])
    daemon.write_secret("wrong")
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20"})
    status = daemon.wait(lambda s: credential(s)["state"] == "failed")
    assert "AADSTS7000215" in credential(status)["error"]
    assert "copy its Value column, not its Secret ID" in credential(status)["hint"]
    assert status["health"] == "down" and status["reasons"]		# nothing is served
    daemon.write_secret(simulator.secret)
    daemon.poll(ADDRESS)
    daemon.wait_state(ADDRESS, "watching")
    assert credential(daemon.status())["error"] is None


# exchange-online 3.2, row by row: the codes, the error, what a person is told
PERMANENT = [
    ([7000215, 70002], "invalid_client", "copy its Value column, not its Secret ID"), ([7000222], "invalid_client", "has expired: create a new one"),
    ([7000218, 900144], "invalid_request", "No credential was sent"), ([700016], "unauthorized_client", "There is no application with client ID"),
    ([7000229], "invalid_client", "has no enterprise application"), ([7000112, 70001], "unauthorized_client", "is disabled in Entra"),
    ([90002], "invalid_request", "does not exist in this cloud"), ([900023], "invalid_request", "is not a tenant"),
    ([90038, 900382, 900432], "invalid_request", "lives in another Microsoft cloud"), ([50194, 9001023, 90124], "invalid_request", "not 'common'"),
    ([1002012], "invalid_scope", "must end in /.default"), ([70011, 700022, 28002], "invalid_scope", "The scope is wrong"),
    ([500011, 50001], "invalid_resource", "Exchange Online is not present in tenant"), ([65001, 650056, 501051], "invalid_grant", "Grant admin consent for IMAP.AccessAsApp"),
    ([700027, 50012, 50013], "invalid_client", "does not accept the certificate"), ([700024, 500133], "invalid_client", "clock is wrong"),
    ([700213, 7002131, 700211, 700212], "invalid_client", "Add a federated credential"), ([53003, 50131, 530032], "access_denied", "Conditional Access policy"),
    ([500021, 500022, 50002], "invalid_request", "tenant-restriction proxy"),
]
TRANSIENT = [
    ([50196, 90055, 90024], "invalid_request", "is limiting token requests"), ([90006, 90033, 90012, 50033, 90090], "temporarily_unavailable", "is temporarily unavailable"),
]


@pytest.mark.parametrize("rows,least_s,most_s", [(PERMANENT, 90, 1801), (TRANSIENT, 0, 301)], ids=["permanent", "transient"])
def test_every_code(simulator, make_daemon, rows, least_s, most_s):
    """exchange-online 3.2: the sentence, and how soon it is tried again"""
    simulator.mailbox(ADDRESS)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS])
    simulator.post("/token", fail={"status": 503})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20" if rows is PERMANENT else "200"})
    daemon.wait(lambda s: credential(s)["state"] == "failed")
    for codes, error, hint in rows:
        for code in codes:
            simulator.post("/token", fail={"status": 401 if error == "invalid_client" else 400, "error": error, "code": code})
            daemon.request("POST", "/reload")           # a person has changed something: tried at once
            c = credential(daemon.wait(lambda s: "AADSTS%d:" % code in (credential(s)["error"] or "") and credential(s)["state"] == "failed"))
            assert hint in c["hint"], (code, c["hint"])
            wait_s = seconds(c["refresh_at"]) - seconds(daemon.of(ADDRESS)["since"])
            least, most = (0, 60) if code in (7000215, 70002) else (least_s, most_s)        # a secret that is new, as each is after a start
            assert wait_s <= most + 60 and (wait_s >= least or most_s < 1000), (code, c)
            assert "Trace ID" not in c["error"] and "trace ID 0000aaaa" in c["error"]
    simulator.post("/token", fail=None)
    daemon.request("POST", "/reload")
    daemon.wait_state(ADDRESS, "watching")
    assert credential(daemon.status())["error"] is None


@pytest.mark.parametrize("answer,error", [
    ({"status": 429}, "HTTP 429"), ({"status": 503, "body": ""}, "HTTP 503"), ({"status": 500, "body": "{"}, "HTTP 500"), ({"status": 408}, "HTTP 408"),
    ({"status": 200, "body": "<html>welcome</html>"}, "without a usable access token"), ({"status": 200, "body": "{}"}, "without a usable access token"),
    ({"status": 200, "body": '{"access_token":"x","expires_in":-5}'}, "without a usable access token"),
    ({"status": 204, "body": ""}, "HTTP 204"),
])
def test_answers_that_are_none(simulator, make_daemon, answer, error):
    """exchange-online 3.1, 3.3: once, and the next one is good"""
    simulator.mailbox(ADDRESS)
    simulator.post("/token", script=[answer])
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "4"})
    daemon.wait_state(ADDRESS, "watching")
    assert error in daemon.wait_line("event=token-failed")
    assert simulator.counts("token_requests") == 2


def test_throttled_endpoint_is_asked_when_it_said(simulator, daemon):
    """exchange-online 3.3: 429 with Retry-After"""
    simulator.mailbox(ADDRESS)
    simulator.post("/token", fail={"status": 429, "retry_after": 4})
    daemon.config([ADDRESS])
    began = time.monotonic()
    daemon.start()
    simulator.wait("token_requests", 1)
    simulator.post("/token", fail=None)
    simulator.wait("token_requests", 2)
    assert time.monotonic() - began >= 3.5
    daemon.wait_state(ADDRESS, "watching")


def test_refused_token_that_is_young(simulator, daemon):
    """exchange-online 5.2: no older than 60 s: another one would be no better, so none is asked for"""
    simulator.mailbox(ADDRESS)
    simulator.fault("auth-refused", ADDRESS)
    daemon.config([ADDRESS])
    daemon.start()
    daemon.wait_state(ADDRESS, "backing-off")
    assert simulator.state(ADDRESS)["refused"] == 1 and simulator.counts("token_requests") == 1
    mailbox = daemon.of(ADDRESS)
    assert "New-ServicePrincipal" in mailbox["hint"] and "0a1b2c3d-0000-0000-0000-0000000000ff" in mailbox["hint"]


@pytest.mark.parametrize("times", [1, 2], ids=["once", "again"])
def test_refused_token_that_is_old(simulator, make_daemon, times):
    """exchange-online 5.2: older than 60 s it is replaced, once, and tried once more; accepted, nothing has failed"""
    simulator.mailbox(ADDRESS)
    simulator.fault("auth-refused", ADDRESS, skip=2, count=times)        # the third poll comes more than a minute after the second
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS], {"watch": "poll", "interval": "65s"})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "10"})
    daemon.wait_line("NO AUTHENTICATE failed.*asking for a fresh token once")
    if times == 1:
        simulator.wait("logins", 3, ADDRESS)
        daemon.wait_state(ADDRESS, "sleeping")
        assert simulator.state(ADDRESS)["refused"] == 1 and daemon.of(ADDRESS)["failures"] == 0 and not daemon.has_line("failure=")
    else:
        assert "failure=sign-in-refused" in daemon.wait_line("event=sign-in-failed")
        assert simulator.state(ADDRESS)["refused"] == 2
    assert simulator.counts("token_requests") == 2


def test_forms_of_retry_after(simulator, daemon):
    """exchange-online 3.3: seconds, a date, nonsense; no more than an hour; a tenth later at most"""
    simulator.mailbox(ADDRESS)
    daemon.config([ADDRESS])

    def date(after_s):
        return email.utils.formatdate(time.time() + after_s, usegmt=True)

    for status, value, least_s, most_s in [
            (429, "60", 60, 66), (503, "60", 60, 66), (429, "3600", 3600, 3960), (429, "86400", 3600, 3960), (429, "9" * 30, 3600, 3960), (429, date(300), 280, 330),
            (429, date(10 ** 6), 3600, 3960), (429, date(-60), 1, 1), (429, "soon", 1, 1), (429, "", 1, 1), (429, "-60", 1, 1), (429, "60 seconds", 1, 1),
            (429, "0", 1, 1), (429, "1e3", 1, 1)]:
        simulator.post("/token", fail={"status": status, "retry_after": value})
        daemon.start()
        line = daemon.wait_line("event=token-failed")
        assert least_s <= int(re.search(r"trying again in (\d+) s", line).group(1)) <= most_s, (value, line)
        assert ("failure=token-throttled" if status == 429 else "failure=token-unavailable") in line
        daemon.stop()


def test_token_without_role(simulator, daemon):
    """exchange-online 2.6: Entra gives it all the same; the hint says what it lacks"""
    simulator.mailbox(ADDRESS)
    simulator.post("/token", roles=[])
    daemon.config([ADDRESS])
    daemon.start()
    daemon.wait_state(ADDRESS, "backing-off")
    assert "IMAP.AccessAsApp" in daemon.of(ADDRESS)["hint"]
    assert "admin consent" in daemon.of(ADDRESS)["hint"]
    assert "IMAP.AccessAsApp" in daemon.wait_line("event=token-doubtful .*credential=contoso .*will not open a mailbox")
    assert sum("event=token-doubtful" in line for line in daemon.lines) == 1


def test_mended_with_the_first_message(simulator, daemon):
    """A backlog comes in for hours, and all that time the mailbox neither fails nor is health down for what was wrong before"""
    simulator.mailbox(ADDRESS)
    uids = simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(5)])
    simulator.fault("hang-mid-literal", ADDRESS, uids=uids[3:4], after=700)
    daemon.config([ADDRESS])
    daemon.write_secret("wrong")
    daemon.start()
    daemon.wait(lambda s: s["health"] == "down" and s["totals"]["failing"] == 1)
    daemon.write_secret(simulator.secret)
    assert daemon.ctl("reload").returncode == 0
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 3)
    status = daemon.wait(lambda s: s["health"] == "ok" and s["reasons"] == [], timeout=10)
    mailbox = status["mailboxes"][0]
    assert mailbox["state"] == "syncing" and mailbox["folders"][0]["backlog"] == 2 and status["totals"]["failing"] == 0
    assert mailbox["error"] is None and mailbox["failing_since"] is None and mailbox["failures"] == 0
    daemon.wait_line("event=mailbox-recovered .*recovered after")


def test_one_cause_for_all_mailboxes_is_one_sentence(simulator, daemon):
    """exchange-online 5.2: all refused is the application's matter, and said once"""
    addresses = ["box%d@contoso.example" % i for i in range(5)]
    for address in addresses:
        simulator.mailbox(address)
    simulator.post("/token", roles=[])
    daemon.config(addresses)
    daemon.start()
    status = daemon.wait(lambda s: s["totals"]["failing"] == 5)
    reason = next(r for r in status["reasons"] if r["what"] == "mailboxes")
    assert status["health"] == "down" and "5 of 5 mailboxes fail, all with sign-in-refused" in reason["hint"] and "admin consent" in reason["hint"]


def test_no_secret_is_told(simulator, daemon):
    """Neither secret nor token in log, status or state."""
    simulator.mailbox(ADDRESS)
    daemon.config([ADDRESS])
    daemon.start()
    simulator.wait("idling", 1)
    told = "\n".join(daemon.lines) + str(daemon.status())
    assert simulator.secret not in told and "eyJ" not in told and "Bearer" not in told
    with open("/proc/%d/environ" % daemon.process.pid) as f:
        assert simulator.secret not in f.read()


@pytest.mark.parametrize("logout_s", [0, 4])
def test_mail_during_a_planned_sign_in(simulator, daemon, logout_s):
    """exchange-online 5.3: less than a second from LOGOUT to the next session, however slowly LOGOUT is answered; mail comes all the while, and
    none is missed. A few may meet a busy moment of this machine, not one in twenty."""
    addresses = ["box%d@contoso.example" % i for i in range(6)]
    for address in addresses:
        simulator.mailbox(address)
    simulator.post("/token", life_s=12, refresh_in=3)
    if logout_s:
        simulator.fault("delay-logout", seconds=logout_s)
    daemon.config(addresses)
    daemon.start()
    simulator.wait("idling", len(addresses))
    n = 0
    while simulator.counts("logins") < 2 * len(addresses):
        n += len(simulator.add(addresses[n % len(addresses)], [{"text": "Message-ID: <%d@x>\r\n\r\n%f" % (n, time.time())}]))
        threading.Event().wait(0.05)            # mail comes at its own pace
    daemon.wait_total(n)
    waited = []
    for address in addresses:
        for path in Maildir(daemon.maildir(address)).files():
            with open(path) as f:
                waited.append(os.stat(path).st_mtime - float(f.read().split()[-1]))
        assert simulator.state(address)["refused"] == 0
    took = sorted(s for address in addresses for s in simulator.state(address)["relogins_s"])
    assert len(waited) == n and not daemon.has_line("failure=|-> queued")
    late = lateness.most_s
    assert len(took) >= len(addresses) and took[len(took) // 2] < (1.0 if logout_s else 0.5) and took[-2] < 1.5 + late, took
    assert sorted(waited)[len(waited) * 95 // 100] < 1 + late, sorted(waited)[-5:]      # who waited for LOGOUT would delay a quarter of them


def test_more_mailboxes_than_can_sign_in_anew(fast):
    """exchange-online 5.3, 5.13: what `check` foresees for tokens of an hour, the status says of the tokens there are"""
    simulator, daemon = fast
    addresses = ["box%02d@contoso.example" % i for i in range(40)]
    for address in addresses:
        simulator.mailbox(address)
    simulator.post("/token", life_s=40)
    daemon.config(addresses, admission={"sessions_per_second": 1})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(FAST)})
    status = daemon.wait(lambda s: any(r["what"] == "admission" for r in s["reasons"]))
    reason = next(r for r in status["reasons"] if r["what"] == "admission")
    assert reason["name"] == "contoso" and "40 mailboxes of contoso sign in anew within" in reason["hint"] and "Raise sessions_per_second" in reason["hint"]
    assert status["credentials"][0]["admission"]["hint"] == reason["hint"] and status["health"] == "ok"
    assert "Raise sessions_per_second" in daemon.ctl("status").stdout
    simulator.wait("logins", 55, timeout_s=90)              # who waits for the gate goes on idling
    assert simulator.state()["commands"]["IDLE"] <= 5 * simulator.counts("logins")
    daemon.config(addresses, admission={"sessions_per_second": 50})
    daemon.request("POST", "/reload")
    daemon.wait(lambda s: not s["reasons"])


@pytest.mark.parametrize("fail", [{"status": 503}, {"status": 401, "error": "invalid_client", "code": 7000222}],
                         ids=["unavailable", "secret-expired"])
def test_token_in_hand_outlives_the_endpoint(fast, fail):
    """exchange-online 3.2, 3.3: a renewal fails: the old token is used until its end, sessions go on; back again, nothing has happened"""
    simulator, daemon = fast
    simulator.mailbox(ADDRESS)
    simulator.post("/token", life_s=120, refresh_in=8)
    daemon.config([ADDRESS], {"watch": "poll", "interval": "1s"})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(FAST)})
    simulator.wait("logins", 1)
    simulator.post("/token", fail=fail)
    status = daemon.wait(lambda s: credential(s)["state"] == "stale", timeout=60)
    assert status["health"] == "degraded" and [(r["what"], r["name"]) for r in status["reasons"]] == [("credential", "contoso")]
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(ADDRESS, 1)
    before = simulator.counts("logins")
    simulator.wait("logins", before + 3)
    assert daemon.of(ADDRESS)["failures"] == 0
    simulator.post("/token", fail=None)
    daemon.request("POST", "/reload")           # a person has changed something: tried at once
    assert daemon.wait(lambda s: credential(s)["state"] == "fresh")["health"] == "ok"


def test_secret_file_that_is_away_for_a_while(simulator, make_daemon):
    """It is read at each renewal: the sentence names it; put back, no reload is needed"""
    simulator.mailbox(ADDRESS)
    simulator.post("/token", life_s=400)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS])
    os.rename(daemon.secret_file, daemon.secret_file + ".away")
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20"})
    line = daemon.wait_line("event=token-failed")
    assert "failure=secret-file" in line and "Put the client secret of app %s into %s" % (simulator.client_id, daemon.secret_file) in line
    assert simulator.counts("token_requests") == 0
    os.rename(daemon.secret_file + ".away", daemon.secret_file)
    daemon.wait_state(ADDRESS, "watching")
    os.unlink(daemon.secret_file)
    daemon.wait(lambda s: credential(s)["state"] == "stale" and "Put the client secret" in credential(s)["hint"])
    assert daemon.of(ADDRESS)["failures"] == 0
    daemon.write_secret(simulator.secret)
    daemon.wait(lambda s: credential(s)["state"] == "fresh" and credential(s)["error"] is None)


def test_credential_that_systemd_does_not_give(simulator, daemon):
    """Nobody is told to put a file where only systemd does; one that is there is read"""
    simulator.mailbox(ADDRESS)
    secret, given = daemon.secret_file, os.path.join(daemon.directory, "given")
    os.mkdir(given)
    daemon.secret_file = "credential:contoso"
    daemon.config([ADDRESS])
    daemon.start(env={"CREDENTIALS_DIRECTORY": given})
    line = daemon.wait_line("event=token-failed")
    assert "failure=secret-credential" in line and "LoadCredential=contoso:FILE" in line and "systemctl restart mailpolld" in line, line
    shutil.copy(secret, os.path.join(given, "contoso"))
    daemon.wait_state(ADDRESS, "watching", timeout=20)


def test_secret_file_that_is_missing_at_the_start(simulator, daemon):
    """Its own credential fails, and no other; put there, it needs no restart"""
    other, secret = "other@contoso.example", os.path.join(daemon.directory, "other-secret")
    for address in (ADDRESS, other):
        simulator.mailbox(address)
        simulator.add(address, [{"seed": 1, "size": 1500}])
    daemon.config([{"address": other, "credential": "second"}, ADDRESS], credentials={"second": {"client_secret_file": secret}})
    daemon.start()
    daemon.wait_delivered(ADDRESS, 1)
    status = daemon.wait(lambda s: s["totals"]["failing"] == 1 and s["totals"]["watching"] == 1)
    assert {c["name"]: c["state"] for c in status["credentials"]} == {"contoso": "fresh", "second": "failed"}
    assert status["health"] == "degraded" and [(r["what"], r["name"]) for r in status["reasons"]] == [("credential", "second")]
    assert secret in status["reasons"][0]["hint"] and daemon.of(other)["failure"] == "secret-file" and simulator.counts("token_requests") == 1
    shutil.copy(daemon.secret_file, secret)
    assert daemon.ctl("reload").returncode == 0
    daemon.poll(other)
    daemon.wait_delivered(other, 1)
    daemon.wait(lambda s: s["totals"]["watching"] == 2 and s["health"] == "ok" and s["reasons"] == [])
    assert simulator.state(ADDRESS)["logins"] == 1


@pytest.mark.parametrize("how", ["renewal", "start", "reload", "missing"])
def test_new_secret_is_refused_for_a_while(simulator, make_daemon, how):
    """exchange-online 3.2: a new secret is not known everywhere at once; it is tried again each minute, not each quarter of an hour, also when
    the daemon has not seen another one before"""
    simulator.mailbox(ADDRESS)
    simulator.post("/token", life_s=400)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS])
    if how == "start":
        daemon.write_secret("brand~new")
    elif how == "missing":
        os.unlink(daemon.secret_file)
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "30"})
    if how == "missing":
        daemon.wait_line("event=token-failed.*failure=secret-file")
        daemon.write_secret("brand~new")
    elif how != "start":
        daemon.wait_state(ADDRESS, "watching")
        if how == "reload":
            daemon.secret_file += ".new"
        daemon.write_secret("brand~new")
        if how == "reload":
            daemon.config([ADDRESS])
            assert daemon.ctl("reload").returncode == 0
    daemon.wait_line("event=token-failed.*7000215")
    simulator.wait("token_requests", simulator.counts("token_requests") + 3)    # in three minutes of its own
    simulator.post("/secret", secret="brand~new")
    daemon.wait(lambda s: credential(s)["state"] == "fresh" and credential(s)["error"] is None, timeout=20)
    assert "trying again in 60 s" in next(line for line in daemon.lines if "7000215" in line)


def test_wrong_secret_is_not_new_for_ever(simulator, make_daemon):
    """Each minute for ten minutes, then as often as what a person must mend; a file that is away in between makes it no new one"""
    simulator.mailbox(ADDRESS)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS])
    daemon.write_secret("wrong")
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "40"})
    daemon.wait_line("event=token-failed.*7000215.*trying again in 60 s")
    planned = [0]
    while len(planned) < 3 or planned[-1] - planned[-2] < 170:
        status = daemon.wait(lambda s: seconds(credential(s)["refresh_at"]) > planned[-1] + 5)
        planned.append(seconds(credential(status)["refresh_at"]))
    assert 9 <= simulator.counts("token_requests") <= 12 and planned[-2] - planned[1] <= 600, planned
    os.rename(daemon.secret_file, daemon.secret_file + ".away")
    assert daemon.ctl("reload").returncode == 0                 # a person has changed something: tried at once
    daemon.wait_line("event=token-failed.*failure=secret-file")
    os.rename(daemon.secret_file + ".away", daemon.secret_file)
    waits = []

    def told():
        waits[:] = [int(wait) for wait in re.findall(r"event=token-failed.*7000215.*trying again in (\d+) s", "\n".join(daemon.lines))]
        return len(waits) == 2
    daemon.wait_changed(told, 30, "second refusal")
    assert waits[0] == 60 < waits[1]


def test_token_ends_in_the_middle_of_a_message(simulator, daemon):
    """exchange-online 5.3: the connection closes in a literal; ordinary, and the message comes whole in the next session"""
    simulator.mailbox(ADDRESS)
    simulator.post("/token", life_s=6)
    uid = simulator.add(ADDRESS, [{"seed": 1, "size": 60000}])[0]
    simulator.fault("close-mid-literal", ADDRESS, uids=[uid], after=56000, at_expiry=True, count=1)
    daemon.config([ADDRESS])
    daemon.start()
    daemon.wait_delivered(ADDRESS, 1)
    assert daemon.wait_line("session ended: .*signing in again") and not daemon.has_line("failure=")
    assert Maildir(daemon.maildir(ADDRESS)).sums() == {simulator.sums(ADDRESS)[str(uid)]: 1}


def test_renewal_that_brings_the_same_end(fast):
    """exchange-online 2.4: some endpoints keep tokens and give the old one again; asked for at leisure, not without pause"""
    simulator, daemon = fast
    simulator.mailbox(ADDRESS)
    simulator.post("/token", life_s=40, same_end=True)
    daemon.config([ADDRESS])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(FAST)})
    simulator.wait("token_requests", 2, timeout_s=40)
    simulator.wait("logins", 3, ADDRESS, timeout_s=80)
    assert simulator.counts("token_requests") <= 12 and simulator.state(ADDRESS)["refused"] == 0
    assert not daemon.has_line("failure=")


def test_renewal_that_comes_late(simulator, make_daemon):
    """Those whose moment to sign in anew has passed when the newer token comes do not all come back with it: each draws another moment"""
    addresses = ["box%02d@contoso.example" % i for i in range(40)]
    for address in addresses:
        simulator.mailbox(address)
    simulator.post("/token", life_s=1200, refresh_in=60, script=[None, {"status": 503, "retry_after": 300}])
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config(addresses, admission={"starting_at_once": 8})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "60"})
    simulator.wait("logins", 80, timeout_s=60)
    second = [i for i, line in enumerate(daemon.lines) if "event=token-refreshed" in line][1]
    assert any("event=token-failed" in line for line in daemon.lines[:second])
    refreshed = seconds(daemon.lines[second][:19] + "Z")
    signed_in = [seconds(line[:19] + "Z") - refreshed for line in daemon.lines[second:] if "session: asking capabilities again -> between commands" in line]
    assert sum(at <= 10 for at in signed_in) <= 4 and len(signed_in) >= 36, sorted(signed_in)
    assert all(simulator.state(address)["refused"] == 0 for address in addresses)


def test_token_ends_while_the_next_session_waits_for_its_turn(fast):
    """It is shown as waiting, no longer as watching; paused then, it is paused at once"""
    simulator, daemon = fast
    other = "other@contoso.example"
    for address in (ADDRESS, other):
        simulator.mailbox(address)
    simulator.post("/token", life_s=30)
    daemon.config([ADDRESS], admission={"starting_at_once": 1})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(FAST)})
    simulator.wait("idling", 1)
    simulator.fault("hang-authenticate", other)
    daemon.config([ADDRESS, other], admission={"starting_at_once": 1})
    assert daemon.ctl("reload").returncode == 0
    simulator.wait("fault-hang-authenticate", 1)            # it has the only place for a minute
    daemon.wait_line("mailbox=%s .*session ended: .*signing in again" % ADDRESS)
    daemon.wait_state(ADDRESS, "queued", timeout=4)
    assert daemon.ctl("pause", ADDRESS).returncode == 0
    daemon.wait_state(ADDRESS, "paused", timeout=4)
    assert simulator.counts("fault-hang-authenticate") == simulator.state(ADDRESS)["logins"] == 1
