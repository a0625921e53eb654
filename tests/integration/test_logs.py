"""What an operator reads in the log: each event with its name and the fields that mailpolld(8) promises, once, and hourly when it lasts."""
import datetime
import json
import os
import re
import shutil
import signal
import subprocess

import pytest

from lib.daemon import BUILD
from lib.ports import free_port

A, B = "a@contoso.example", "b@contoso.example"
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def fields(line):
    """Of a key=value line."""
    return {k: re.sub(r"\\(.)", r"\1", v[1:-1]) if v.startswith('"') else v
            for k, v in re.findall(r'(?:^| )([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ ]*)', line)}


def events(daemon, name):
    return [fields(line) for line in daemon.lines if " event=%s " % name in line]


def promised():
    """Event: its fields, as the manual has them."""
    with open(os.path.join(ROOT, "man", "mailpolld.8")) as f:
        text = f.read()
    log = text[text.index(".Sh LOG"):text.index(".Sh FAILURES")]
    return {name: set(names.lower().split(" , ")) if names else set()
            for name, names in re.findall(r"^\.It Li ([a-z-]+)\n(?:.*\n)+?\.Li [0-9a-f]{32}\n(?:\.br\n\.Li ([A-Z_ ,]+)\n)?", log, re.M)}


def script(daemon, text):
    path = os.path.join(daemon.directory, "take")
    with open(path, "w") as f:
        f.write("#!/bin/sh\n" + text)
    os.chmod(path, 0o755)
    return path


def test_each_event_has_its_fields(simulator, daemon):
    simulator.mailbox(A)
    simulator.mailbox(B)
    open(os.path.join(daemon.directory, "broken"), "w").close()
    take = script(daemon, 'cat >/dev/null; [ "$MAILPOLLD_UID" = 2 ] && exit 65; [ ! -e %s/broken ] || exit 75\n' % daemon.directory)
    daemon.config([A, {"address": B, "deliver": {"command": [take]}}])
    simulator.fault("no-permission", A, count=1)
    simulator.add(B, [{"seed": i, "size": 1500} for i in range(2)])
    daemon.start()
    daemon.wait_line("event=sign-in-failed mailbox=%s" % A)
    daemon.poll(A)
    daemon.wait_line("event=sign-in-recovered mailbox=%s" % A)
    daemon.wait_line("event=held mailbox=%s" % B)
    os.unlink(os.path.join(daemon.directory, "broken"))
    daemon.poll(B)
    daemon.wait_line("event=mailbox-recovered mailbox=%s .*sink=command .*the sink takes messages again after" % B)
    daemon.wait_line("event=quarantined mailbox=%s" % B)
    simulator.add(A, [{"seed": 5, "size": 1500}])
    daemon.wait_line("event=delivered mailbox=%s" % A)
    simulator.fault("answer", A, line="* BYE Connection closed. 14", close=True, command="UID SEARCH", count=1)
    daemon.poll(A)
    daemon.wait_line("event=mailbox-stalled mailbox=%s" % A)
    daemon.poll(A)
    daemon.wait_line("event=mailbox-recovered mailbox=%s" % A)
    simulator.fault("throttle", A, ms=1000, command="UID SEARCH", count=1)
    daemon.poll(A)
    daemon.wait_line("event=throttled mailbox=%s" % A)
    simulator.fault("fetch-empty", A, uids=[2])
    simulator.add(A, [{"seed": 6, "size": 1500}])
    daemon.wait_line("event=owed mailbox=%s" % A)
    assert daemon.ctl("reload").returncode == 0
    with open(daemon.file, "a") as f:
        f.write("nonsense")
    assert daemon.ctl("reload").returncode == 1
    daemon.config([A, B])
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_changed(lambda: len(events(daemon, "reloaded")) == 2, 20, "a second reload")
    daemon.write_secret("wrong")
    daemon.stop()
    told, known = [fields(line) for line in daemon.lines if " event=" in line], promised()
    seen = {t["event"] for t in told}
    assert seen >= {"started", "stopped", "sign-in-failed", "sign-in-recovered", "held", "quarantined", "delivered", "mailbox-stalled",
                    "mailbox-recovered", "throttled", "owed", "reloaded", "reload-failed", "token-refreshed", "verb"}, seen
    for t in told:
        assert set(t) - {"level", "event", "msg"} <= known[t["event"]], t
    for event in seen:
        optional = {"repeated", "hint", "about", "mailbox", "folder", "sink"}
        for t in (t for t in told if t["event"] == event):
            assert known[event] - optional <= set(t), t
    verbs = events(daemon, "verb")
    assert [v["verb"] for v in verbs if v["verb"] == "reload"] == ["reload"] * 2 and {v["peer_uid"] for v in verbs} == {str(os.getuid())}
    audit = next(t for t in events(daemon, "delivered") if t["mailbox"] == A)
    assert audit["uid"] == "1" and audit["folder"] == "INBOX" and audit["sink"] == "maildir" and audit["size"] == "1500"
    assert audit["key"] == "a@contoso.example%2FINBOX%2F14%2F1" and re.fullmatch("[0-9a-f]{24}", audit["digest"]) and int(audit["duration_ms"]) >= 0
    assert len(events(daemon, "held")) == 1 and len(events(daemon, "sign-in-failed")) == 1


def test_events_of_what_breaks_around_it(simulator, daemon):
    """Sink, audit, port and server; each with what mailpolld(8) promises, and its end told too"""
    simulator.mailbox(A)
    simulator.post("/options", without=["IDLE", "UIDPLUS"])
    simulator.add(A, [{"seed": i, "size": 1500} for i in range(12)])
    take = script(daemon, 'cat >/dev/null; [ -e %s/mended ] || exit 65\n' % daemon.directory)
    audit = os.path.join(daemon.directory, "audits", "audit.log")
    daemon.config([{"address": A, "deliver": {"command": [take]}, "after": "delete"}], top={"audit": audit, "mailbox_files": ["none-*.yaml"]})
    daemon.start()
    daemon.wait_line("event=config-doubtful .*none-")
    daemon.wait_line("event=sink-failing mailbox=%s .*sink=command" % A)
    open(os.path.join(daemon.directory, "mended"), "w").close()
    daemon.poll(A)
    daemon.wait_line("event=audit-failed failure=audit hint=.*audits/audit.log: No such file")
    daemon.wait_line("event=server-lacks mailbox=%s .*no UIDPLUS" % A)
    daemon.wait_line("event=server-lacks mailbox=%s .*no IDLE: looking every" % A)
    os.mkdir(os.path.dirname(audit))
    daemon.wait_line("event=audit-recovered")
    known = promised()
    for t in (fields(line) for line in daemon.lines if " event=" in line):
        assert set(t) - {"level", "event", "msg"} <= known[t["event"]], t
    with open(audit) as f:
        taken, refused = [fields(line)["key"] for line in f], [t["key"] for t in events(daemon, "quarantined")]
    assert len(refused) == 5 and len(set(taken + refused)) == len(taken + refused) == 12


def test_alerts(simulator, daemon):
    """RFC 3501 7.1: shown to a person, whatever they are told with; each text once, and not more than four of them"""
    simulator.mailbox(A)
    texts = ["Mailbox is 95 % full", "caf\xe9 \x1b[31m " + "x" * 1000] + ["another, number %d" % i for i in range(4)]
    simulator.fault("answer", A, command="SELECT", line="\n".join("* %s [ALERT] %s" % ("NO" if i % 2 else "OK", text) for i, text in enumerate(texts)) +
                    "\n{tag} NO [ALERT] Mailbox is 95 % full", count=2)
    daemon.config([A])
    daemon.start()
    daemon.wait_line("event=sign-in-failed")
    daemon.poll(A)
    simulator.wait("fault-answer", 2)
    daemon.wait_state(A, "backing-off")
    daemon.poll(A)
    daemon.wait_state(A, "watching")
    told = events(daemon, "server-alert")
    assert [t["msg"] for t in told][:1] + [t["msg"] for t in told][2:] == ["the server says: " + t for t in (texts[0], *texts[2:4])]
    assert len(told[1]["msg"]) < 220 and told[1]["msg"].startswith("the server says: caf? ?[31m xxx")
    assert all(t["level"] == "warning" and t["mailbox"] == A and set(t) - {"level", "event", "msg"} <= promised()["server-alert"] for t in told)


def test_who_asked(simulator, daemon):
    """Each verb that changes something, and trace, with the user and the process of who wants it, and what it is about"""
    other = {"user": 65534, "group": os.getgid(), "extra_groups": []} if os.getuid() == 0 else {}       # than the daemon's user
    os.chmod(daemon.socket_dir, 0o755)
    ctl, copy = shutil.copy(os.path.join(BUILD, "mailpollctl"), daemon.socket_dir), os.path.join(daemon.socket_dir, "copy.db")
    simulator.mailbox(A)
    simulator.add(A, [{"seed": i, "size": 1500} for i in range(2)])
    daemon.config([{"address": A, "deliver": {"command": [script(daemon, "cat >/dev/null; exit 65\n")]}}])
    daemon.start()
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["quarantined"] == 2)
    first, second = (m["key"] for m in json.loads(daemon.ctl("quarantine", "list", "--json").stdout)["messages"])
    for verb, args, mailbox, about in (
            ("poll", [A], A, None), ("pause", [A], A, None), ("pause", ["*"], None, "*"), ("resume", [A], A, None), ("trace", [A], A, None),
            ("resync", [A, "--since", "2026-01-31"], A, "2026-01-31"), ("quarantine retry", [first], None, first), ("quarantine drop", [second], None, second),
            ("log-level", ["debug"], None, "debug"), ("backup", [copy], None, copy), ("reload", [], None, None), ("forget", [B], None, B)):
        asker = subprocess.Popen([ctl, "-s", daemon.socket, *verb.split(), *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **other)
        daemon.wait_changed(lambda: any(t["peer_pid"] == str(asker.pid) for t in events(daemon, "verb")), 20, "%s by %d" % (verb, asker.pid))
        told = next(t for t in events(daemon, "verb") if t["peer_pid"] == str(asker.pid))
        assert (told["verb"], told["peer_uid"], told.get("mailbox"), told.get("about")) == (verb, str(other.get("user", os.getuid())), mailbox, about), told
        if verb == "trace":
            asker.terminate()
        asker.communicate(timeout=20)


def test_what_lasts_is_told_hourly(simulator, make_daemon):
    """A server that is gone: at once, then each hour with how often it came. 300 times too fast."""
    daemon = make_daemon("daemon", "mailpolld-scaled")
    simulator.mailbox(A)
    daemon.config([{"address": A, "port": free_port()}], top={"log_level": "info"})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "300"})
    daemon.wait_changed(lambda: len([t for t in events(daemon, "sign-in-failed") if int(t.get("repeated", 0)) > 0]) >= 2, 60, "second hour")
    lines = [line for line in daemon.lines if "event=sign-in-failed" in line]
    at = [datetime.datetime.fromisoformat(line.split()[0].rstrip("Z")).timestamp() for line in lines]
    told = events(daemon, "sign-in-failed")
    assert {t["failure"] for t in told} == {"connect"} and "repeated" not in told[0]
    assert all(b - a >= 3599 for a, b in zip(at, at[1:]))
    assert all(int(t["repeated"]) >= 10 and "the same %s times" % t["repeated"] in t["msg"] for t in told[1:])
    assert not any("same failure" in line for line in daemon.lines)


def test_all_that_lasts_is_told_hourly(simulator, make_daemon):
    """A token, a folder, a sink and `after`, each with its end, if that is told. A session that ends meanwhile, of the haste, is no matter."""
    daemon = make_daemon("daemon", "mailpolld-scaled")
    token, folder, sink, after = ("%s@contoso.example" % name for name in ("token", "folder", "sink", "after"))
    for address in (token, folder, sink, after):
        simulator.mailbox(address)
        simulator.add(address, [{"seed": 1, "size": 1500}])
    simulator.fault("store-no", after)
    take = script(daemon, "cat >/dev/null; [ -e %s/mended ] || exit 75\n" % daemon.directory)
    daemon.config([{"address": token, "credential": "second"}, {"address": folder, "folders": ["INBOX", "Invoices"]},
                   {"address": sink, "deliver": {"command": [take]}}, {"address": after, "after": "seen"}], top={"log_level": "info"})
    with open(daemon.file) as f:
        conf = json.load(f)
    conf["credentials"]["second"] = {**conf["credentials"]["contoso"], "client_secret_file": daemon.directory + "/second"}
    with open(daemon.file, "w") as f:
        json.dump(conf, f)
    kinds = [("token-failed", "credential=second failure=secret-file"), ("mailbox-stalled", "mailbox=%s folder=Invoices .*failure=folder-refused" % folder),
             ("held", "mailbox=%s .*sink=command .*failure=command" % sink), ("after-refused", "mailbox=%s folder=INBOX failure=refused" % after)]

    def told(event, about):
        return [line for line in daemon.lines if re.search("event=%s %s " % (event, about), line)]

    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "900"})
    daemon.wait_changed(lambda: all(len(told(*kind)) >= 2 for kind in kinds), 60, "second hour")
    for event, about in kinds:
        lines = [line for line in daemon.lines if re.search("event=%s %s" % (event, about.rpartition(" ")[0]), line)]       # other failures, too
        at = [datetime.datetime.fromisoformat(line.split()[0].rstrip("Z")).timestamp() for line in lines]
        again = [(b - a, fields(line)) for a, b, before, line in zip(at, at[1:], lines, lines[1:]) if fields(before)["failure"] == fields(line)["failure"]]
        assert again and all(passed >= 3599 for passed, _ in again) and "repeated" not in fields(lines[0]), lines
        if event != "after-refused":
            assert all(int(t["repeated"]) > 0 and "the same %s times" % t["repeated"] in t["msg"] for _, t in again), lines
    simulator.clear(after)
    simulator.mailbox(folder, ["Invoices"])
    open(os.path.join(daemon.directory, "mended"), "w").close()
    shutil.copy(daemon.secret_file, daemon.directory + "/second")
    daemon.wait_line("event=token-refreshed credential=second .*the failure is over")
    daemon.wait_line("event=mailbox-recovered mailbox=%s folder=Invoices .*can be opened again" % folder)
    daemon.wait_line("event=mailbox-recovered mailbox=%s .*sink=command .*takes messages again after [0-9]+ failures" % sink)
    daemon.wait(lambda s: all(f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))
    assert simulator.folder(after)["messages"] == {"1": ["\\Seen"]}


def test_last_errors(simulator, daemon):
    """status ADDRESS has the last ones, also when they are over"""
    simulator.mailbox(A)
    simulator.fault("no-permission", A, count=2)
    daemon.config([A])
    daemon.start()
    daemon.wait_state(A, "backing-off")
    daemon.poll(A)
    daemon.wait(lambda s: s["mailboxes"][0]["failures"] == 2)
    daemon.poll(A)
    daemon.wait_state(A, "watching")
    simulator.fault("throttle", A, ms=1000, command="UID SEARCH", count=1)
    daemon.poll(A)
    daemon.wait_state(A, "backing-off")
    daemon.wait_state(A, "watching")
    code, whole = daemon.request("GET", "/mailboxes/" + A)
    mailbox = whole["mailboxes"][0]
    assert code == 200 and mailbox["error"] is None and mailbox["failure"] is None
    assert [(e["failure"], e["times"]) for e in mailbox["errors"]] == [("throttled", 1), ("no-access", 2)]
    assert "not connected" in mailbox["errors"][1]["error"] and mailbox["errors"][1]["first_at"] <= mailbox["errors"][1]["last_at"]
    text = daemon.ctl("status", A).stdout
    assert "no-access, 2 times" in text and "throttled" in text and "last errors" in text
    assert "errors" not in daemon.status()["mailboxes"][0]


@pytest.mark.skipif(not shutil.which("logrotate") or os.getuid() != 0, reason="logrotate is not installed, or not root")
def test_logrotate(simulator, daemon, tmp_path):
    """The example, with other paths and a plain kill: what came before and after it is in two files, whole"""
    logs = tmp_path / "log"
    logs.mkdir(mode=0o750)
    simulator.mailbox(A)
    simulator.add(A, [{"seed": i, "size": 1500} for i in range(5)])
    daemon.config([A], top={"audit": str(logs / "audit.log")})
    daemon.start()
    daemon.wait_delivered(A, 5)
    with open(os.path.join(ROOT, "conf", "mailpolld.logrotate")) as f:
        conf = f.read().replace("/var/log/mailpolld", str(logs)).replace("su mailpolld mailpolld", "su root root")
    conf, n = re.subn("(?m)^.*systemctl.*$", "kill -HUP %d" % daemon.process.pid, conf)
    assert n == 1
    (tmp_path / "conf").write_text(conf)
    done = subprocess.run(["logrotate", "-f", "-s", str(tmp_path / "state"), str(tmp_path / "conf")], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    daemon.wait_line("event=reloaded")
    simulator.add(A, [{"seed": 9, "size": 1500}])
    daemon.wait_delivered(A, 6)
    daemon.stop()
    assert [len((logs / name).read_text().splitlines()) for name in ("audit.log.1", "audit.log")] == [5, 1]
