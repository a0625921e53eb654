#!/usr/bin/python3
"""Runs inside the box of unit_box.sh, beside the real unit: what an operator of systemd relies on."""
import json
import os
import pwd
import subprocess
import sys
import time

sys.path.insert(0, "/opt/integration")
from lib.simulator import Simulator     # noqa: E402

M, OTHER = "support@contoso.example", "other@contoso.example"
CONFIG = """
metrics_listen: 127.0.0.1:9479
min_free: 1M
credentials:
  contoso:
    token_url: %(token_url)s
    scope: https://outlook.office365.com/.default
    client_id: %(client_id)s
    client_secret_file: credential:contoso
    ca_file: %(ca_file)s
    admission: {sessions_per_second: off}
defaults: {credential: contoso, host: localhost, port: %(imap_port)d, ca_file: %(ca_file)s,
           deliver: {maildir: "/srv/mail/%%{domain}/%%{local}", mode: 0660, group: tickets}}
mailboxes: [support@contoso.example, other@contoso.example]
"""


def run(*args, check=True, **more):
    done = subprocess.run(args, capture_output=True, text=True, errors="replace", **more)
    assert not check or done.returncode == 0, "%s: %s%s" % (" ".join(args), done.stdout, done.stderr)
    return done


def show(*properties):
    lines = run("systemctl", "show", os.environ["UNIT"], *("-p%s" % p for p in properties)).stdout.splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def wait(what, condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "%s: not within %d s: %s" % (what, seconds, run("mailpollctl", "status", check=False).stdout)
        time.sleep(0.05)                # the service manager has nothing else to wait on
    print("ok", what, flush=True)


def drop_in(text):
    os.makedirs("/run/systemd/system/%s.d" % os.environ["UNIT"], exist_ok=True)
    with open("/run/systemd/system/%s.d/test.conf" % os.environ["UNIT"], "w") as f:
        f.write("[Service]\n" + text)
    run("systemctl", "daemon-reload")


def new_mail():
    directory = "/srv/mail/contoso.example/support/new"
    return sorted(os.path.join(directory, n) for n in os.listdir(directory)) if os.path.isdir(directory) else []


def add(simulator, n, first):
    simulator.add(M, [{"seed": first + i, "size": 1500} for i in range(n)])


def as_user(user, *command):
    return run("setpriv", "--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid), "--init-groups", *command, check=False).returncode


def main():
    unit = os.environ["UNIT"]
    run("systemd-sysusers")
    run("groupadd", "tickets")
    run("useradd", "-G", "tickets", "reader"), run("useradd", "stranger"), run("useradd", "-G", "mailpolld", "operator")
    run("systemd-tmpfiles", "--create", "mailpolld.conf")
    os.makedirs("/var/sim")
    simulator = Simulator("/var/sim")
    for address in (M, OTHER):
        simulator.mailbox(address)
    with open("/etc/mailpolld/mailpolld.yaml", "w") as f:
        f.write(CONFIG % simulator.__dict__)
    with open("/etc/mailpolld/secrets/contoso", "w") as f:
        f.write(simulator.secret + "\n")
    os.chmod("/etc/mailpolld/secrets/contoso", 0o600)
    for directory, mode in (("/var/sim", 0o755),):
        os.chmod(directory, mode)
    # LeakSanitizer, in a build with sanitizers, needs ptrace, which the unit forbids; every other test looks for leaks.
    drop_in("LoadCredential=contoso:/etc/mailpolld/secrets/contoso\nWatchdogSec=3s\nRestartSec=200ms\nEnvironment=ASAN_OPTIONS=detect_leaks=0\n")
    add(simulator, 3, 0)

    run("systemctl", "start", unit)
    assert show("ActiveState")["ActiveState"] == "active"
    wait("three messages are delivered", lambda: len(new_mail()) == 3)
    pid = int(show("MainPID")["MainPID"])
    assert os.stat("/proc/%d" % pid).st_uid == pwd.getpwnam("mailpolld").pw_uid
    wait("StatusText tells the truth", lambda: show("StatusText")["StatusText"].startswith("2 mailboxes: 2 watching, 0 failing; token contoso fresh"))

    path = new_mail()[0]
    assert as_user("stranger", "cat", path) != 0 and as_user("reader", "cat", path) == 0
    moved = path.replace("/new/", "/cur/") + ":2,S"
    assert as_user("reader", "mv", path, moved) == 0 and as_user("reader", "rm", moved) == 0
    print("ok a reader of the group reads, moves and deletes; another user cannot", flush=True)
    assert as_user("operator", "mailpollctl", "status") == 0 and as_user("stranger", "mailpollctl", "status") != 0
    print("ok mailpollctl for members of the unit's group", flush=True)
    assert run("mailpolld", "doctor").returncode == 0
    print("ok the doctor, as root beside the running unit", flush=True)

    connections = simulator.counts("connections")
    run("systemctl", "reload", unit)
    assert simulator.counts("connections") == connections and int(show("MainPID")["MainPID"]) == pid
    print("ok a reload keeps the sessions", flush=True)

    run("journalctl", "--sync")
    entries = [json.loads(line) for line in run("journalctl", "-u", unit, "MAILBOX=" + M, "-o", "json").stdout.splitlines()]
    audit = [e for e in entries if e.get("MESSAGE_ID") == "49d26d29513b4a3b900f5239d84cfdbb"]
    assert len(audit) == 3 and {e["UID"] for e in audit} == {"1", "2", "3"} and audit[0]["FOLDER"] == "INBOX"
    print("ok fields in the journal", flush=True)

    run("systemctl", "kill", "-s", "STOP", unit)
    add(simulator, 2, 10)
    wait("the watchdog restarts it", lambda: show("NRestarts")["NRestarts"] == "1", 40)
    wait("nothing is lost", lambda: len(new_mail()) == 4, 40)
    run("journalctl", "--sync")
    assert "Watchdog timeout" in run("journalctl", "-u", unit).stdout

    started = time.monotonic()
    run("systemctl", "stop", unit)
    assert time.monotonic() - started < 10 and show("Result")["Result"] == "success"
    print("ok stopped", flush=True)

    with open("/etc/mailpolld/mailpolld.yaml", "a") as f:
        f.write("nonsense: 1\n")
    run("systemctl", "start", unit, check=False)
    wait("a wrong configuration is not started again", lambda: show("ActiveState", "ExecMainStatus") == {"ActiveState": "failed", "ExecMainStatus": "78"})
    assert show("NRestarts")["NRestarts"] == "0"
    simulator.stop()
    print("ok all", flush=True)


main()
