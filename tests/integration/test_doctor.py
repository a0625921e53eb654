"""mailpolld doctor: each step that can fail, what it says then, and that it changes nothing."""
import json
import os
import pty
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

from lib.cloud import HOSTS, TENANT, Cloud
from lib.daemon import BUILD
from lib.simulator import most_within

M, CLIENT, OID = "support@contoso.example", "05cd6963-0000-0000-0000-000000000000", "0a1b2c3d-0000-0000-0000-0000000000ff"
ROOT = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to see with another user's eyes")


def command(daemon, *args):
    return [*daemon.prefix, os.path.join(BUILD, daemon.program), "-c", daemon.file, "doctor", *args]


def doctor(daemon, *args, env=None):
    done = subprocess.run(command(daemon, "--json", *args), capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})})
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["passed"] == (done.returncode == 0)
    return done.returncode, report["steps"]


def step(steps, name, subject=None):
    return next(s for s in steps if s["step"] == name and subject in (None, s["subject"]))


def expect(daemon, name, text, hint, commands="", code=1, result="failed"):
    """This step alone fails, in these words."""
    status, steps = doctor(daemon)
    failed = step(steps, name)
    assert status == code and failed["result"] == result, steps
    assert text in failed["text"] and hint in (failed["hint"] or "") and commands in (failed["commands"] or ""), failed
    return steps


@pytest.fixture
def ready(simulator, daemon):
    simulator.mailbox(M, ["INBOX", "Second", "Done"])
    simulator.add(M, [{"seed": i, "size": 1500} for i in range(3)])
    daemon.config([{"address": M, "folders": ["INBOX", "Second"], "after": {"move": "Done"}}])
    return daemon


def test_all_is_well(simulator, ready):
    code, steps = doctor(ready)
    assert code == 0 and {s["result"] for s in steps} == {"ok"}
    assert step(steps, "folder INBOX")["text"] == "3 messages" and step(steps, "folder Second")["text"] == "0 messages"
    assert step(steps, "IDLE")["text"] == "offered" and "Done, which is there" in step(steps, "after")["text"]
    shown = {name: step(steps, name)["text"] for name in ("token", "audience", "roles", "tenant", "app", "object ID")}
    assert shown == {"token": "good for 65 min", "audience": "https://outlook.office365.com", "roles": "IMAP.AccessAsApp", "tenant": "tenant",
                     "app": CLIENT, "object ID": OID}
    assert "eyJ" not in json.dumps(steps) and simulator.secret not in json.dumps(steps)
    assert step(steps, "greeting")["text"].startswith("The Microsoft Exchange IMAP4 service is ready.")
    for host in ("contoso", "localhost:%d" % simulator.imap_port):
        assert step(steps, "TLS", host)["text"].startswith("TLSv1.3, certificate by mailpolld test authority")
    # it took nothing and changed nothing
    assert set(simulator.state()["commands"]) == {"CAPABILITY", "AUTHENTICATE", "SELECT", "STATUS", "LOGOUT"}
    assert all(flags == [] for flags in simulator.folder(M)["messages"].values()) and len(simulator.folder(M)["messages"]) == 3
    assert os.listdir(ready.state_dir) == [] and not os.path.exists(ready.maildir(M))


def test_beside_a_running_daemon(simulator, ready):
    ready.start()
    ready.wait_delivered(M, 3)
    before = simulator.state(M)["sessions"]
    assert doctor(ready)[0] == 0 and simulator.state(M)["sessions"] == before
    assert ready.of(M)["failures"] == 0


def test_beside_too_many_connections(simulator, ready):
    """exchange-online 5.13: the daemon needs one connection, also when it signs in anew; the doctor's is a second one"""
    simulator.post("/token", life_s=10)
    simulator.fault("connections", M, most=1)
    ready.start()
    simulator.wait("logins", 3, M, timeout_s=60)
    assert ready.of(M)["failures"] == 0 and not ready.has_line("failure=")
    expect(ready, "sign-in", "BYE Connection closed. 14", "after errors or too many connections")


def test_configuration_with_errors(daemon):
    daemon.config([{"address": M, "interval": "45x"}])
    code, steps = doctor(daemon)
    assert code == 78 and "45x is not a duration" in step(steps, "error")["text"] and "mailpolld.yaml(5)" in step(steps, "error")["hint"]


def test_warnings_of_the_configuration(simulator, ready):
    """They are advice at the file, no step of their own"""
    simulator.mailbox("poll@contoso.example")
    ready.config([{"address": "poll@contoso.example", "watch": "poll", "interval": "1s"}], admission={"sessions_per_second": 1},
                 top={"mailbox_files": ["nothing/*.yaml"]})
    code, steps = doctor(ready)
    assert code == 0 and "Warning: " in step(steps, "file")["hint"] and "no file matches" in step(steps, "file")["hint"]
    assert step(steps, "IDLE")["text"] == "not needed with watch: poll"


def test_unknown_address(ready):
    done = subprocess.run(command(ready, "nobody@contoso.example"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 64 and "has no mailbox nobody@contoso.example" in done.stderr


def test_same_mailbox_twice(simulator, ready):
    code, steps = doctor(ready, M, M.upper())
    assert code == 0 and [s["step"] for s in steps].count("sign-in") == 1 and simulator.counts("logins") == 1


# --- this machine ---

def test_no_secret(ready):
    os.unlink(ready.secret_file)
    steps = expect(ready, "secret", "No such file", "Put the client secret's Value into it", "/dev/stdin %s" % ready.secret_file)
    assert step(steps, "TLS", "contoso")["result"] == "ok"      # its host is looked at all the same
    skipped = [s["step"] for s in steps if s["result"] == "skipped"]
    assert skipped == ["clock", "token", "capability", "sign-in", "folder INBOX", "folder Second", "IDLE", "after"]
    # the command does what it says
    subprocess.run(["sh", "-c", step(steps, "secret")["commands"]], input=ready.simulator.secret + "\n", text=True, check=True)
    assert doctor(ready)[0] == 0


def test_secret_readable_by_others(ready):
    os.chmod(ready.secret_file, 0o644)
    steps = expect(ready, "secret", "it can be read by others", "Keep it from others.", "chmod o= %s" % ready.secret_file)
    subprocess.run(["sh", "-c", step(steps, "secret")["commands"]], check=True)
    assert doctor(ready)[0] == 0


def test_secret_is_an_id(simulator, ready):
    """exchange-online 2.1"""
    ready.write_secret("01234567-89ab-cdef-0123-456789abcdef")
    steps = expect(ready, "secret", "this is a GUID", "copy its Value column, not its Secret ID")
    assert step(steps, "token")["result"] == "failed" and "7000215" in step(steps, "token")["text"]


def test_file_system_is_full(simulator, daemon):
    simulator.mailbox(M)
    daemon.config([M], top={"min_free": "900T"})
    steps = expect(daemon, "state_dir", "min_free is 900.0 TiB", "Free space on that file system")
    assert step(steps, "sink")["result"] == "failed"


def test_command_that_is_not_there(simulator, daemon):
    simulator.mailbox(M)
    daemon.config([{"address": M, "deliver": {"command": ["/nonexistent/take"]}}])
    expect(daemon, "sink", "command /nonexistent/take: No such file", "Install the command, or correct `deliver`.")


def test_command_that_is_none(simulator, daemon):
    simulator.mailbox(M)
    daemon.config([{"address": M, "deliver": {"command": [daemon.file]}}])
    expect(daemon, "sink", "Permission denied", "chmod +rx %s" % daemon.file)
    os.mkdir(os.path.join(daemon.directory, "take"))
    daemon.config([{"address": M, "deliver": {"command": [os.path.join(daemon.directory, "take")]}}])
    expect(daemon, "sink", "Is a directory", "Install the command")


def test_each_maildir(simulator, daemon):
    """A template with %{folder} makes several"""
    simulator.mailbox(M, ["INBOX", "Second"])
    daemon.config([{"address": M, "folders": ["INBOX", "Second"], "deliver": {"maildir": daemon.directory + "/mail/%{folder}"}}])
    code, steps = doctor(daemon)
    assert code == 0 and [s["text"].split(":")[0] for s in steps if s["step"] == "sink"] == [daemon.directory + "/mail/" + f for f in ("INBOX", "Second")]


def test_file_in_the_way(simulator, daemon):
    simulator.mailbox(M)
    for maildir in (daemon.file, daemon.file + "/x"):
        daemon.config([{"address": M, "deliver": {"maildir": maildir}}])
        expect(daemon, "sink", "%s: Not a directory" % maildir, "There is a file where a directory must be")


HANG = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>
int access(const char *path, int mode)
{
	while (strstr(path, "/hangs") != NULL)
		pause();
	return ((int (*)(const char *, int))dlsym(RTLD_NEXT, "access"))(path, mode);
}
"""


@pytest.mark.skipif("asan" in BUILD, reason="its library must be loaded first")
def test_file_system_that_hangs(simulator, daemon, tmp_path):
    """As a network's does; it is not waited for"""
    library = str(tmp_path / "hang.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=HANG, text=True, check=True)
    for address in (M, "other@contoso.example"):
        simulator.mailbox(address)
    daemon.config([{"address": M, "deliver": {"maildir": daemon.directory + "/hangs/x"}}, "other@contoso.example"])
    daemon.program = "mailpolld-scaled"
    code, steps = doctor(daemon, env={"LD_PRELOAD": library, "MAILPOLLD_CLOCK_RATE": "5"})
    hung, other = step(steps, "sink", M), step(steps, "sink", "other@contoso.example")
    assert code == 1 and hung["result"] == "failed" and "no answer in time" in hung["text"] and "does not answer" in hung["hint"]
    assert other["result"] == "skipped" and step(steps, "state_dir")["result"] == "ok" and step(steps, "sign-in")["result"] == "ok"


def open_path(path):
    """pytest's directories are its user's alone."""
    while path != "/":
        os.chmod(path, os.stat(path).st_mode | 0o11)
        path = os.path.dirname(path)


def hand_over(daemon):
    """What a daemon that runs as nobody finds, but for Maildirs and the secret."""
    open_path(daemon.directory)
    for path in (daemon.state_dir, daemon.socket_dir):
        shutil.chown(path, "nobody")


@ROOT
def test_what_is_read_at_the_start(simulator, ready):
    """Root reads it all; without it the daemon does not start, or has no session"""
    more, ca = os.path.join(ready.directory, "more"), os.path.join(ready.directory, "ca.pem")
    os.mkdir(more)
    with open(os.path.join(more, "x.yaml"), "w") as f:
        json.dump([M], f)
    shutil.copy(simulator.ca_file, ca)
    ready.config([], {"ca_file": ca}, {"mailbox_files": ["more/*.yaml"]})
    hand_over(ready)
    for path in (ready.secret_file, os.path.join(ready.directory, "mail")):
        shutil.chown(path, "nobody")
    code, steps = doctor(ready)
    assert code == 0 and step(steps, "configuration")["text"] == "%s and 2 more: readable" % ready.file
    assert step(steps, "ca_file")["text"].endswith(" and 1 more: readable") and step(steps, "control_socket")["text"].startswith(ready.socket)
    for path, mode, name, hint in ((ready.file, 0o600, "configuration", "Make it readable for user nobody (chmod o+r, "),
                                   (more + "/x.yaml", 0o640, "configuration", "Make it readable for user nobody (chmod o+r, "),
                                   (more, 0o700, "configuration", "Let user nobody pass through %s (chmod o+x, " % more),
                                   (more, 0o711, "configuration", "Make it readable for user nobody (chmod o+rx, "),
                                   (ca, 0o600, "ca_file", "Make it readable for user nobody (chmod o+r, "),
                                   (ready.socket_dir, 0o500, "control_socket", "Use a directory that is there and that user nobody may write to")):
        good = os.stat(path).st_mode
        os.chmod(path, mode)
        code, steps = doctor(ready)
        failed = [s for s in steps if s["result"] == "failed"]
        assert code == 1 and {s["step"] for s in failed} == {name} and path in failed[0]["text"] and "Permission denied" in failed[0]["text"], failed
        assert any(hint in s["hint"] for s in failed), failed
        os.chmod(path, good)
    assert doctor(ready)[0] == 0
    shutil.rmtree(ready.socket_dir)
    expect(ready, "control_socket", "%s: No such file or directory" % ready.socket_dir, "Use a directory that is there")


@ROOT
def test_as_the_daemons_user(simulator, ready):
    """Root sees what root may; the doctor sees what the owner of state_dir may."""
    os.chmod(ready.directory, 0o755)
    hand_over(ready)
    code, steps = doctor(ready)
    assert code == 1 and step(steps, "state_dir") == {**step(steps, "state_dir"), "subject": "(as user nobody)", "result": "ok"}
    assert "Permission denied, so nothing can be made in it" in step(steps, "sink")["text"]
    assert step(steps, "sink")["hint"] == "Make %s writable for user nobody." % os.path.join(ready.directory, "mail")
    assert "user nobody cannot read it" in step(steps, "secret")["text"] and step(steps, "sign-in")["result"] == "ok"
    subprocess.run(["sh", "-c", step(steps, "secret")["commands"]], check=True)
    shutil.chown(os.path.join(ready.directory, "mail"), "nobody")
    assert doctor(ready)[0] == 0


@ROOT
def test_state_dir_that_cannot_be_written(simulator, ready):
    hand_over(ready)
    shutil.chown(os.path.join(ready.directory, "mail"), "nobody")
    shutil.chown(ready.secret_file, "nobody")
    os.chmod(ready.state_dir, 0o500)
    expect(ready, "state_dir", "Permission denied", "writable for user nobody")


def test_audit_in_a_directory_that_is_not_there(simulator, ready):
    audit = os.path.join(ready.directory, "audits", "audit.log")
    ready.config([M], top={"audit": audit, "min_free": "1K"})
    expect(ready, "audit", "audits: No such file or directory", "Use a directory that is there and that user")
    os.mkdir(os.path.dirname(audit))
    code, steps = doctor(ready)
    assert code == 0 and step(steps, "audit")["result"] == "ok"


@ROOT
def test_directories_that_cannot_be_passed(simulator, ready):
    """What is told is the directory that is in the way; its rights may be others' concern, so that no command changes them"""
    hand_over(ready)
    closed = os.path.join(ready.directory, "closed")
    os.makedirs(os.path.join(closed, "mail"))
    os.chmod(closed, 0o700)
    shutil.chown(os.path.join(closed, "mail"), "nobody")
    secret = os.path.join(closed, "secret")
    shutil.move(ready.secret_file, secret)
    shutil.chown(secret, group="nogroup")
    os.chmod(secret, 0o640)
    ready.secret_file = secret
    ready.config([{"address": M, "deliver": {"maildir": closed + "/mail/x"}}])
    code, steps = doctor(ready)
    assert code == 1 and step(steps, "sink")["hint"].startswith("Let user nobody pass through %s " % closed)
    assert "as in /etc/mailpolld/secrets, or let that user through %s (setfacl -m u:nobody:x)" % closed in step(steps, "secret")["hint"]
    assert step(steps, "secret")["commands"] is None
    os.chmod(closed, 0o711)
    assert doctor(ready)[0] == 0


@ROOT
@pytest.mark.parametrize("name, mode", [("lock", 0o600), ("state.db", 0o600), ("spool", 0o700), ("quarantine", 0o700)])
def test_state_that_another_user_has_made(simulator, ready, name, mode):
    """By a start as root, say: no start as the daemon's user would do"""
    hand_over(ready)
    shutil.chown(os.path.join(ready.directory, "mail"), "nobody")
    shutil.chown(ready.secret_file, "nobody")
    path = os.path.join(ready.state_dir, name)
    if mode == 0o700:
        os.mkdir(path, mode)
    else:
        os.close(os.open(path, os.O_CREAT, mode))
    steps = expect(ready, "state_dir", "%s: Permission denied" % path, "give user nobody all that lies in %s" % ready.state_dir, "chown -R nobody:nogroup ")
    subprocess.run(["sh", "-c", step(steps, "state_dir")["commands"]], check=True)
    assert doctor(ready)[0] == 0


@ROOT
def test_place_to_be_made(simulator, daemon):
    simulator.mailbox(M)
    hand_over(daemon)
    shutil.chown(daemon.secret_file, "nobody")
    daemon.config([{"address": M, "deliver": {"maildir": daemon.directory + "/new mail/%{domain}/%{local}"}}])
    steps = expect(daemon, "sink", "Permission denied", "Make %s/new mail for user nobody." % daemon.directory, "install -d -o nobody -g nogroup")
    subprocess.run(["sh", "-c", step(steps, "sink")["commands"]], check=True)
    assert doctor(daemon)[0] == 0


@ROOT
def test_as_another_user(simulator, ready, tmp_path):
    """Who cannot look with the daemon's eyes says so, and does not tell to open all for himself"""
    hand_over(ready)
    program = str(tmp_path / "mailpolld")
    shutil.copy(os.path.join(BUILD, "mailpolld"), program)
    os.chmod(ready.file, 0o644)
    shutil.chown(ready.state_dir, "mail")
    os.chmod(os.path.join(str(tmp_path), "sim"), 0o755)
    done = subprocess.run(["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", program, "-c", ready.file, "doctor", "--json"],
                          capture_output=True, text=True, timeout=60)
    steps = json.loads(done.stdout)["steps"]
    assert done.returncode == 1 and "the daemon runs as mail, with its groups" in step(steps, "user")["text"] and "Run the doctor as root" in step(steps, "user")["hint"]
    assert step(steps, "state_dir")["result"] == "skipped" and step(steps, "sink")["result"] == "skipped"
    assert step(steps, "secret")["hint"] == "Run the doctor as root." and step(steps, "TLS", "contoso")["result"] == "ok"


@ROOT
@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_group_of_the_maildir(simulator, daemon, kind):
    """It is given by an access control list, which not every file system has"""
    simulator.mailbox(M)
    daemon.config([{"address": M, "deliver": {"maildir": daemon.maildir(M), "group": "mail"}}], top={"min_free": "1K"})
    hand_over(daemon)
    mail = os.path.join(daemon.directory, "mail")
    for path in (daemon.state_dir, mail, daemon.secret_file):
        shutil.chown(path, "nobody")
    subprocess.run(["mount", "-t", kind, "none", mail], check=True)
    try:
        shutil.chown(mail, "nobody")
        if kind == "tmpfs":
            assert not [s for s in doctor(daemon)[1] if s["step"] == "group"]
        else:
            expect(daemon, "group", "no access control lists, by which group mail",
                   "Group=mail and SupplementaryGroups=nogroup); the members of mail may then use the control socket")
    finally:
        subprocess.run(["umount", mail], check=True)


# --- the network ---

def change_defaults(daemon, simulator, **defaults):
    daemon.config([M], defaults=defaults)


def test_name_that_is_not_found(simulator, ready):
    change_defaults(ready, simulator, host="imap.invalid")
    _, steps = doctor(ready)
    dns = step(steps, "DNS", "imap.invalid:%d" % simulator.imap_port)
    assert dns["result"] == "failed" and "The name imap.invalid is not found" in dns["hint"]
    assert step(steps, "sign-in")["text"] == "its host cannot be reached"


def test_port_where_nobody_listens(simulator, ready):
    change_defaults(ready, simulator, port=1)
    _, steps = doctor(ready)
    tcp = step(steps, "TCP", "localhost:1")
    assert tcp["result"] == "failed" and "Cannot reach localhost: check DNS, firewall and routing." == tcp["hint"]
    assert step(steps, "TLS", "localhost:1")["result"] == "skipped"


def test_certificates(simulator, ready):
    for server, subject in (("imap", "localhost:"), ("token", "contoso")):
        for name, text in (("stranger", "not trusted"), ("wrong-host", "for another host name"), ("expired", "certificate has expired")):
            simulator.post("/certificate", server=server, name=name)
            _, steps = doctor(ready)
            tls = next(s for s in steps if s["step"] == "TLS" and s["subject"].startswith(subject))
            assert tls["result"] == "failed" and text in tls["text"] and "a firewall that inspects TLS" in tls["hint"]
            assert step(steps, "sign-in")["result"] == "skipped"
        simulator.post("/certificate", server=server, name="ending")
        code, steps = doctor(ready)
        tls = next(s for s in steps if s["step"] == "TLS" and s["subject"].startswith(subject))
        assert code == 0 and tls["hint"] == "The certificate ends in 2 days: its owner must renew it before."
        simulator.post("/certificate", server=server, name="good")


def test_what_tls_tells(simulator, ready):
    """Protocol, issuer, and the certificate's last day as openssl(1) reads it"""
    simulator.post("/tls", maximum="TLSv1_2")       # of IMAP
    for name, file in (("good", "localhost.pem"), ("ending", "ending.pem")):
        for server in ("imap", "token"):
            simulator.post("/certificate", server=server, name=name)
        shown = subprocess.run(["openssl", "x509", "-in", os.path.join(os.path.dirname(simulator.ca_file), file), "-noout", "-enddate"], capture_output=True,
                               text=True, check=True).stdout
        end = time.strftime("%Y-%m-%d", time.gmtime(ssl.cert_time_to_seconds(shown.strip().partition("=")[2])))
        _, steps = doctor(ready)
        for subject, protocol in (("contoso", "TLSv1.3"), ("localhost:%d" % simulator.imap_port, "TLSv1.2")):
            assert step(steps, "TLS", subject)["text"] == "%s, certificate by mailpolld test authority ca, valid until %s" % (protocol, end)


@pytest.mark.parametrize("of", ["credential", "mailboxes"])
def test_ca_file_that_holds_none(simulator, ready, of):
    junk = os.path.join(ready.directory, "ca.txt")
    with open(junk, "w") as f:
        f.write("no certificate\n")
    with open(ready.file) as f:
        conf = json.load(f)
    (conf["credentials"]["contoso"] if of == "credential" else conf["defaults"])["ca_file"] = junk
    with open(ready.file, "w") as f:
        json.dump(conf, f)
    steps = expect(ready, "CA certificates", junk, "Correct ca_file in the configuration.")
    assert step(steps, "sign-in")["result"] == "skipped"


def test_port_that_speaks_no_tls(simulator, ready):
    with socket.create_server(("127.0.0.1", 0)) as server:
        def greet():
            connection, _ = server.accept()             # the probe of TCP and TLS
            connection.sendall(b"* OK in plain words\r\n")
            connection.recv(10000)
            connection.close()
        thread = threading.Thread(target=greet)
        thread.start()
        port = server.getsockname()[1]
        change_defaults(ready, simulator, port=port)
        _, steps = doctor(ready)
        thread.join(20)
    tls = step(steps, "TLS", "localhost:%d" % port)
    assert tls["result"] == "failed" and "993 for IMAP" in tls["hint"]


class Greeter:
    """An IMAP port that says one line over TLS, and closes."""

    def __init__(self, simulator, line):
        self.line, self.listener = line, socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        base = os.path.dirname(simulator.ca_file)
        self.context.load_cert_chain(os.path.join(base, "localhost.pem"), os.path.join(base, "localhost.key"))
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        connection, _ = self.listener.accept()
        with self.context.wrap_socket(connection, server_side=True) as tls:
            tls.sendall(self.line)
        self.listener.close()


@pytest.mark.parametrize("line,text,hint", [
    (b"* BYE Connection is closed. 14\r\n", "BYE Connection is closed. 14", "localhost closed the connection of its mailboxes"),     # exchange-online 5.5
    (b"220 smtp.example ready\r\n", "this is no IMAP greeting: 220 smtp.example ready", "check that `host` and `port`"),
    (b"\x01" * 5000, "this is no IMAP greeting", "check that `host` and `port`"),
    (b"", "connection closed by the server", "look for a firewall or a proxy"),
])
def test_greeting(simulator, ready, line, text, hint):
    greeter = Greeter(simulator, line)
    change_defaults(ready, simulator, port=greeter.port)
    steps = expect(ready, "greeting", text, hint)
    greeter.thread.join(20)
    assert step(steps, "capability")["text"] == "its host cannot be reached"


def hangs(simulator, daemon, name, text, hint):
    """In the end it is told, and the hint is not empty; 12 times as fast."""
    daemon.program = "mailpolld-scaled"
    status, steps = doctor(daemon, env={"MAILPOLLD_CLOCK_RATE": "12"})
    failed = step([s for s in steps if s["result"] == "failed"], name)
    assert status == 1 and re.search(text, failed["text"]) and hint in failed["hint"], steps


@pytest.mark.parametrize("mode,name,text,hint", [
    ("hang-tcp", "TCP", "connection timed out", "Cannot reach localhost"), ("hang-tls", "TLS", "negotiating TLS: timed out", "check that the port speaks TLS"),
    ("reset", "TLS", r"Connection reset by peer|connection closed", "check that the port speaks TLS"), ("refuse", "TCP", "Connection refused", "Cannot reach localhost"),
])
def test_network_faults(simulator, ready, mode, name, text, hint):
    change_defaults(ready, simulator, port=simulator.post("/line", mode=mode)["port"])
    hangs(simulator, ready, name, text, hint)


@pytest.mark.parametrize("fault,name,text", [
    ({"kind": "hang-greeting"}, "greeting", "timed out"), ({"kind": "hang-authenticate"}, "sign-in", "timed out while authenticating"),
    ({"kind": "hang", "command": "SELECT"}, "folder INBOX", "timed out"), ({"kind": "hang", "command": "STATUS"}, "after", "timed out"),
    ({"kind": "close-on-connect"}, "greeting", "connection closed by the server"), ({"kind": "close-raw", "command": "SELECT"}, "folder INBOX", "connection"),
])
def test_server_hangs(simulator, ready, fault, name, text):
    simulator.fault(**fault)
    hangs(simulator, ready, name, text, "localhost breaks off or does not answer")


def test_token_host_hangs(simulator, ready):
    simulator.post("/token", hang=True)
    hangs(simulator, ready, "token", "token endpoint: no answer in time", "localhost can be reached but does not answer")


def test_token_host_is_down(simulator, ready):
    simulator.post("/token-port", open=False)
    steps = expect(ready, "TCP", "Connection refused", "Cannot reach localhost")
    assert step(steps, "token")["text"] == "its host cannot be reached" and step(steps, "greeting")["result"] == "ok"


# --- the token ---

def test_clock(simulator, ready):
    for offset, word in ((-300, "ahead of"), (300, "behind")):
        simulator.post("/token", date_offset_s=offset)
        expect(ready, "clock", "%s the token endpoint's" % word, "timedatectl set-ntp true")


REFUSALS = [
    ({"status": 401, "code": 7000222}, "7000222", "client secret of app %s has expired" % CLIENT),                             # exchange-online 3.2
    ({"status": 400, "error": "unauthorized_client", "code": 700016}, "700016", "There is no application with client ID %s" % CLIENT),
    ({"status": 400, "error": "invalid_request", "code": 90002}, "90002", "does not exist in this cloud"),
    ({"status": 400, "error": "invalid_resource", "code": 500011}, "500011", "Exchange Online is not present"),
    ({"status": 400, "error": "access_denied", "code": 53003}, "53003", "Conditional Access policy"),
    ({"status": 429, "retry_after": 60, "body": ""}, "HTTP 429", "is limiting token requests"),
    ({"status": 503}, "HTTP 503", "temporarily unavailable"),
]


def test_token_refused(simulator, ready):
    for fail, text, hint in REFUSALS:
        simulator.post("/token", fail=fail)
        steps = expect(ready, "token", text, hint)
        assert step(steps, "sign-in")["text"] == "there is no token to sign in with" and "Trace ID" not in step(steps, "token")["text"]


PAYLOADS = [
    ({"roles": []}, "roles", "(none)", "Add the application permission IMAP.AccessAsApp", "az ad app permission admin-consent --id %s" % CLIENT),  # 2.6
    ({"roles": ["Mail.Read"]}, "roles", "Mail.Read", "grant admin consent", "5e5addcd-3e8d-4e90-baf5-964efab2b20a=Role"),
    ({"claims": {"aud": "https://graph.microsoft.com"}}, "audience", "graph", "Set the scope to https://outlook.office365.com/.default; in a national cloud", ""),
    ({"claims": {"scp": "IMAP.AccessAsUser.All"}}, "token", "a user's", "use the client-credentials flow", ""),
    ({"claims": {"appid": "99999999-0000-0000-0000-000000000000"}}, "app", "99999999", "for another application: correct `client_id`", ""),
]


def test_token_shows_what_is_wrong(simulator, ready):
    for change, name, text, hint, commands in PAYLOADS:
        simulator.post("/token", **{"roles": ["IMAP.AccessAsApp"], "claims": {}, **change})
        steps = expect(ready, name, text, hint, commands)
        if name == "roles":         # that comes first: what New-ServicePrincipal does would not help
            assert step(steps, "sign-in")["commands"] is None and "grant admin consent" in step(steps, "sign-in")["hint"]


@ROOT
@pytest.mark.parametrize("name", HOSTS)
def test_exchange_online_by_its_names(simulator, daemon, name):
    """exchange-online 1: a credential is tenant, client_id and secret; hosts, ports and scope are the cloud's"""
    simulator.mailbox(M)
    simulator.add(M, [{"seed": 1, "size": 1500}])
    daemon.config([M])
    cloud = Cloud(simulator, daemon, name)
    try:
        code, steps = doctor(daemon)
        assert code == 0 and step(steps, "tenant")["text"] == TENANT
        entra, exchange = HOSTS[name]
        assert entra in step(steps, "DNS", "contoso")["text"] and step(steps, "DNS", exchange + ":993")["result"] == "ok"
        scope = "https://%s/.default" % exchange.replace("outlook-dod", "outlook")
        assert [line for line in simulator.log_lines() if "token request" in line] == ["token request for " + scope]
        daemon.start()
        daemon.wait_delivered(M, 1)
        simulator.post("/token", claims={"tid": TENANT.replace("3", "4")})
        expect(daemon, "tenant", TENANT.replace("3", "4"), "The token is of another directory: correct `tenant`.")
    finally:
        cloud.close()


def test_token_that_shows_nothing(simulator, ready):
    simulator.post("/token", claims={"aud": None})
    code, steps = doctor(ready)
    assert code == 0 and step(steps, "token")["text"] == "good for 65 min; it does not show what it holds"


# --- the mailbox ---

def test_sign_in_refused(simulator, ready):
    """exchange-online 5.2"""
    simulator.fault("auth-refused", M)
    steps = expect(ready, "sign-in", "NO AUTHENTICATE failed.", "(this app's is %s)" % OID,
                   "New-ServicePrincipal -AppId %s -ObjectId %s -DisplayName mailpolld" % (CLIENT, OID))
    assert step(steps, "sign-in")["commands"].startswith("Connect-ExchangeOnline -Organization tenant\n")


def test_no_permission(simulator, ready):
    """exchange-online 5.1"""
    simulator.fault("no-permission", M)
    steps = expect(ready, "folder INBOX", "BAD User is authenticated but not connected.", "give application %s FullAccess" % CLIENT,
                   'Add-MailboxPermission -Identity "%s" -User (Get-ServicePrincipal -Identity %s).Identity -AccessRights FullAccess\n'
                   'Set-CASMailbox -Identity "%s" -ImapEnabled $true' % (M, CLIENT, M))
    assert [step(steps, name)["result"] for name in ("folder Second", "IDLE", "after")] == ["skipped"] * 3


def test_throttled(simulator, ready):
    simulator.fault("throttle", M, ms=60000, command="SELECT")
    expect(ready, "folder INBOX", "Request is throttled", "throttling mailbox %s for 60 seconds" % M)


def test_folder_that_is_not_there(simulator, daemon):
    simulator.mailbox(M)
    daemon.config([{"address": M, "folders": ["INBOX", "Nowhere"]}])
    steps = expect(daemon, "folder Nowhere", "NO SELECT failed.", "Make folder Nowhere in mailbox %s, or correct `folders`: others can be opened." % M)
    assert step(steps, "folder Nowhere")["commands"] is None and step(steps, "folder INBOX")["result"] == "ok" and step(steps, "IDLE")["result"] == "ok"
    daemon.config([{"address": M, "folders": ["Nowhere"]}])      # it may be the permission, too
    expect(daemon, "folder Nowhere", "NO SELECT failed.", "Folder Nowhere of %s cannot be opened" % M, "Add-MailboxPermission")


def test_target_that_is_not_there(simulator, daemon):
    simulator.mailbox(M)
    daemon.config([{"address": M, "after": {"move": "Nowhere"}}])
    expect(daemon, "after", "NO STATUS failed.", "Make folder Nowhere in mailbox %s, or correct `after`." % M)


def test_folder_that_can_only_be_read(simulator, daemon):
    simulator.mailbox(M, ["INBOX", "Done"])
    simulator.fault("answer", M, command="SELECT", line="* 2 EXISTS\n{tag} OK [READ-ONLY] SELECT completed.")
    for after in ("seen", "delete", {"move": "Done"}):
        daemon.config([{"address": M, "after": after}])
        steps = expect(daemon, "after", "folder INBOX can only be read", "Give application %s FullAccess to %s" % (CLIENT, M), "Add-MailboxPermission")
    assert step(steps, "folder INBOX")["text"] == "2 messages, can only be read"
    daemon.config([M])
    assert doctor(daemon)[0] == 0


def test_what_the_server_does_not_offer(simulator, daemon):
    simulator.mailbox(M, ["INBOX", "Done"])
    daemon.config([{"address": M, "after": "delete"}])
    simulator.post("/options", without=["UIDPLUS", "IDLE"])
    steps = expect(daemon, "after", "the server has no UIDPLUS", "Use `after: seen` or `keep`")
    assert "not offered: mailpolld looks every 540 s instead" == step(steps, "IDLE")["text"] and step(steps, "IDLE")["result"] == "ok"
    daemon.config([{"address": M, "after": {"move": "Done"}}])
    assert doctor(daemon)[0] == 0               # MOVE does it
    simulator.post("/options", without=["MOVE"])
    code, steps = doctor(daemon)
    assert code == 0 and "by COPY, since the server has no MOVE" in step(steps, "after")["text"]
    simulator.post("/options", without=["UIDPLUS", "MOVE"])
    expect(daemon, "after", "neither MOVE nor UIDPLUS", "")
    simulator.post("/options", without=["AUTH=XOAUTH2"])
    expect(daemon, "capability", "server offers no AUTH=XOAUTH2", "check `host` and `port` of %s" % M)


# --- many, and how it looks ---

def many(simulator, daemon, n=40):
    addresses = ["m%02d@contoso.example" % i for i in range(n)]
    for address in addresses:
        simulator.mailbox(address)
    for i in (3, 7):
        simulator.fault("no-permission", addresses[i])
    simulator.fault("auth-refused", addresses[5])
    daemon.config(addresses, admission={"sessions_per_second": 20, "starting_at_once": 2})
    return addresses


def plain(daemon, *args):
    done = subprocess.run(command(daemon, *args), capture_output=True, text=True, timeout=120)
    assert done.stderr == "" and "\033" not in done.stdout
    return done.returncode, done.stdout


def test_many_mailboxes(simulator, daemon):
    """Token steps once, then a table; no more sign-ins than admission lets in; what to do once for all with the same trouble"""
    addresses = many(simulator, daemon)
    simulator.fault("slow-sign-in", seconds=0.5, count=2)          # others might begin meanwhile
    code, text = plain(daemon)
    at = simulator.sign_ins()
    assert len(at) == 40 and most_within(at, 1) <= 20 + 8 and at[-1] - at[0] >= 39 / 20 - 0.2       # as the server sees it
    assert code == 1 and simulator.counts("token_requests") == 1 and text.count("  ok      clock ") == 1
    table, to_do = text[text.index("\nmailboxes: 37 ok, 3 failed, 0 skipped\n"):].split("\n\n", 1)
    rows = [line.split(None, 2) for line in table.splitlines() if "@" in line]
    assert [row[1] for row in rows] == addresses and {row[1] for row in rows if row[0] == "failed"} == {addresses[i] for i in (3, 5, 7)}
    assert rows[0] == ["ok", addresses[0], "INBOX 0 messages"] and rows[5][2].startswith("sign-in: ") and all(len(line) <= 120 for line in table.splitlines())
    permission, refusal = to_do.split("\n\n")[:2]
    assert permission.startswith("  failed  folder INBOX: %s, %s\n" % (addresses[3], addresses[7]))
    assert permission.count("Sign-in works but mailbox") == 1 and permission.count("Connect-ExchangeOnline") == 1
    for i in (3, 7):
        assert permission.count('Add-MailboxPermission -Identity "%s"' % addresses[i]) == 1 and permission.count('Set-CASMailbox -Identity "%s"' % addresses[i]) == 1
    # exchange-online 5.2: others can sign in, so it is this mailbox
    assert refusal.startswith("  failed  sign-in: %s\n" % addresses[5]) and "Other mailboxes sign in" in refusal and 'Get-Mailbox -Identity "%s"' % addresses[5] in refusal
    assert simulator.state()["signing_in_most"] <= 2
    code, steps = doctor(daemon, addresses[1], addresses[2])
    assert code == 0 and {s["subject"] for s in steps if s["scope"] == "mailbox"} == set(addresses[1:3])


def test_all_are_refused(simulator, daemon):
    """It is the application (exchange-online 5.2): one message, one command"""
    simulator.fault("auth-refused")
    addresses = ["m%d@contoso.example" % i for i in range(6)]
    for address in addresses:
        simulator.mailbox(address)
    daemon.config(addresses)
    code, text = plain(daemon)
    assert code == 1 and text.count("-DisplayName mailpolld") == 1 and "Get-Mailbox" not in text
    assert "  failed  sign-in: %s, %s, %s and 3 more\n" % tuple(addresses[:3]) in text


def test_few_mailboxes(simulator, daemon):
    """Step by step, each mailbox's together, however they came"""
    for address in ("a@contoso.example", "b@contoso.example"):
        simulator.mailbox(address)
    simulator.fault("slow-sign-in", "a@contoso.example", seconds=0.3)
    simulator.fault("auth-refused", "b@contoso.example")
    daemon.config(["b@contoso.example", "a@contoso.example"])
    code, text = plain(daemon)
    a, b = text.split("\nmailbox ")[1:]
    assert code == 1 and a.startswith("a@") and "  ok      folder INBOX      0 messages\n" in a and b.startswith("b@") and "Get-Mailbox" in b


def start(daemon, *args, **more):
    return subprocess.Popen(command(daemon, *args), stdout=subprocess.PIPE, text=True, **more)


@ROOT
def test_no_core(simulator, ready):
    """It holds a secret and a token as the daemon does: what belongs to its process is root's then, and the kernel writes no core"""
    os.chmod(ready.directory, 0o755)
    open_path(ready.directory)
    for path in (ready.file, ready.state_dir, ready.secret_file, os.path.join(ready.directory, "mail")):
        shutil.chown(path, "nobody")
    simulator.fault("hang", M, command="SELECT")
    program = shutil.copy(os.path.join(BUILD, "mailpolld"), ready.directory)          # where nobody may run it
    running = subprocess.Popen([program, "-c", ready.file, "doctor"], stdout=subprocess.PIPE, text=True, user="nobody", group="nogroup")
    simulator.wait("fault-hang", 1)
    assert os.stat("/proc/%d/status" % running.pid).st_uid == 0 and "\nUid:\t65534\t65534" in open("/proc/%d/status" % running.pid).read()
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)


def test_interrupted(simulator, ready):
    """Ctrl-C tells what is known so far"""
    simulator.fault("hang", M, command="SELECT")
    for arguments in ([], ["--json"]):
        running = start(ready, *arguments)
        simulator.wait("fault-hang", 1 + len(arguments))
        running.send_signal(signal.SIGINT)
        text = running.communicate(timeout=20)[0]
        assert running.returncode == 1
        if arguments:
            report = json.loads(text)
            assert not report["passed"] and step(report["steps"], "folder INBOX")["text"] == "interrupted" and step(report["steps"], "sign-in")["result"] == "ok"
        else:
            assert "  skipped folder INBOX      interrupted\n" in text and text.endswith("; interrupted\n")


def test_interrupted_early(simulator, ready):
    """While it asks for a token, and while it tries a host"""
    simulator.post("/token", hang=True)
    running = start(ready)
    simulator.wait("token_requests", 1)
    running.send_signal(signal.SIGINT)
    text = running.communicate(timeout=20)[0]
    assert running.returncode == 1 and "  skipped sign-in           interrupted\n" in text and "\nhost " not in text
    simulator.post("/token", hang=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        change_defaults(ready, simulator, port=silent.getsockname()[1])
        running = start(ready)
        held = silent.accept()[0]       # kept: its end would be an answer
        running.send_signal(signal.SIGINT)
        text = running.communicate(timeout=20)[0]
        held.close()
    assert running.returncode == 1 and "  skipped sign-in           interrupted\n" in text


def test_interrupted_among_many(simulator, daemon):
    addresses = many(simulator, daemon, 10)
    simulator.fault("hang", addresses[0], command="SELECT")
    running = start(daemon)
    simulator.wait("fault-hang", 1)
    simulator.wait("logins", 8)
    running.send_signal(signal.SIGTERM)
    text = running.communicate(timeout=20)[0]
    assert running.returncode == 1 and "  skipped %s  folder INBOX: interrupted\n" % addresses[0] in text and "  ok      %s" % addresses[1] in text


def test_nobody_reads_on(simulator, ready):
    """As `| head -1`"""
    simulator.fault("slow-sign-in", seconds=0.5)
    running = start(ready)
    assert running.stdout.readline() == "configuration\n"
    running.stdout.close()
    assert running.wait(timeout=60) == -signal.SIGPIPE


def test_server_that_hangs_up(simulator, ready):
    """All was seen: how the session ends is no matter"""
    simulator.fault("close-raw", M, command="LOGOUT")
    assert doctor(ready)[0] == 0 and simulator.counts("fault-close-raw") == 1


def on_terminal(args, env):
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(args[0], args, {**os.environ, **env})
    text = b""
    try:
        while data := os.read(fd, 65536):
            text += data
    except OSError:             # the other end of a terminal that is closed
        pass
    os.waitpid(pid, 0)
    os.close(fd)
    return text.decode()


def test_on_a_terminal(simulator, daemon):
    many(simulator, daemon, 10)
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    text = on_terminal(command(daemon), env)
    assert "\033[32mok" in text and "\033[31mfailed" in text
    assert all("%d of 10 mailboxes ..." % i in text for i in range(1, 11))
    assert "\033[" not in on_terminal(command(daemon), {**env, "NO_COLOR": "1"})


def test_no_mailboxes_yet(daemon):
    daemon.config([])
    code, steps = doctor(daemon)
    assert code == 0 and step(steps, "token", "contoso")["result"] == "ok" and not any(s["scope"] == "mailbox" for s in steps)
