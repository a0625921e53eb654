"""A reload: all or nothing, whoever asks for it; who did not change keeps the session; who did loses no message."""
import collections
import json
import os
import signal
import subprocess
import time

import pytest

from lib.daemon import BUILD
from lib.gate import Gate
from lib.maildir import Maildir

A, B, C = "a@contoso.example", "b@contoso.example", "c@contoso.example"


def configuration(daemon, change=None):
    """The file as a dict, changed, written back."""
    with open(daemon.file, encoding="utf-8") as f:
        data = json.load(f)
    if change is not None:
        change(data)
        with open(daemon.file, "w", encoding="utf-8") as f:
            json.dump(data, f, indent=1)
    return data


def by_signal(daemon):
    """Whether it was good."""
    since = time.monotonic()
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_notified("RELOADING=1", since=since)
    daemon.wait_notified("READY=1", since=since)
    return daemon.status()["config"]["error"] is None


def by_mailpollctl(daemon):
    return daemon.ctl("reload").returncode == 0


HOW = pytest.mark.parametrize("reload", [by_signal, by_mailpollctl])


@pytest.fixture
def two(simulator, daemon):
    """Two credentials, a mailbox of each."""
    for address in (A, B, C):
        simulator.mailbox(address)
    daemon.config([A, {"address": B, "credential": "second"}])
    configuration(daemon, lambda data: data["credentials"].update(second=dict(data["credentials"]["contoso"])))
    daemon.start()
    daemon.wait(lambda s: s["totals"]["watching"] == 2)
    assert simulator.counts("connections") == 2 and simulator.counts("token_requests") == 2
    return daemon


@pytest.mark.parametrize("how", ["out and in again", "changed and polled"])
def test_one_of_an_id_at_a_time(simulator, daemon, how):
    """What has not stopped yet still hands over its message: who follows it waits; its state is nobody's to forget"""
    simulator.mailbox(A)
    take = os.path.join(daemon.directory, "take")
    with open(take, "w", encoding="utf-8") as f:
        f.write('#!/bin/sh\necho "$MAILPOLLD_UID" >> %s/taken\nwhile [ ! -e %s/go ]; do sleep 0.05; done\n' % (daemon.directory, daemon.directory))
    os.chmod(take, 0o755)
    box = {"address": A, "deliver": {"command": [take]}}
    daemon.config([box, B])
    simulator.mailbox(B)
    simulator.add(A, [{"seed": 1, "size": 1500}])
    daemon.start()
    daemon.wait(lambda s: os.path.exists(daemon.directory + "/taken") and s["totals"]["watching"] == 2)
    if how == "changed and polled":
        daemon.config([{**box, "interval": "7m"}, B])
        assert daemon.ctl("reload").returncode == 0
        daemon.poll(A)
    else:
        daemon.config([B])
        assert daemon.ctl("reload").returncode == 0
        refused = daemon.ctl("forget", A)
        assert refused.returncode == 1 and "on its way out" in refused.stderr
        daemon.config([box, B])
        assert daemon.ctl("reload").returncode == 0
    assert daemon.of(A)["state"] not in ("watching", "syncing") and simulator.state(A)["logins"] == 1
    open(daemon.directory + "/go", "w", encoding="utf-8").close()
    daemon.wait_delivered(A, 1)
    daemon.wait_state(A, "watching")
    with open(daemon.directory + "/taken", encoding="utf-8") as f:
        assert f.read() == "1\n"


def test_mailboxes_in_files_of_their_own(simulator, two):
    """`mailbox_files`: a file more is mailboxes more at the next reload, a file less is mailboxes less; relative to mailpolld.yaml"""
    more = os.path.join(os.path.dirname(two.file), "more")
    os.mkdir(more)
    configuration(two, lambda data: data.update(mailbox_files=["more/*.yaml"]))
    with open(os.path.join(more, "c.yaml"), "w", encoding="utf-8") as f:
        json.dump({"defaults": {"interval": "7m"}, "mailboxes": [C]}, f)
    assert two.ctl("reload").stdout == "reloaded: 1 mailboxes added, 0 removed, 0 changed, 2 unchanged\n"
    simulator.add(C, [{"seed": 1, "size": 1500}])
    two.wait_delivered(C, 1)
    assert two.stop() == 0
    two.start()
    two.wait(lambda s: s["totals"]["watching"] == 3)
    os.unlink(os.path.join(more, "c.yaml"))
    assert "0 mailboxes added, 1 removed, 0 changed, 2 unchanged" in two.ctl("reload").stdout


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_files_that_cannot_be_seen(simulator, daemon):
    """A directory of `mailbox_files` that is closed, as one made with umask 077 is, holds no mailboxes less than before"""
    more = os.path.join(os.path.dirname(daemon.file), "more")
    os.mkdir(more)
    with open(os.path.join(more, "c.yaml"), "w", encoding="utf-8") as f:
        json.dump([C], f)
    simulator.mailbox(A), simulator.mailbox(C)
    daemon.config([A], top={"mailbox_files": ["more/*.yaml"]})
    daemon.start_as_nobody()
    daemon.wait(lambda s: s["totals"]["watching"] == 2)
    os.chmod(more, 0o700)
    told = daemon.ctl("reload")
    assert told.returncode == 1 and "mailbox_files: %s cannot be read: Permission denied" % more in told.stderr, told
    assert daemon.status()["totals"]["watching"] == 2 and simulator.counts("connections") == 2
    os.chmod(more, 0o755)
    assert daemon.ctl("reload").stdout == "reloaded: 0 mailboxes added, 0 removed, 0 changed, 2 unchanged\n"


@HOW
def test_what_did_not_change_keeps_its_session(simulator, two, reload):
    """The order, the log, the gate, the sink of others: nothing that a session depends on"""
    def change(data):
        data["mailboxes"].reverse()
        data["mailboxes"].append({"address": C, "deliver": {"maildir": two.maildir(C)}})
        data["log_level"] = "info"
        data["credentials"]["contoso"]["admission"] = {"sessions_per_second": 7}
    configuration(two, change)
    assert reload(two)
    two.wait(lambda s: s["totals"]["watching"] == 3)
    assert simulator.counts("connections") == 3 and simulator.counts("token_requests") == 2
    assert [m["address"] for m in two.status()["mailboxes"]] == [B, A, C]
    simulator.add(A, [{"seed": 1, "size": 1500}])
    two.wait_delivered(A, 1)
    assert simulator.state(A)["logins"] == simulator.state(B)["logins"] == 1


@HOW
def test_all_or_nothing(simulator, two, reload):
    """Good changes beside bad ones: none of them is taken, each error is told with its place, and the next good file is taken whole"""
    def change(data):
        data["mailboxes"] = [B, C, {"address": "d@contoso.example", "interval": "45x"}, {"address": "e@contoso.example", "credential": "third"}]
        data["credentials"]["contoso"]["scope"] = "other/.default"
        data["audit"] = two.directory + "/audit.log"
    before = configuration(two)
    configuration(two, change)
    assert not reload(two)
    status = two.status()
    assert [m["address"] for m in status["mailboxes"]] == [A, B] and status["totals"]["watching"] == 2
    errors = status["config"]["error"].split("\n")
    assert len(errors) == 2 and all(e.startswith("%s:" % two.file) for e in errors), errors
    assert "mailboxes[2].interval" in errors[0] and "mailboxes[3].credential" in errors[1], errors
    for error in errors:
        two.wait_line("level=error event=reload-failed .*%s" % error.split(": ")[1].replace("[", r"\[").replace("]", r"\]"))
    told = two.ctl("reload")
    assert told.returncode == 1 and all(e in told.stderr for e in errors) and "running configuration stays" in told.stderr
    for fixed in ("state_dir", "control_socket"):
        configuration(two, lambda data: (data.clear(), data.update(before, **{fixed: two.directory + "/elsewhere"})))
        assert not reload(two) and "needs a restart" in two.status()["config"]["error"]
    assert simulator.counts("connections") == 2 and simulator.counts("token_requests") == 2
    assert not os.path.exists(two.directory + "/audit.log")
    configuration(two, lambda data: (data.clear(), data.update(before, mailboxes=[*before["mailboxes"], C])))
    assert reload(two) and two.status()["config"]["error"] is None
    two.wait(lambda s: s["totals"]["watching"] == 3)
    assert simulator.counts("connections") == 3


@HOW
def test_changed_credential(simulator, two, reload):
    """Fetched anew, by its own mailboxes alone"""
    path = two.directory + "/other-secret"
    with open(path, "w") as f:
        f.write(simulator.secret)
    os.chmod(path, 0o600)
    configuration(two, lambda data: data["credentials"]["second"].update(client_secret_file=path))
    assert reload(two)
    simulator.wait("logins", 2, B)
    two.wait(lambda s: s["totals"]["watching"] == 2)
    assert simulator.counts("token_requests") == 3 and simulator.state(A)["logins"] == 1 and simulator.counts("connections") == 3


def test_rotated_secret(simulator, daemon):
    """Needs no reload: read anew at each request for a token"""
    simulator.mailbox(A)
    simulator.post("/token", life_s=8)
    daemon.config([A])
    daemon.start()
    daemon.wait_state(A, "watching")
    simulator.post("/secret", secret="brand~new")
    daemon.write_secret("brand~new")
    requests, logins = simulator.counts("token_requests"), simulator.state(A)["logins"]
    simulator.wait("token_requests", requests + 2)
    simulator.wait("logins", logins + 1, A)
    assert not daemon.has_line("event=token-failed") and simulator.state(A)["refused"] == 0 and not daemon.has_line("event=reload")


def test_changed_in_the_middle_of_its_mail(simulator, daemon):
    """Messages on their way when their mailbox changes, twice: each arrives once, and the last `after` is done for all"""
    simulator.mailbox(A)
    simulator.add(A, [{"seed": i, "size": 20000} for i in range(200)])
    simulator.fault("drip", A, bytes_per_second=2000000)
    daemon.config([A])
    daemon.start()
    for n, after in ((30, "delete"), (80, "seen")):
        simulator.wait("bodies", n)
        daemon.config([A], {"after": after})
        assert daemon.ctl("reload").returncode == 0
    simulator.clear(A)
    daemon.wait(lambda s: sum(f["delivered"] for f in s["mailboxes"][0]["folders"]) >= 200 and s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    maildir = Maildir(daemon.maildir(A))
    assert len(maildir) == 200 and set(maildir.digests().values()) == {1} and maildir.tmp() == []


def test_asked_for_while_it_starts(simulator, daemon, tmp_path):
    """It has not come to its signals yet: the reload waits, and reads what the file says then"""
    for address in (A, B):
        simulator.mailbox(address)
    gate = Gate(tmp_path / "gate", daemon.state_dir)
    gate.shut()
    daemon.config([A])
    daemon.start(ready=False, env=gate.env)
    gate.wait_stalled()                     # it makes its state
    daemon.config([A, B])
    daemon.process.send_signal(signal.SIGHUP)
    gate.open()
    daemon.wait_line("event=reloaded .*1 mailboxes added, 0 removed, 0 changed, 1 unchanged")
    daemon.wait_notified("READY=1")
    daemon.wait(lambda s: s["totals"]["watching"] == 2)
    assert simulator.counts("connections") == 2


def test_many_at_once(simulator, two):
    """Each is answered, with what the file says then"""
    configuration(two, lambda data: data["mailboxes"].append(C))
    asked = [subprocess.Popen([os.path.join(BUILD, "mailpollctl"), "-s", two.socket, "reload"], stdout=subprocess.PIPE, text=True) for _ in range(8)]
    two.process.send_signal(signal.SIGHUP)
    told = collections.Counter(p.communicate(timeout=30)[0] for p in asked)
    assert [p.returncode for p in asked] == [0] * 8
    assert set(told) <= {"reloaded: 1 mailboxes added, 0 removed, 0 changed, 2 unchanged\n", "reloaded: 0 mailboxes added, 0 removed, 0 changed, 3 unchanged\n"}
    two.wait(lambda s: s["totals"]["watching"] == 3)
    assert simulator.counts("connections") == 3


def test_rotation_keeps_sessions(simulator, two):
    """As conf/mailpolld.logrotate does it: the audit goes on in a new file, with an error in the configuration as well"""
    audit = two.directory + "/audit.log"
    configuration(two, lambda data: data.update(audit=audit))
    assert by_signal(two)
    for n, good in enumerate((True, False), 1):
        simulator.add(A, [{"seed": n, "size": 1500}])
        two.wait_delivered(A, n)
        two.wait_changed(lambda: os.path.exists(audit), 20, "the audit")
        os.rename(audit, "%s.%d" % (audit, n))
        configuration(two, lambda data: data["defaults"].update(interval="9m" if good else "9"))
        assert by_signal(two) is good
    simulator.add(A, [{"seed": 3, "size": 1500}])
    two.wait_delivered(A, 3)
    two.wait_changed(lambda: os.path.exists(audit), 20, "the audit")
    two.stop()
    lines = [sum(1 for _ in open(path, encoding="utf-8")) for path in (audit + ".1", audit + ".2", audit)]
    assert lines == [1, 1, 1] and simulator.counts("logins") == 2
