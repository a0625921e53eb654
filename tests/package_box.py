#!/usr/bin/python3
"""Runs inside a bare box of unit_box.sh: the Debian package from its installation to its purge, under a real systemd.

/opt/old.deb is the package, /opt/new.deb the same with a higher version and other conffiles."""
import os
import subprocess
import sys

sys.path.insert(0, "/opt/integration")
from lib import box                     # noqa: E402
from lib.box import UNIT, show, wait    # noqa: E402
from lib.simulator import Simulator     # noqa: E402

M, REFUSED = "support@contoso.example", "refused@contoso.example"
CONFIG_FILE, SECRET_FILE, STATE = "/etc/mailpolld/mailpolld.yaml", "/etc/mailpolld/secrets/contoso", "/var/lib/mailpolld"
UNATTENDED = ("--force-confdef", "--force-confold")     # nobody is there to answer a question
AUDIT = "/var/log/mailpolld/audit.log"
NEW = "/srv/mail/%s/new" % M
CONFIG = """# the operator's own
state_dir: /var/lib/mailpolld
control_socket: /run/mailpolld/control
audit: /var/log/mailpolld/audit.log
min_free: 1M
credentials:
  contoso:
    token_url: %(token_url)s
    scope: https://outlook.office365.com/.default
    client_id: %(client_id)s
    client_secret_file: secrets/contoso
    ca_file: %(ca_file)s
defaults: {host: localhost, port: %(imap_port)d, ca_file: %(ca_file)s, deliver: {maildir: "/srv/mail/%%{address}"}}
mailboxes:
  - support@contoso.example
  - address: refused@contoso.example
    deliver: {command: [/bin/sh, -c, "cat > /dev/null; exit 65"]}
"""


def run(*args, check=True, **more):
    """What it printed."""
    done = box.run(*args, check=check, **more)
    return (done.stdout + done.stderr).strip()


def ok(what):
    assert run("systemctl", "--failed", "--no-legend", "--plain") == "", what
    box.ok(what)


def dpkg(*args):
    return run("dpkg", *UNATTENDED, *args, stdin=subprocess.DEVNULL)


def mode(path):
    return run("stat", "-c", "%U:%G %a", path)


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def new_mail():
    return set(os.listdir(NEW)) if os.path.isdir(NEW) else set()


def below(directory):
    """Every file with what must not change."""
    found = {}
    for path, _, names in os.walk(directory):
        for name in names:
            file = os.path.join(path, name)
            st = os.lstat(file)
            with open(file, "rb") as f:
                found[file] = (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, f.read())
    return found


def install():
    dpkg("-i", "/opt/old.deb")
    assert (show("ActiveState"), show("UnitFileState"), show("ActiveEnterTimestampMonotonic")) == ("inactive", "disabled", "0")
    complaints = run("dpkg", "--verify", "mailpolld") + run("dpkg", "--audit")
    assert complaints == "", complaints
    conffiles = {line.split()[0] for line in run("dpkg-query", "-W", "-f", "${Conffiles}", "mailpolld").splitlines()}
    assert conffiles == {CONFIG_FILE, "/etc/logrotate.d/mailpolld"}, conffiles
    assert mode(CONFIG_FILE) == "root:root 644" and mode("/etc/mailpolld/secrets") == "root:mailpolld 750"
    assert mode("/srv/mail") == "mailpolld:mailpolld 711"
    for path in ("/usr/sbin/mailpolld", "/usr/bin/mailpollctl", "/usr/share/bash-completion/completions/mailpollctl",
                 "/usr/share/mailpolld/prometheus-alerts.yml", "/usr/share/mailpolld/grafana-dashboard.json", "/usr/share/man/man8/mailpolld.8.gz",
                 "/usr/share/man/man8/mailpollctl.8.gz", "/usr/share/man/man5/mailpolld.yaml.5.gz", "/usr/share/man/man7/mailpolld-exchange-setup.7.gz"):
        assert run("dpkg", "-S", path) == "mailpolld: " + path
    assert run("mailpolld", "--version") == "mailpolld " + run("dpkg-query", "-W", "-f", "${Version}", "mailpolld")
    assert "secrets/contoso" in run("mailpolld", "check"), "the example is valid but for the missing secret"
    run("systemd-analyze", "--man=no", "--recursive-errors=no", "verify", UNIT)
    ok("installed, not started")


def configure_and_start(simulator):
    """The steps of README.md."""
    run("install", "-m", "640", "-g", "mailpolld", "/dev/stdin", SECRET_FILE, input=simulator.secret + "\n")
    with open(CONFIG_FILE, "w") as f:
        f.write(CONFIG % simulator.__dict__)
    assert "warning" not in run("mailpolld", "check")
    run("mailpolld", "doctor")
    simulator.add(M, [{"seed": i, "size": 1500} for i in range(3)])
    simulator.add(REFUSED, [{"seed": 10, "size": 1500}])
    run("systemctl", "enable", "--now", UNIT)
    wait("three messages are delivered", lambda: len(new_mail()) == 3)
    wait("one is in quarantine", lambda: len(os.listdir(STATE + "/quarantine")) == 2)


def reloads():
    return run("journalctl", "-u", UNIT, "-o", "cat").count("configuration reloaded")


def rotate(simulator):
    before, reloaded = len(new_mail()), reloads()
    wait("all are audited", lambda: os.path.exists(AUDIT) and len(read(AUDIT).splitlines()) == before)      # one that is empty is not rotated
    run("logrotate", "-f", "/etc/logrotate.d/mailpolld")
    assert os.path.exists(AUDIT + ".1")
    wait("the signal has been heard", lambda: reloads() > reloaded)         # until then it writes into the old file
    simulator.add(M, [{"seed": 20, "size": 1500}])
    wait("delivered after the audit log was rotated", lambda: len(new_mail()) == before + 1)
    wait("audited in the new file", lambda: os.path.exists(AUDIT) and len(read(AUDIT).splitlines()) == 1)
    assert mode(AUDIT).startswith("mailpolld:mailpolld ")


def upgrade(simulator):
    """A reader takes all mail first: what is delivered again would show."""
    kept = new_mail()
    for name in kept:
        os.unlink(os.path.join(NEW, name))
    pid, seed = show("MainPID"), 100
    upgrading = subprocess.Popen(["dpkg", *UNATTENDED, "-i", "/opt/new.deb"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    for _ in upgrading.stdout:          # mail goes on arriving, with each line it says
        simulator.add(M, [{"seed": seed, "size": 1500}])
        seed += 1
    assert upgrading.wait() == 0
    simulator.add(M, [{"seed": seed, "size": 1500}])
    wait("%d messages that came during the upgrade are delivered" % (seed - 99), lambda: len(new_mail()) >= seed - 99)
    assert len(new_mail()) == seed - 99 and not new_mail() & kept
    assert show("ActiveState") == "active" and show("MainPID") != pid and show("NRestarts") == "0" and show("UnitFileState") == "enabled"
    assert len(os.listdir(STATE + "/quarantine")) == 2
    assert run("dpkg-query", "-W", "-f", "${Version}", "mailpolld").endswith("+new")
    assert read(CONFIG_FILE) == CONFIG % simulator.__dict__ and "# new" in read(CONFIG_FILE + ".dpkg-dist")
    assert "# new" in read("/etc/logrotate.d/mailpolld") and mode(SECRET_FILE) == "root:mailpolld 640"
    ok("upgraded: restarted, state and configuration kept, nothing twice")

    run("systemctl", "stop", UNIT)
    dpkg("-i", "/opt/new.deb")
    assert (show("ActiveState"), show("UnitFileState")) == ("inactive", "enabled")
    ok("what was stopped stays so in an upgrade")


def remove(simulator):
    run("systemctl", "start", UNIT)
    pid, mail = show("MainPID"), below("/srv/mail")
    dpkg("-r", "mailpolld")
    assert not os.path.exists("/proc/" + pid) and not os.path.exists("/usr/sbin/mailpolld") and show("LoadState") == "not-found"
    assert read(CONFIG_FILE) == CONFIG % simulator.__dict__ and read(SECRET_FILE).strip() == simulator.secret
    assert os.path.getsize(STATE + "/state.db") > 0 and below("/srv/mail") == mail
    with open(AUDIT, "a") as f:
        f.write("not empty\n")
    run("logrotate", "-f", "/etc/logrotate.d/mailpolld")
    ok("removed: stopped; configuration, state and mail are there")

    dpkg("-i", "/opt/new.deb")
    assert (show("ActiveState"), show("UnitFileState")) == ("inactive", "enabled") and read(CONFIG_FILE) == CONFIG % simulator.__dict__
    n = len(new_mail())
    simulator.add(M, [{"seed": 30, "size": 1500}])
    run("systemctl", "start", UNIT)
    wait("installed again: goes on where it was", lambda: len(new_mail()) > n)
    assert len(new_mail()) == n + 1


def purge():
    pid, mail, quarantine = show("MainPID"), below("/srv/mail"), below(STATE + "/quarantine")
    os.makedirs(STATE + "/mail/new")    # a Maildir there is likely: the unit may write there
    with open(STATE + "/mail/new/1", "w") as f:
        f.write("mail")
    assert len(quarantine) == 2 and len(mail) > 2
    with open(STATE + "/ended-by-watchdog", "w"):       # ExecStopPost= leaves it for the next run
        pass
    assert "quarantine" in dpkg("-P", "mailpolld")
    assert not os.path.exists("/proc/" + pid)
    for path in ("/etc/mailpolld", "/var/log/mailpolld", "/etc/logrotate.d/mailpolld", "/run/mailpolld"):
        assert not os.path.lexists(path), path
    assert sorted(os.listdir(STATE)) == ["mail", "quarantine"] and below(STATE + "/quarantine") == quarantine and below("/srv/mail") == mail
    assert os.path.exists(STATE + "/mail/new/1")
    assert run("find", "/etc", "/var/lib/systemd", "-name", "mailpolld*") == ""
    assert run("id", "-u", "mailpolld") == run("stat", "-c", "%u", NEW), "the mail's owner is not given away"
    ok("purged: no configuration, no secret, no state; all mail")

    run("rm", "-r", STATE + "/mail", STATE + "/quarantine")
    os.mkdir(STATE + "/quarantine")
    run("chown", "root:mail", "/srv/mail"), run("chmod", "2775", "/srv/mail")
    dpkg("-i", "/opt/new.deb")
    assert mode("/srv/mail") == "root:mail 2775", "it is another's"
    assert (show("ActiveState"), show("UnitFileState")) == ("inactive", "disabled")
    dpkg("-P", "mailpolld")
    assert not os.path.exists(STATE) and below("/srv/mail") == mail and run("dpkg", "--audit") == ""
    ok("purged without quarantine: nothing is left but mail")


def main():
    os.mkdir("/var/sim")
    simulator = Simulator("/var/sim")
    for address in (M, REFUSED):
        simulator.mailbox(address)
    install()
    configure_and_start(simulator)
    rotate(simulator)
    upgrade(simulator)
    remove(simulator)
    purge()
    simulator.stop()
    print("ok all", flush=True)


main()
