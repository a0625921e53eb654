#!/usr/bin/python3
"""Runs inside the box of unit_box.sh, beside the real unit: what an operator of systemd relies on. Prints a line for each thing that is so."""
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, "/opt/integration")
from lib.box import UNIT, ok, run, show, wait  # noqa: E402
from lib.daemon import UnixConnection   # noqa: E402
from lib.gate import Gate               # noqa: E402
from lib.maildir import Maildir, key_digest     # noqa: E402
from lib.simulator import Simulator     # noqa: E402

M, OTHER, REFUSED, HELD, SLOW = ("%s@contoso.example" % name for name in ("support", "other", "refused", "held", "slow"))
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
mailboxes:
  - support@contoso.example
  - other@contoso.example
  - {address: refused@contoso.example, deliver: {command: [/usr/local/bin/refuse]}}
  - {address: held@contoso.example, deliver: {maildir: /srv/mail/file/maildir}}
  - {address: slow@contoso.example, deliver: {command: [/usr/local/bin/slow], timeout: 10m}}
"""
FILE = "/etc/mailpolld/mailpolld.yaml"
SLOWLY = """#!/bin/sh
# hangs the first time, whoever asks it to end
[ -e /srv/mail/begun ] || { trap '' TERM; : > /srv/mail/begun; sleep 60; }
cat > /srv/mail/taken
"""
DROP_IN = """[Service]
LoadCredential=contoso:/etc/mailpolld/secrets/contoso
RestartSec=200ms
WatchdogSec=10s
"""
# LeakSanitizer, in a build with sanitizers, needs ptrace, which the unit forbids; every other test looks for leaks.
SANITIZER = "detect_leaks=0:verify_asan_link_order=0"
RATE = 10                               # of the test build's clock
BURST = 100                             # of lines; the journal's own is a hundred times that


# --- tools ---

def drop_in(name, text):
    os.makedirs("/run/systemd/system/%s.d" % UNIT, exist_ok=True)
    write("/run/systemd/system/%s.d/%s.conf" % (UNIT, name), text)
    run("systemctl", "daemon-reload")


def write(path, text, mode=0o644):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(path, mode)


def maildir(address=M):
    local, domain = address.split("@")
    return Maildir("/srv/mail/%s/%s" % (domain, local))


def delivered_all(simulator, but=()):
    """Every message of M is in its Maildir once; but: files that a reader has taken."""
    sums = maildir().sums()
    sums.update(but)
    return sums == {digest: 1 for digest in simulator.sums(M).values()}


def add(simulator, n, first, address=M, size=1500):
    simulator.add(address, [{"seed": first + i, "size": size} for i in range(n)])


def as_user(user, *command):
    return run("setpriv", "--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid), "--init-groups", *command, check=False).returncode == 0


def status(address=None):
    answer = json.loads(run("mailpollctl", "status", "--json", *([address] if address else [])).stdout)
    return answer["mailboxes"][0] if address else answer


def event_ids():
    with open("/opt/log.c", encoding="utf-8") as f:
        return dict(re.findall(r'\[EVENT_\w+\] = \{ "([a-z-]+)", "([0-9a-f]{32})" \}', f.read()))


def journal(*matches):
    run("journalctl", "--sync")
    return [json.loads(line) for line in run("journalctl", "-u", UNIT, *matches, "-o", "json", "--all").stdout.splitlines()]


# --- the scene ---

def prepare():
    os.makedirs("/run/systemd/journald.conf.d")
    write("/run/systemd/journald.conf.d/test.conf", "[Journal]\nRateLimitBurst=%d\n" % BURST)
    run("systemctl", "restart", "systemd-journald")
    run("systemd-sysusers")
    run("groupadd", "tickets")
    run("useradd", "-G", "tickets", "reader"), run("useradd", "stranger"), run("useradd", "-G", "mailpolld", "operator")
    run("systemd-tmpfiles", "--create", "mailpolld.conf")
    os.makedirs("/var/sim")
    os.chmod("/var/sim", 0o755)
    simulator = Simulator("/var/sim")
    for address in (M, OTHER, REFUSED, HELD, SLOW):
        simulator.mailbox(address)
    write(FILE, CONFIG % simulator.__dict__)
    write("/etc/mailpolld/secrets/contoso", simulator.secret + "\n", 0o600)
    write("/usr/local/bin/refuse", "#!/bin/sh\necho no invoice in it >&2\nexit 65\n", 0o755)
    write("/usr/local/bin/slow", SLOWLY, 0o755)
    write("/srv/mail/file", "")
    gate = Gate("/var/sim/gate", "/", "/opt/stall.so")
    drop_in("test", DROP_IN + "".join('Environment="%s=%s"\n' % pair for pair in {**gate.env, "ASAN_OPTIONS": SANITIZER}.items()))
    return simulator, gate


# --- the doctor ---

def doctor(code, *args):
    done = run("mailpolld", "doctor", "--json", *args, check=False)
    steps = json.loads(done.stdout)["steps"]
    assert done.returncode == code, "doctor: %d, %s" % (done.returncode, [s for s in steps if s["result"] != "ok"])
    return {s["step"]: s for s in steps}


def test_doctor_before_the_first_start():
    """It knows what systemd will make of the daemon: a state directory, a credential from the unit, places that the unit closes."""
    os.rmdir("/var/lib/mailpolld")
    steps = doctor(0, M)
    assert steps["state_dir"]["text"].endswith("systemd makes it at the first start")
    assert steps["secret"]["text"].startswith("/etc/mailpolld/secrets/contoso, ")
    assert steps["control_socket"]["text"] == "/run/mailpolld/control: systemd makes its directory", steps["control_socket"]
    with open(FILE, encoding="utf-8") as f:
        good = f.read()
    os.mkdir("/run/other")
    shutil.chown("/run/other", "mailpolld")
    for directory, text in (("/run/other", "mailpolld.service does not name it"), ("/run/mailpolld/sub", "No such file or directory")):
        write(FILE, "control_socket: %s/control\n%s" % (directory, good))
        failed = doctor(1, M)["control_socket"]
        assert failed["text"].startswith(directory + ": ") and text in failed["text"] and "RuntimeDirectory=" in failed["hint"], failed
    for directory, text, hint in (("/data/new mail", "mailpolld.service does not name it", "ReadWritePaths="),
                                  ("/home/mail", "ProtectHome= of mailpolld.service hides it", "Use another place"),
                                  ("/tmp/mail", "PrivateTmp= of mailpolld.service hides it", "Use another place")):
        write(FILE, good.replace("/srv/mail/%{domain}/%{local}", directory + "/%{local}"))
        sink = doctor(1, M)["sink"]
        assert text in sink["text"] and hint in sink["hint"], sink
        if sink["commands"]:
            run("sh", "-ec", sink["commands"])
            doctor(0, M)
            assert "/data/new mail" in show("RequiresMountsFor") and "/data/new mail" in show("ReadWritePaths")
            os.unlink("/etc/systemd/system/mailpolld.service.d/mail.conf")
            run("systemctl", "daemon-reload")
    os.makedirs("/data/disk/mail")
    run("mount", "-t", "tmpfs", "none", "/data/disk")
    shutil.chown("/data/disk", "mailpolld")
    write(FILE, good.replace("/srv/mail/%{domain}/%{local}", "/data/disk/%{local}"))
    drop_in("disk", "[Service]\nReadWritePaths=/data/disk\n")
    run("mkdir", "/data/disk/" + M.split("@")[0])
    shutil.chown("/data/disk/" + M.split("@")[0], "mailpolld")
    sink = doctor(0, M)["sink"]
    assert sink["result"] == "ok" and "RequiresMountsFor=" in sink["hint"], sink
    drop_in("disk", "[Unit]\nRequiresMountsFor=/data/disk\n[Service]\nReadWritePaths=/data/disk\n")
    assert doctor(0, M)["sink"]["hint"] is None
    os.unlink("/run/systemd/system/%s.d/disk.conf" % UNIT)
    run("systemctl", "daemon-reload")
    run("umount", "/data/disk")
    write("/home/secret", "x\n", 0o640)
    shutil.chown("/home/secret", group="mailpolld")
    write(FILE, good.replace("credential:contoso", "/home/secret"))
    secret = doctor(1, M)["secret"]
    assert "ProtectHome= of mailpolld.service hides it" in secret["text"], secret
    write(FILE, good.replace("credential:contoso", "credential:other"))
    secret = doctor(1, M)["secret"]
    assert "LoadCredential=other:FILE" in secret["hint"] and secret["commands"] is None, secret
    write(FILE, good)
    assert "good" in run("mailpolld", "check").stdout       # it names neither state_dir nor control_socket
    assert not as_user("stranger", "mailpolld", "doctor", M)
    ok("the doctor, before the first start")


def test_doctor_of_several_places():
    """What it prints is pasted as a whole: each directory is in the unit then, and it is restarted once, at the end"""
    with open(FILE, encoding="utf-8") as f:
        good = f.read()
    mailboxes = "".join("  - {address: %s, deliver: {maildir: /data%d/mail/m}}\n" % (address, i) for i, address in enumerate((M, OTHER, REFUSED, SLOW)))
    write(FILE, good.split("mailboxes:")[0] + "mailboxes:\n" + mailboxes)
    shown = run("mailpolld", "doctor", check=False).stdout
    pasted = [line.strip() for line in shown.splitlines() if re.match(r"\s+(mkdir|install|printf|systemctl) ", line)]
    assert sum(line.startswith("printf ") for line in pasted) == 4, shown
    assert [line for line in pasted if line.startswith("systemctl ")] == pasted[-2:], shown
    run("sh", "-ec", "\n".join(pasted))
    doctor(0)
    os.unlink("/etc/systemd/system/mailpolld.service.d/mail.conf")
    run("systemctl", "daemon-reload")
    write(FILE, good)
    ok("the doctor, of several places")


# --- the unit ---

def test_unit_file():
    done = run("systemd-analyze", "--recursive-errors=no", "--man=%s" % ("yes" if shutil.which("man") else "no"), "verify",
               "/etc/systemd/system/" + UNIT, check=False)
    assert done.returncode == 0 and done.stdout + done.stderr == "", done.stdout + done.stderr
    ok("systemd-analyze verify has nothing to say")
    assert show("StartLimitIntervalUSec") == "0" and show("TimeoutStartUSec") == "infinity"
    assert show("ExecReload").split("path=")[1].startswith("/usr/local/bin/mailpollctl ")


def test_ready_is_true(simulator, gate):
    """Its state cannot be opened yet: so it is not ready, though it runs"""
    add(simulator, 3, 0)
    gate.shut()
    starting = subprocess.Popen(["systemctl", "start", UNIT])
    gate.wait_stalled()
    assert show("ActiveState") == "activating" and starting.poll() is None
    assert run("mailpollctl", "status", check=False).returncode == 69
    gate.open()
    assert starting.wait(30) == 0 and show("ActiveState") == "active" and show("SubState") == "running"
    ok("it is ready when it is, not before")


def test_delivers(simulator):
    wait("three messages are delivered", lambda: len(maildir()) == 3)
    pid = int(show("MainPID"))
    user = pwd.getpwnam("mailpolld")
    assert os.stat("/proc/%d" % pid).st_uid == user.pw_uid != 0 and os.stat("/proc/%d" % pid).st_gid == user.pw_gid
    wait("StatusText tells the truth", lambda: re.match(r"5 mailboxes: 4 watching, 1 failing; token contoso fresh for 6\d min; 3 delivered$",
                                                         show("StatusText")))
    done = run("systemd-analyze", "security", "--no-pager", "--threshold=12", UNIT, check=False)
    print("exposure of the running unit:", re.search(r"exposure level.*: (\d.\d)", done.stdout).group(1), flush=True)
    assert done.returncode == 0


def test_group(simulator):
    """Gives the digest of what a reader took."""
    path = next(maildir().files("new"))
    assert os.stat(path).st_mode & 0o777 == 0o660
    for user in ("stranger", "operator"):
        assert not as_user(user, "cat", path) and not as_user(user, "rm", "-f", path)
    with open(path, "rb") as f:
        taken = hashlib.sha256(f.read()).hexdigest()
    moved = path.replace("/new/", "/cur/") + ":2,S"
    assert as_user("reader", "cat", path) and as_user("reader", "mv", path, moved) and as_user("reader", "rm", moved)
    ok("a reader of the group reads, moves and deletes; another user cannot")
    assert as_user("operator", "mailpollctl", "status") and not as_user("stranger", "mailpollctl", "status")
    ok("mailpollctl for members of the unit's group")
    doctor(0, M, OTHER)
    ok("the doctor, as root beside the running unit")
    return [taken]


def test_reload(simulator):
    connections, pid = simulator.counts("connections"), show("MainPID")
    run("systemctl", "reload", UNIT)
    assert simulator.counts("connections") == connections and show("MainPID") == pid and show("ActiveState") == "active"
    ok("a reload keeps the sessions")
    with open(FILE, encoding="utf-8") as f:
        good = f.read()
    simulator.mailbox("new@contoso.example")
    write(FILE, good + "  - new@contoso.example\n  - {address: worse@contoso.example, wtach: poll}\n")
    done = run("systemctl", "reload", UNIT, check=False)
    assert done.returncode != 0 and "failed" in done.stderr
    assert show("ActiveState") == "active" and show("MainPID") == pid and simulator.counts("connections") == connections
    assert len(status()["mailboxes"]) == 5
    told = [(e.get("_COMM", e.get("SYSLOG_IDENTIFIER")), e["MESSAGE"]) for e in journal() if "mailpolld.yaml:" in e["MESSAGE"] and "wtach" in e["MESSAGE"]]
    assert {command for command, _ in told} == {"mailpolld", "mailpollctl"} and all(re.search(r"mailpolld\.yaml:\d+:\d+: .*watch", text) for _, text in told), told
    assert "wtach" in run("systemctl", "status", "--no-pager", "-n", "30", UNIT, check=False).stdout
    ok("a reload with errors fails, says so and changes nothing")
    write(FILE, good)
    run("systemctl", "reload", UNIT)
    assert simulator.counts("connections") == connections


def test_journal(simulator):
    """Each kind of event that one mailbox can have, found by the mailbox"""
    def other_is(state):
        wait("%s is %s" % (OTHER, state), lambda: status(OTHER)["state"] == state)

    def look():
        run("mailpollctl", "poll", OTHER)

    simulator.fault("auth-refused", OTHER), simulator.post("/drop", address=OTHER)
    other_is("backing-off")
    look()
    wait("its refusal is told", lambda: journal("MAILBOX=" + OTHER, "MESSAGE_ID=" + event_ids()["sign-in-failed"]))
    simulator.clear(OTHER), look()
    other_is("watching")
    for kind, more in (("throttle", {"ms": 100000}), ("unavailable", {})):
        simulator.fault(kind, OTHER, command="UID SEARCH", count=1, **more), look()
        other_is("backing-off")
        look()
        other_is("watching")
    add(simulator, 1, 0, OTHER), add(simulator, 1, 0, REFUSED), add(simulator, 1, 0, HELD)
    wait("it has its message", lambda: len(maildir(OTHER)) == 1)
    simulator.post("/folder", address=OTHER, folder="INBOX", uidvalidity=15), simulator.post("/drop", address=OTHER), look()
    ids = event_ids()
    expected = {M: ["delivered"], REFUSED: ["quarantined"], HELD: ["held"],
                OTHER: ["mailbox-stalled", "sign-in-failed", "sign-in-recovered", "throttled", "mailbox-recovered", "uidvalidity-changed", "delivered"]}
    for address, events in expected.items():
        for event in events:
            wait("%s of %s" % (event, address), lambda: journal("MAILBOX=" + address, "MESSAGE_ID=" + ids[event]))
    audit = journal("MAILBOX=" + M, "MESSAGE_ID=" + ids["delivered"])
    assert {e["UID"] for e in audit} == {"1", "2", "3"} and len(audit) == 3
    for field, value in (("FOLDER", "INBOX"), ("SINK", "maildir"), ("SIZE", "1500"), ("SYSLOG_IDENTIFIER", "mailpolld"), ("PRIORITY", "6")):
        assert audit[0][field] == value, audit[0]
    for e in audit:
        assert e["KEY"] == "%s%%2FINBOX%%2F14%%2F%s" % (M, e["UID"]) and e["DIGEST"] == key_digest(M, "INBOX", 14, int(e["UID"])), e
        assert re.fullmatch("[0-9]+", e["DURATION_MS"]), e
    assert set(maildir().digests()) <= {e["DIGEST"] for e in audit}      # the files' names have them; a reader has taken one
    failed = journal("MAILBOX=" + OTHER, "MESSAGE_ID=" + ids["sign-in-failed"])[0]
    assert failed["CREDENTIAL"] == "contoso" and failed["FAILURE"] and "New-ServicePrincipal" in failed["HINT"] and failed["PRIORITY"] == "3"
    assert journal("CREDENTIAL=contoso", "MESSAGE_ID=" + ids["token-refreshed"])
    for event in ("started", "reloaded", "reload-failed"):
        assert journal("MESSAGE_ID=" + ids[event]), event
    assert all(e["_SYSTEMD_UNIT"] == UNIT for e in journal("MAILBOX=" + M))
    ok("fields in the journal")


def test_group_of_the_unit(simulator):
    """Where mail can have a group only as the daemon's: the doctor's hint is true, and it sees what becomes of it"""
    with open(FILE, encoding="utf-8") as f:
        good = f.read()
    own = good.replace("credential:contoso", "secrets/own")
    write("/etc/mailpolld/secrets/own", simulator.secret + "\n", 0o640)
    shutil.chown("/etc/mailpolld/secrets/own", group="mailpolld")
    os.makedirs("/srv/mail/plain")
    run("mount", "-t", "ramfs", "none", "/srv/mail/plain")
    shutil.chown("/srv/mail/plain", "mailpolld")
    write(FILE, own.replace("/srv/mail/%{domain}", "/srv/mail/plain").replace("min_free: 1M", "min_free: 1K"))
    hint = doctor(1, M)["group"]["hint"]
    assert "Group=tickets and SupplementaryGroups=mailpolld" in hint, hint
    drop_in("groups", "[Service]\nGroup=tickets\n")
    steps = doctor(1, M)
    assert "group" not in steps and steps["sink"]["text"].endswith("min_free is 1.0 KiB"), steps
    secret = steps["secret"]
    assert secret["result"] == "failed" and "SupplementaryGroups=mailpolld" in secret["hint"] and secret["commands"] is None, secret
    drop_in("groups", "[Service]\nGroup=tickets\nSupplementaryGroups=operators mailpolld\n")
    assert "names group operators, which there is not" in doctor(1, M)["user"]["text"]
    drop_in("groups", "[Service]\nGroup=tickets\nSupplementaryGroups=mailpolld\n")
    assert as_user("mailpolld", "mailpolld", "doctor", M) is False      # who has not all its groups
    steps = doctor(1, M)
    assert "group" not in steps and steps["secret"]["result"] == "ok", steps
    run("umount", "/srv/mail/plain")
    write(FILE, own)
    doctor(0, M, OTHER)
    ok("the doctor knows the unit's groups")
    before = set(maildir().files())
    run("systemctl", "restart", UNIT)
    add(simulator, 1, 200)
    wait("it reads its secret and delivers", lambda: len(maildir()) == len(before) + 1)
    path = (set(maildir().files()) - before).pop()
    assert os.stat(path).st_gid == grp.getgrnam("tickets").gr_gid and as_user("reader", "cat", path)
    assert as_user("reader", "mailpollctl", "status") and not as_user("operator", "mailpollctl", "status")
    os.unlink("/run/systemd/system/%s.d/groups.conf" % UNIT)
    run("systemctl", "daemon-reload")
    write(FILE, good)
    run("systemctl", "restart", UNIT)
    wait("all watch", lambda: status()["totals"].get("watching") == 4)
    assert as_user("operator", "mailpollctl", "status")


def test_burst():
    """Of other units the journal takes BURST lines in half a minute, some more where there is room; of this one all of them"""
    for _ in range(10 * BURST):
        connection = UnixConnection("/run/mailpolld/control", 20)
        connection.request("POST", "/log-level?level=info")
        assert connection.getresponse().status == 200
        connection.close()
    matches = ("MESSAGE_ID=" + event_ids()["verb"], "VERB=log-level")
    wait("a burst of lines is in the journal", lambda: len(journal(*matches)) == 10 * BURST)
    assert {(e["PEER_UID"], e["PEER_PID"], e["ABOUT"]) for e in journal(*matches)} == {("0", str(os.getpid()), "info")}


def test_watchdog(simulator, taken):
    restarts = int(show("NRestarts"))
    run("systemctl", "kill", "-s", "STOP", UNIT)
    add(simulator, 2, 10)
    wait("the watchdog restarts what stands still", lambda: int(show("NRestarts")) == restarts + 1, 40)
    wait("nothing is lost or doubled", lambda: delivered_all(simulator, taken), 40)
    assert any("Watchdog timeout" in e["MESSAGE"] for e in journal())
    wait("the next run tells it", lambda: len(journal("MESSAGE_ID=" + event_ids()["watchdog"])) == 1)


def test_backup():
    """Where the daemon may write; and it is told when what it wrote is out of sight"""
    run("mailpollctl", "backup", "/var/lib/mailpolld/copy.db")
    assert os.path.getsize("/var/lib/mailpolld/copy.db") > 4096
    done = run("mailpollctl", "backup", "/tmp/copy.db", check=False)
    assert done.returncode == 73 and "not to be seen from here" in done.stderr and not os.path.exists("/tmp/copy.db")
    ok("a backup, and one into the unit's own /tmp")


def test_no_start_limit(simulator, taken):
    """Oftener than the service manager's own limit (5 in 10 s) would let it"""
    for n in range(7):
        before = int(show("NRestarts"))
        os.kill(int(show("MainPID")), signal.SIGKILL)
        wait("it is back, time %d" % (n + 1), lambda: int(show("NRestarts")) == before + 1 and show("ActiveState") == "active")
    add(simulator, 1, 20)
    wait("nothing is lost or doubled", lambda: delivered_all(simulator, taken))


def test_stop(simulator, taken):
    """With a message coming slowly, others on their way to the disk, and a command that does not want to end"""
    wait("all watch", lambda: status()["totals"].get("watching") == 4)
    add(simulator, 1, 0, SLOW)
    wait("the command hangs", lambda: os.path.exists("/srv/mail/begun"))
    bodies = simulator.counts("bodies")
    simulator.fault("drip", M, bytes_per_second=100000)
    add(simulator, 30, 30, size=30000)
    simulator.wait("bodies", bodies + 3)
    started = time.monotonic()
    run("systemctl", "stop", UNIT)
    assert time.monotonic() - started < 10 and show("Result") == "success" and show("ExecMainStatus") == "0", time.monotonic() - started
    assert not delivered_all(simulator, taken) and not os.path.exists("/srv/mail/taken")
    ok("stopped within %.1f s" % (time.monotonic() - started))
    simulator.clear(M)
    run("systemctl", "start", UNIT)
    wait("nothing is lost or doubled", lambda: delivered_all(simulator, taken))
    wait("the command has its message", lambda: os.path.exists("/srv/mail/taken"))


def test_stalled_disk(simulator, gate, taken):
    """In the test build's fast time: a disk that hangs for 60 s is told, one that hangs for 180 s ends in a restart"""
    drop_in("fast", '[Service]\nExecStart=\nExecStart=/usr/local/sbin/mailpolld-scaled\nWatchdogSec=5s\nEnvironment=MAILPOLLD_CLOCK_RATE=%d\n' % RATE)
    run("systemctl", "restart", UNIT)
    wait("all watch", lambda: status()["totals"].get("watching") == 4)
    assert show("NRestarts") == "0"
    before = time.monotonic()
    gate.shut()
    add(simulator, 2, 70)
    gate.wait_stalled()
    stalled = time.monotonic()
    wait("health is down", lambda: status()["health"] == "down")
    assert time.monotonic() - before >= 20 / RATE and [r["what"] for r in status()["reasons"] if r["what"] == "disk"]
    wait("it hangs for 60 s", lambda: time.monotonic() - stalled > 60 / RATE + 0.2)        # more than WatchdogSec= of real time
    assert show("NRestarts") == "0" and show("ActiveState") == "active"
    wait("the watchdog restarts it", lambda: show("NRestarts") == "1", 40)
    assert time.monotonic() - before >= 180 / RATE
    gate.open()
    wait("nothing is lost or doubled", lambda: delivered_all(simulator, taken), 40)
    assert any("ping is withheld" in e["MESSAGE"] for e in journal("MESSAGE_ID=" + event_ids()["watchdog-withheld"]))
    os.unlink("/run/systemd/system/%s.d/fast.conf" % UNIT)
    run("systemctl", "daemon-reload")


def test_wrong_configuration():
    run("systemctl", "stop", UNIT)
    with open(FILE, "a", encoding="utf-8") as f:
        f.write("nonsense: 1\n")
    run("systemctl", "start", UNIT, check=False)
    wait("a wrong configuration is not started again", lambda: show("ActiveState") == "failed" and show("ExecMainStatus") == "78")
    wait("why is in the journal", lambda: any("nonsense" in e["MESSAGE"] for e in journal("MESSAGE_ID=" + event_ids()["start-failed"])))
    assert show("NRestarts") == "0"
    assert any(re.search(r"mailpolld\.yaml:\d+:\d+: .*nonsense", e["MESSAGE"]) for e in journal())


def main():
    simulator, gate = prepare()
    test_unit_file()
    test_doctor_before_the_first_start()
    test_doctor_of_several_places()
    test_ready_is_true(simulator, gate)
    test_delivers(simulator)
    taken = test_group(simulator)
    test_reload(simulator)
    test_journal(simulator)
    test_group_of_the_unit(simulator)
    test_burst()
    test_backup()
    test_watchdog(simulator, taken)
    test_no_start_limit(simulator, taken)
    test_stop(simulator, taken)
    test_stalled_disk(simulator, gate, taken)
    test_wrong_configuration()
    simulator.stop()
    ok("all")


main()
