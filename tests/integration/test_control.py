"""The control socket, mailpollctl, reload, stop, exit codes, notifications: how an operator meets it."""
import contextlib
import json
import os
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest

from lib.daemon import BUILD, UnixConnection
from lib.gate import Gate
from lib.maildir import Maildir

A, B = "a@contoso.example", "b@contoso.example"
STATES = "queued waiting-token connecting authenticating syncing watching sleeping held backing-off paused".split()


def mailpolld(daemon, *args, **env):
    return subprocess.run([os.path.join(BUILD, "mailpolld"), "-c", daemon.file, *args], capture_output=True, text=True, timeout=30,
                          env={**os.environ, **env})


def start(simulator, daemon, addresses=(A, B), **more):
    for address in addresses:
        simulator.mailbox(address)
    daemon.config(list(addresses), **more)
    daemon.start()


def test_status_has_what_was_promised(simulator, daemon):
    start(simulator, daemon)
    simulator.add(A, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(A, 1)
    status = daemon.wait(lambda s: s["totals"].get("watching") == 2)
    assert status["schema"] == 1 and status["health"] == "ok" and status["reasons"] == []
    assert set(status) >= {"schema", "version", "started_at", "config", "health", "reasons", "totals", "mailboxes", "credentials", "sinks", "store"}
    assert set(status["totals"]) <= set(STATES) | {"delivered", "failing", "mailboxes"}
    mailbox = status["mailboxes"][0]
    assert set(mailbox) >= {"address", "id", "state", "since", "error", "hint", "retry_at", "failures", "folders"}
    folder = mailbox["folders"][0]
    assert set(folder) >= {"folder", "delivered", "owed", "after_owed", "backlog", "quarantined", "oldest_owed_at", "last_success", "last_delivery"}
    assert folder["delivered"] == 1 and folder["last_delivery"].endswith("Z")
    assert set(status["credentials"][0]) >= {"name", "state", "expires_at", "refresh_at", "error", "hint"}
    assert set(status["store"]) >= {"last_commit", "spool_bytes"}
    assert "mailboxes" not in daemon.status("?summary=1")
    assert daemon.status("?failing=1")["mailboxes"] == []
    assert len(daemon.status("?address=%s" % A)["mailboxes"]) == 2       # there is /mailboxes/ADDRESS for one
    assert daemon.request("GET", "/nothing")[0] == 404
    assert daemon.request("GET", "/reload")[0] == 405
    assert daemon.request("POST", "/mailboxes/nobody@contoso.example/poll")[0] == 404
    assert daemon.request("POST", "/mailboxes/%s/poll" % ("*" * 321))[0] == 404
    assert daemon.request("POST", "/mailboxes/*/poll")[1] == {"ok": True, "mailboxes": 2, "paused": 0}
    assert os.stat(daemon.socket).st_mode & 0o777 == 0o660


def test_reload_keeps_what_did_not_change(simulator, daemon):
    start(simulator, daemon)
    simulator.mailbox("c@contoso.example")
    daemon.wait(lambda s: s["totals"].get("watching") == 2)
    daemon.config([A, "c@contoso.example"])
    outcome = daemon.ctl("reload")
    assert outcome.returncode == 0, outcome.stderr
    daemon.wait_state("c@contoso.example", "watching")
    assert [m["address"] for m in daemon.status()["mailboxes"]] == [A, "c@contoso.example"]
    assert simulator.state(A)["logins"] == 1 and simulator.state(B)["sessions"] == 0
    assert daemon.wait_line("event=reloaded")
    simulator.add(A, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(A, 1)


def test_reload_with_errors_keeps_the_old(simulator, daemon):
    start(simulator, daemon)
    daemon.wait(lambda s: s["totals"].get("watching") == 2)
    with open(daemon.file, "a") as f:
        f.write("\nnonsense: [")
    since = time.monotonic()
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_line("event=reload-failed")
    status = daemon.status()
    assert "mailpolld.yaml:" in status["config"]["error"] and status["totals"]["watching"] == 2
    daemon.wait_notified("RELOADING=1", since=since)
    daemon.wait_notified("READY=1", since=since)
    assert daemon.ctl("reload").returncode != 0
    daemon.config([A, B])
    assert daemon.ctl("reload").returncode == 0
    assert daemon.status()["config"]["error"] is None and simulator.state(A)["logins"] == 1


def test_changed_mailbox_starts_anew(simulator, daemon):
    start(simulator, daemon, [A])
    daemon.wait_state(A, "watching")
    daemon.config([A], {"after": "seen"})
    assert daemon.ctl("reload").returncode == 0
    simulator.wait("logins", 2, A)
    simulator.add(A, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(A, 1)
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    assert simulator.folder(A)["messages"] == {"1": ["\\Seen"]}


def test_exit_codes(simulator, daemon):
    daemon.config([A])
    assert mailpolld(daemon, "check").returncode == 0
    assert mailpolld(daemon, "--nonsense").returncode == 64
    assert mailpolld(daemon, "dance").returncode == 64
    os.unlink(daemon.secret_file)
    warned = mailpolld(daemon, "check")
    assert warned.returncode == 0 and "secret" in warned.stderr
    assert mailpolld(daemon, "check", "--strict").returncode == 78
    with open(daemon.file, "w") as f:
        f.write("state_dir: [\n")
    assert mailpolld(daemon, "check").returncode == 78
    assert mailpolld(daemon).returncode == 78
    assert mailpolld(daemon, "--version").stdout.startswith("mailpolld ")


def test_second_daemon_is_refused(simulator, daemon):
    start(simulator, daemon, [A])
    second = mailpolld(daemon)
    assert second.returncode == 71 and "another mailpolld" in second.stderr
    assert daemon.status()["schema"] == 1


def test_state_that_cannot_be_used(simulator, daemon):
    """Damaged: refused, never replaced."""
    daemon.config([A])
    path = os.path.join(daemon.state_dir, "state.db")
    with open(path, "wb") as f:
        f.write(b"this is no database" * 1000)
    refused = mailpolld(daemon)
    assert refused.returncode == 71 and path in refused.stderr
    with open(path, "rb") as f:
        assert f.read().startswith(b"this is no database")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_stop_is_quick_and_safe(simulator, daemon, how):
    """In the middle of a batch: what is in flight ends well, nothing twice."""
    simulator.mailbox(A)
    simulator.add(A, [{"seed": i, "size": 20000} for i in range(300)])
    simulator.fault("drip", bytes_per_second=3000000)
    daemon.config([A])
    daemon.start()
    simulator.wait("bodies", 60)
    started = time.monotonic()
    daemon.process.send_signal(how)
    assert daemon.finish(10) == 0
    assert time.monotonic() - started < 10
    assert any(line == "STOPPING=1" for _, line in daemon.notified)
    daemon.start()
    daemon.wait_delivered(A, 300)
    assert len(Maildir(daemon.maildir(A))) == 300 and set(Maildir(daemon.maildir(A)).digests().values()) == {1}


@pytest.mark.parametrize("command", ["SELECT", "UID SEARCH", "UID FETCH", "IDLE"])
def test_stop_in_a_command(simulator, daemon, command):
    simulator.mailbox(A)
    simulator.add(A, [{"seed": 1, "size": 1500}])
    simulator.fault("hang", A, command=command)
    daemon.config([A])
    daemon.start()
    simulator.wait("fault-hang", 1)
    assert daemon.stop(10) == 0


def test_asked_during_a_stop(simulator, daemon):
    """Its mailboxes stop, and have not been taken out of the configuration: nobody is told so, and their state is nobody's to forget"""
    simulator.mailbox(A)
    simulator.mailbox(B)
    simulator.add(A, [{"seed": 1, "size": 1500}])
    simulator.add(B, [{"seed": 2, "size": 1500}])
    taken, go = (os.path.join(daemon.directory, name) for name in ("taken", "go"))
    wait = "cat > /dev/null; touch %s; while [ ! -e %s ]; do sleep 0.05; done" % (taken, go)
    daemon.config([A, {"address": B, "deliver": {"command": ["/bin/sh", "-c", wait]}}])
    daemon.start()
    daemon.wait_delivered(A, 1)
    daemon.wait(lambda s: os.path.exists(taken))
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_line("signal 15: stopping")
    told = daemon.ctl("forget", A)
    assert told.returncode == 75 and "mailpolld is stopping." in told.stderr, told
    verbs = ["/forget/" + B, *("/mailboxes/%s/%s" % about for about in ((A, "poll"), (A, "pause"), ("*", "resume"), (A, "resync?since=2026-01-31")))]
    for method, path in (*(("POST", verb) for verb in verbs), ("GET", "/mailboxes/" + A), ("GET", "/mailboxes/%s/trace" % A)):    # a stop takes 9 s
        code, body = daemon.request(method, path)
        assert code == 503 and "mailpolld is stopping." in json.dumps(body), (path, code, body)
    assert daemon.finish(15) == 0           # the command is given up, so the time for the next STATUS= has come several times
    assert not [line for _, line in daemon.notified if line.startswith("STATUS=0 mailboxes")]
    open(go, "w", encoding="utf-8").close()
    daemon.start()
    daemon.wait_total(2)
    assert simulator.folder(A)["fetched"]["1"] == 1


def test_notifications(simulator, daemon):
    began = time.monotonic()
    start(simulator, daemon)
    daemon.wait_notified("STATUS=2 mailboxes: 2 watching, 0 failing; token contoso fresh")
    times = [at for at, line in daemon.notified if line.startswith("STATUS=")]
    assert len(times) <= times[-1] - began + 2			# at most once a second


def test_watchdog(simulator, daemon):
    simulator.mailbox(A)
    daemon.config([A])
    daemon.start(env={"WATCHDOG_USEC": "1000000"})
    daemon.wait_notified("WATCHDOG=1", since=time.monotonic())


def test_health_when_all_that_are_not_paused_fail(simulator, daemon):
    simulator.mailbox(A)
    simulator.mailbox(B)
    simulator.fault("no-permission", A)
    daemon.config([A, B])
    daemon.start()
    daemon.wait(lambda s: s["totals"]["watching"] == s["totals"]["backing-off"] == 1 and s["health"] == "ok")
    assert daemon.ctl("pause", B).returncode == 0
    status = daemon.wait(lambda s: s["totals"]["paused"] == 1)
    assert status["health"] == "down" and "1 of 2 mailboxes fail" in status["reasons"][0]["hint"]
    assert daemon.ctl("pause", A).returncode == 0 and daemon.status("?summary=1")["health"] == "ok"


def test_pause_outlives_a_restart(simulator, daemon):
    simulator.mailbox(A)
    simulator.add(A, [{"seed": i, "size": 1500} for i in range(2)])
    simulator.mailbox(B)
    daemon.config([A, B])
    daemon.start()
    daemon.wait_delivered(A, 2)
    simulator.fault("answer", A, command="UID SEARCH", line="{tag} NO Not now.")
    simulator.add(A, [{"seed": 3, "size": 1500}])
    daemon.wait(lambda s: s["totals"]["failing"] == 1 and s["mailboxes"][0]["failing_since"])
    assert daemon.ctl("pause", A).stdout == "%s is paused until it is resumed\n" % A
    mailbox = daemon.wait_state(A, "paused")["mailboxes"][0]            # a person knows of it
    assert daemon.status()["totals"]["failing"] == 0 and mailbox["failing_since"] is None and mailbox["failures"] == 0
    daemon.stop()
    simulator.clear(A)
    logins = simulator.state(A)["logins"]
    daemon.start()
    daemon.wait_state(B, "watching")
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["delivered"] == 2)         # its numbers are there all the same
    assert daemon.of(A)["state"] == "paused" and simulator.state(A)["logins"] == logins
    assert daemon.ctl("resume", A).returncode == 0
    daemon.wait_state(A, "watching")
    daemon.kill9()
    daemon.start()
    daemon.wait_state(A, "watching")


@pytest.mark.parametrize("who,n", [(A, 1), ("*@contoso.example", 2)])
def test_pause_is_done_when_it_is_on_disk(simulator, daemon, tmp_path, who, n):
    """It begins at once; but who is told that it is done, or undone, may rely on it over a crash"""
    gate = Gate(tmp_path / "gate", daemon.state_dir)
    for address in (A, B):
        simulator.mailbox(address)
    daemon.config([A, B])
    daemon.start(env=gate.env)
    daemon.wait(lambda s: s["totals"]["watching"] == 2)
    for verb, paused in (("pause", n), ("resume", 0)):
        gate.shut()
        asked = UnixConnection(daemon.socket, 30)
        asked.request("POST", "/mailboxes/%s/%s" % (who, verb))
        gate.wait_stalled()
        daemon.wait(lambda s: s["totals"]["paused"] == paused)
        daemon.status("?summary=1")             # what was answered before this has gone out
        assert select.select([asked.sock], [], [], 0)[0] == []
        gate.open()
        answer = asked.getresponse()
        told = json.loads(answer.read())
        asked.close()
        assert answer.status == 200 and told["ok"] and int(told["paused"]) == paused
    daemon.wait(lambda s: s["totals"]["watching"] == 2)


def test_forget(simulator, daemon):
    simulator.mailbox(A)
    simulator.mailbox(B)
    simulator.add(A, [{"seed": 1, "size": 1500}])
    daemon.config([A, B])
    daemon.start()
    daemon.wait_delivered(A, 1)
    refused = daemon.ctl("forget", A)
    assert refused.returncode == 1 and "is in the configuration, or on its way out of it: take it out and reload first" in refused.stderr
    daemon.config([B])
    assert daemon.ctl("reload").returncode == 0
    while (done := daemon.ctl("forget", A)).returncode == 1 and "on its way out" in done.stderr:
        pass
    assert done.returncode == 0 and "its state is removed" in done.stdout
    unknown = daemon.ctl("forget", A)
    assert unknown.returncode == 67 and "knows no mailbox with this id" in unknown.stderr
    daemon.config([A, B])                   # a first contact again
    assert daemon.ctl("reload").returncode == 0
    daemon.wait_delivered(A, 1)
    assert simulator.folder(A)["fetched"]["1"] == 2


def test_backup(simulator, daemon, tmp_path):
    simulator.mailbox(A)
    simulator.add(A, [{"seed": i, "size": 1500} for i in range(3)])
    daemon.config([A])
    daemon.start()
    daemon.wait_delivered(A, 3)
    copy = tmp_path / "copy.db"
    assert daemon.ctl("backup", str(copy)).returncode == 0
    again = daemon.ctl("backup", str(copy))
    assert again.returncode == 1 and "must not be there yet" in again.stderr
    with sqlite3.connect(copy) as db:
        assert db.execute("SELECT count(*) FROM record").fetchone() == (3,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert simulator.state(A)["logins"] == 1
    simulator.add(A, [{"seed": 7, "size": 1500}])
    daemon.wait_delivered(A, 4)
    daemon.stop()
    for name in ("state.db-wal", "state.db-shm"):           # back to the copy, as mailpollctl(8) says
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(daemon.state_dir, name))
    shutil.copy(copy, os.path.join(daemon.state_dir, "state.db"))
    daemon.start()
    simulator.wait("idling", 1)
    daemon.wait_delivered(A, 4)
    assert simulator.counts("bodies") == 5          # and the file that is still there is the same one
    assert sorted(Maildir(daemon.maildir(A)).sums().values()) == [1, 1, 1, 1]


def test_log_level(simulator, daemon):
    simulator.mailbox(A)
    daemon.config([A], top={"log_level": "warning"})
    daemon.start()
    daemon.wait_state(A, "watching")
    assert not daemon.has_line("level=debug")
    wrong = daemon.ctl("log-level", "loud")
    assert wrong.returncode == 64 and "must be error, warning, info or debug" in wrong.stderr
    assert daemon.ctl("log-level", "debug").returncode == 0
    daemon.poll(A)
    daemon.wait_line("level=debug .*mailbox=%s" % A)


def audited(path):
    with open(path, encoding="utf-8") as f:
        return [line for line in f if "event=delivered" in line]


def test_audit_off(simulator, daemon):
    """Then no line tells of a message; the counts do"""
    simulator.mailbox(A)
    simulator.add(A, [{"seed": i, "size": 1500} for i in range(3)])
    daemon.config([A], top={"audit": "off"})
    daemon.start()
    daemon.wait_delivered(A, 3)
    assert daemon.stop() == 0 and daemon.has_line("event=stopped") and not daemon.has_line("event=delivered")


@pytest.mark.parametrize("mended", [True, False])
def test_audit_on_a_disk_that_hangs(simulator, daemon, tmp_path, mended):
    """Its lines wait, and a stop does not wait for it; what the disk still takes then is written"""
    simulator.mailbox(A)
    (tmp_path / "audits").mkdir()
    gate, log = Gate(tmp_path / "gate", tmp_path / "audits"), tmp_path / "audits" / "audit.log"
    daemon.config([A], top={"audit": str(log)})
    daemon.start(env={**gate.env, "STALL_WRITES": "1"})
    gate.shut()
    for n in (1, 2):
        simulator.add(A, [{"seed": n, "size": 1500}])
        daemon.wait_delivered(A, n)
        gate.wait_stalled()             # with the first line
    daemon.process.send_signal(signal.SIGTERM)
    if mended:
        gate.open()
    assert daemon.finish(10) == 0
    assert len(audited(log)) == (2 if mended else 0)


def test_audit_file(simulator, daemon, tmp_path):
    """One line per message; a reload, also one that is refused, opens it anew for logrotate"""
    log, rotated = tmp_path / "audit.log", tmp_path / "audit.log.1"
    simulator.mailbox(A)
    simulator.add(A, [{"seed": i, "size": 1500} for i in range(20)])
    daemon.config([A], top={"audit": str(log), "log_level": "error"})
    daemon.prefix = ["sh", "-c", 'umask 077; exec "$@"', "sh"]          # as in the unit
    daemon.start()
    daemon.wait_delivered(A, 20)
    daemon.stop()
    lines = audited(log)
    assert len(lines) == 20 and os.stat(log).st_mode & 0o777 == 0o640
    for word in ("mailbox=%s" % A, "folder=INBOX", "sink=maildir", "uid=20", "size=", "key=a@contoso.example%2FINBOX%2F14%2F20", "digest=", "duration_ms="):
        assert word in lines[19], word
    assert not daemon.has_line("event=delivered")

    daemon.start()
    daemon.wait_state(A, "watching")
    os.rename(log, rotated)
    with open(daemon.file, "a") as f:
        f.write("nonsense")
    assert daemon.ctl("reload").returncode == 1
    simulator.add(A, [{"seed": 50, "size": 1500}])
    daemon.wait_delivered(A, 21)
    daemon.stop()
    assert len(audited(rotated)) == 20 and len(audited(log)) == 1


def test_paused_while_it_waits_for_a_token(simulator, make_daemon):
    """Nothing is expected of it any more: the watchdog's limit for a sign-in, five minutes, does not end the pause"""
    for address in (A, "b@contoso.example"):
        simulator.mailbox(address)
    simulator.post("/token", hang=True)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([A, "b@contoso.example"])

    def paused():
        return [line for line in daemon.lines if re.search('mailbox=%s .* -> paused"' % A, line)]
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "30"})
    pauses = []
    while not pauses or "waiting-token -> paused" not in pauses[-1]:        # a busy machine may come late: it waits for a second at a time
        assert daemon.ctl("resume", A).returncode == 0
        daemon.wait_state(A, "waiting-token")
        assert daemon.request("POST", "/mailboxes/%s/pause" % A)[0] == 200
        n = len(pauses)
        daemon.wait_changed(lambda: len(paused()) > n, 30, "pause")
        pauses = paused()
    failed = daemon.status()["credentials"][0]["failures"]
    daemon.wait(lambda s: s["credentials"][0]["failures"] >= failed + 10, timeout=150)      # each takes 30 s, and a wait that grows: beyond five minutes
    assert daemon.of(A)["state"] == "paused" and not daemon.has_line("failure=stuck")
