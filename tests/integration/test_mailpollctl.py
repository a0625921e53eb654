"""mailpollctl as an operator meets it: what is shown, exit codes, what it says when there is nobody, completion in a real bash."""
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import termios
import time

import pytest

from lib.daemon import BUILD
from lib.ports import free_port

A, B = "a@contoso.example", "b@contoso.example"
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
CTL = os.path.join(BUILD, "mailpollctl")


def start(simulator, daemon, addresses=(A, B), **more):
    for address in addresses:
        simulator.mailbox(address)
    daemon.config(list(addresses), **more)
    daemon.start()


def rows(text):
    """Of the table: each line's words."""
    lines = text.split("\n")
    head = next(i for i, line in enumerate(lines) if line.startswith("MAILBOX "))
    return [line.split() for line in lines[head + 1:] if line]


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *args, lines=24, env=None):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(args[0], args, {**os.environ, "TERM": "xterm", **(env or {})})
        termios.tcsetwinsize(self.fd, (lines, 100))
        self.seen = ""

    def wait(self, pattern, timeout=20):
        """Forgets what came before what is found."""
        until = time.monotonic() + timeout
        while not (found := re.search(pattern, self.seen, re.S)):
            assert time.monotonic() < until and select.select([self.fd], [], [], timeout)[0], "no %r in %r" % (pattern, self.seen)
            try:
                self.seen += os.read(self.fd, 65536).decode()
            except OSError:
                raise AssertionError("it ended: %r" % self.seen)
        self.seen = self.seen[found.end():]
        return found

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self, how):
        os.kill(self.pid, how)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


def test_the_table(simulator, daemon):
    """One line for each mailbox, none wider than 100, those that fail first; above it totals, then each kind of failure with what to do"""
    long_one = "a-very-long-local-part-of-a-mailbox-%s@subsidiary.contoso.example" % ("x" * 150)
    addresses = ["m%02d@contoso.example" % i for i in range(20)] + [long_one]
    for address in addresses:
        simulator.mailbox(address)
    for address in addresses[5:9]:
        simulator.fault("no-permission", address)
    simulator.fault("select-no", addresses[12])
    daemon.config(addresses, defaults={"deliver": {"maildir": os.path.join(daemon.directory, "mail", "%{domain}")}})
    daemon.start()
    daemon.wait(lambda s: s["totals"]["watching"] == 16 and s["totals"]["backing-off"] == 5)
    simulator.fault("fetch-empty", addresses[0], uids=[1])
    simulator.add(addresses[0], [{"seed": 1, "size": 1500}, {"seed": 2, "size": 1500}])
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["owed"] == 1 and s["mailboxes"][0]["folders"][0]["delivered"] == 1)
    shown = daemon.ctl("status")
    assert shown.returncode == 0 and shown.stderr == ""
    lines, table = shown.stdout.split("\n"), rows(shown.stdout)
    assert max(map(len, lines)) <= 100
    assert len(table) == 21 and [row[0] for row in table[:5]] == addresses[5:9] + [addresses[12]]
    assert [row[1] for row in table[:5]] == ["backing-off"] * 5 and [row[-1] for row in table[:5]] == ["no-access"] * 4 + ["folder-refused"]
    assert all(re.fullmatch(r"[0-9]+s", row[2]) for row in table[:5])
    assert table[5][:2] == [addresses[0], "watching"] and table[5][3] == "1" and " ".join(table[5][-2:]) == "1 owed"
    assert re.fullmatch(r"a-very-.*~.*contoso\.example", table[-1][0])
    assert lines[0].startswith("mailpolld ") and lines[1].startswith("21 mailboxes: 16 watching, 5 backing-off; 5 failing; 1 delivered")
    above = re.sub(r"\s+", " ", "\n".join(lines[:next(i for i, line in enumerate(lines) if line.startswith("MAILBOX "))]))
    assert "no-access: 4 mailboxes, such as m05@contoso.example: " in above and above.count("Add-MailboxPermission m05") == 1
    assert "folder-refused: m12@contoso.example: " in above and above.count("Folder INBOX of m12@contoso.example cannot be opened") == 1


def test_totals_of_many_states(simulator, daemon, tmp_path):
    """As a daemon of five thousand mailboxes may answer: wrapped as the rest is"""
    start(simulator, daemon)
    answer = daemon.status()
    answer["totals"] = {**{state: 5000 for state in answer["totals"]}, "mailboxes": 50000}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "control"))
        server.listen()
        shown = subprocess.Popen([CTL, "-s", str(tmp_path / "control"), "status"], stdout=subprocess.PIPE, text=True)
        client = server.accept()[0]
        client.recv(65536)
        body = json.dumps(answer).encode()
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        text = shown.communicate(timeout=30)[0]
        client.close()
    assert max(len(line) for line in text.split("\n") if "5000" in line) <= 100 and "5000 waiting-token, " in " ".join(text.split()) and "5000 delivered since the start" in text


def test_filters(simulator, daemon):
    start(simulator, daemon, ["support@contoso.example", "invoices@contoso.example", {"address": "x@other.example", "id": "Other"}["address"]])
    simulator.fault("no-permission", "invoices@contoso.example")
    simulator.post("/drop", address="invoices@contoso.example")
    daemon.wait_state("invoices@contoso.example", "backing-off")
    daemon.poll("invoices@contoso.example")
    daemon.wait(lambda s: any(m["failure"] == "no-access" for m in s["mailboxes"]))

    def shown(*args):
        done = daemon.ctl("status", *args)
        assert done.returncode == 0, done.stderr
        return [row[0] for row in rows(done.stdout)]
    assert shown("--failing") == ["invoices@contoso.example"]
    assert shown("*@CONTOSO.example") == ["invoices@contoso.example", "support@contoso.example"]
    assert shown("?@*") == ["x@other.example"] and shown("*@contoso.example", "--failing") == ["invoices@contoso.example"]
    as_json = json.loads(daemon.ctl("status", "s*", "--json").stdout)
    assert [m["address"] for m in as_json["mailboxes"]] == ["support@contoso.example"] and as_json["totals"]["mailboxes"] == 3
    none = daemon.ctl("status", "z*")
    assert none.returncode == 67 and "no mailbox is like z*" in none.stderr
    assert "no mailbox fails" in daemon.ctl("status", "--failing", "x*").stdout
    assert daemon.ctl("status", "nobody@contoso.example").returncode == 67
    assert daemon.ctl("status", "x@other.example", "--failing").returncode == 64


def test_one_mailbox(simulator, daemon):
    simulator.mailbox(A, ["INBOX", "Done"])
    simulator.fault("no-permission", A)
    daemon.config([{"address": A, "id": "first", "after": {"move": "Done"}, "watch": "poll", "interval": "2m"}])
    daemon.start()
    daemon.wait_state(A, "backing-off")
    text = re.sub(r"\s+", " ", daemon.ctl("status", A.upper()).stdout)
    for part in ("id first", "state backing-off", "error no-access: ", "hint Sign-in works but mailbox " + A, "failures 1 in a row", "next try 20",
                 "credential contoso, localhost port %d" % simulator.imap_port, "watch poll, a look every 120 s", "deliver maildir /", "after move to Done",
                 "last errors 20", "folder INBOX delivered 0"):
        assert part in text, (part, text)
    assert daemon.ctl("status", "first").stdout.startswith(A)
    assert max(map(len, daemon.ctl("status", A).stdout.split("\n"))) <= 100


def test_what_it_does_and_exits_with(simulator, daemon):
    start(simulator, daemon)
    daemon.wait_state(A, "watching")
    assert daemon.ctl("poll", A).stdout == A + " is being looked at\n"
    assert daemon.ctl("pause", A).returncode == 0
    daemon.wait_state(A, "paused")
    paused = daemon.ctl("poll", A)
    assert paused.returncode == 1 and "resume" in paused.stderr
    assert daemon.ctl("resume", A).returncode == 0
    daemon.wait_state(A, "watching")
    assert daemon.ctl("reload").stdout == "reloaded: 0 mailboxes added, 0 removed, 0 changed, 2 unchanged\n"
    daemon.config([A, B], defaults={"ca_file": simulator.ca_file, "deliver": {"command": ["/no/such/program"]}})
    warned = daemon.ctl("reload")
    assert warned.returncode == 0 and "2 changed" in warned.stdout and re.search(r"warning: .*mailpolld\.yaml:\d+:\d+: .*/no/such/program", warned.stderr)
    with open(daemon.file, "a") as f:
        f.write("nonsense: [")
    refused = daemon.ctl("reload")
    assert refused.returncode == 1 and re.search(r"mailpolld\.yaml:\d+:\d+: ", refused.stderr) and "the running configuration stays" in refused.stderr
    for verb in ("poll", "pause", "resume"):
        assert daemon.ctl(verb, "nobody@contoso.example").returncode == 67
    for wrong in (["dance"], [], ["poll"], ["poll", A, B], ["status", "--watch", "--json"], ["reload", A], ["resync", A], ["log-level"], ["quarantine"],
                  ["quarantine", "show"], ["poll", A, "--json"], ["--nonsense"]):
        done = daemon.ctl(*wrong)
        assert done.returncode == 64 and "usage: mailpollctl" in done.stderr and done.stdout == "", wrong
    assert daemon.ctl("resync", A, "--since", "yesterday").returncode == 64
    assert daemon.ctl("quarantine", "show", "no%2Fsuch%2F1%2F2").returncode == 67
    malformed = daemon.ctl("quarantine", "drop", "no/key")
    assert malformed.returncode == 64 and "not the KEY of a message" in malformed.stderr and "usage" not in malformed.stderr
    with open("/dev/full", "w") as full:
        for args in (["status"], ["poll", A], ["log-level", "info"], ["quarantine", "list"], ["quarantine", "list", "--json"], ["--help"], ["--version"]):
            assert subprocess.run([CTL, "-s", daemon.socket, *args], stdout=full, stderr=subprocess.DEVNULL).returncode == 74, args
    assert daemon.ctl("--help").returncode == 0 and daemon.ctl("--version").stdout.startswith("mailpollctl ")


def test_verbs_for_many(simulator, daemon):
    """poll, pause, resume take the patterns of status; one request each, however many there are"""
    start(simulator, daemon)
    wait = lambda **totals: daemon.wait(lambda s: {k: s["totals"].get(k, 0) for k in totals} == totals)        # noqa: E731
    wait(watching=2)
    looks = simulator.state()["commands"].get("UID SEARCH", 0)
    assert daemon.ctl("poll", "*@CONTOSO.*").stdout == "2 mailboxes are being looked at\n"
    daemon.wait(lambda s: simulator.state()["commands"].get("UID SEARCH", 0) >= looks + 2)
    assert daemon.ctl("pause", A[:3] + "*").stdout == "1 mailbox is paused until it is resumed\n"
    wait(watching=1, paused=1)
    assert daemon.ctl("poll", "*").stdout == "1 mailbox is being looked at; the others are paused\n"
    assert daemon.ctl("pause", "*").stdout == "2 mailboxes are paused until they are resumed\n"
    wait(paused=2)
    daemon.stop()
    daemon.start()
    wait(paused=2)
    assert daemon.status("?summary=1")["health"] == "ok"
    none = daemon.ctl("poll", "*")
    assert none.returncode == 1 and none.stderr == "* are all paused; `mailpollctl resume` comes first\n"
    assert daemon.ctl("resume", "?*").stdout == "2 mailboxes go on\n"
    wait(watching=2)
    daemon.wait_line(r"event=verb verb=resume .*about=\?\*")
    for verb in ("poll", "pause", "resume"):
        assert daemon.ctl(verb, "z*").returncode == 67
    assert daemon.ctl("resync", "*", "--since", "2026-01-31").returncode == 67        # only one at a time


def test_nobody_answers(simulator, daemon, tmp_path):
    """Each says what to do"""
    def complaint(path, *args):
        done = subprocess.run([CTL, "-s", str(path), *(args or ["status"])], capture_output=True, text=True, timeout=30)
        return done.returncode, done.stderr
    for path, why in ((tmp_path / "none", "No such file"), ("/" + "x" * 200, "too long")):
        code, text = complaint(path)
        assert code == 69 and "systemctl start mailpolld" in text and "-s" in text and why in text, text
    (tmp_path / "file").write_text("")
    assert complaint(tmp_path / "file")[0] == 69
    start(simulator, daemon)
    daemon.kill9()
    for args in (["status"], ["poll", A], ["trace", A], ["quarantine", "list"], ["quarantine", "drop", "--older-than", "1d"]):
        code, text = complaint(daemon.socket, *args)
        assert code == 69 and "mailpolld is not running" in text and "systemctl start mailpolld" in text


def test_daemon_that_ends_while_it_is_asked_for_many(tmp_path):
    """The first message that it cannot drop is the last one it is asked for: one complaint, not one for each"""
    messages = [{"key": "%d" % i, "quarantined_at": "2026-01-31T10:00:00Z"} for i in range(50)]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "control"))
        server.listen()
        dropping = subprocess.Popen([CTL, "-s", str(tmp_path / "control"), "quarantine", "drop", "--older-than", "1d"],
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        client = server.accept()[0]
    client.recv(65536)
    body = json.dumps({"messages": messages}).encode()
    client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    client.close()
    out, err = dropping.communicate(timeout=30)
    assert (dropping.returncode, out) == (69, "") and err.count("mailpolld is not running") == 1, err


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to be somebody else")
def test_access(simulator, daemon):
    """A member of the daemon's group may; others are told how to become one, and what that gives away; who asked is in the log"""
    os.chmod(daemon.socket_dir, 0o755)
    ctl = shutil.copy(CTL, daemon.socket_dir)
    start(simulator, daemon)

    def as_nobody(group, *args):
        return subprocess.run([ctl, "-s", daemon.socket, *args], user=65534, group=group, extra_groups=[], capture_output=True, text=True)
    assert as_nobody(os.getgid(), "poll", A).returncode == 0
    daemon.wait_line("event=verb mailbox=%s verb=poll peer_uid=65534 " % A)
    refused = as_nobody(65534, "poll", A)
    assert refused.returncode == 77 and "use sudo" in refused.stderr and "usermod -aG mailpolld" in refused.stderr
    assert "can also read the client secret" in refused.stderr


def test_watch(simulator, daemon):
    """In place, no more lines than the terminal has; a daemon that is gone is told there and waited for"""
    start(simulator, daemon, ["m%02d@contoso.example" % i for i in range(40)])
    daemon.wait(lambda s: s["totals"]["watching"] == 40)
    terminal = Terminal(CTL, "-s", daemon.socket, "status", "--watch", lines=15)
    page = terminal.wait("\x1b\\[H(.*?)\x1b\\[J").group(1)
    assert page.count("\n") <= 14 and "40 mailboxes: 40 watching" in page and "shows all of it" in page
    assert all(line.endswith("\x1b[K\r") for line in page.split("\n")[:-1])
    daemon.stop()
    assert "mailpolld is not running" in terminal.wait("\x1b\\[H([^\x1b]*not running.*?)\x1b\\[J").group(1)
    daemon.start()
    terminal.wait("\x1b\\[H([^\x1b]*up for.*?)\x1b\\[J")
    assert terminal.end(signal.SIGINT) == 0


def test_three_thousand(daemon):
    """In slices: nothing of the loop's time is taken by it. They are queued, since one may sign in each second."""
    addresses = ["box%04d@contoso.example" % i for i in range(3000)]
    daemon.config(addresses, defaults={"port": free_port()}, admission={"sessions_per_second": 1}, top={"log_level": "warning"})
    daemon.start()
    daemon.lag_ms()                             # it is counted anew after each answer
    began = time.monotonic()
    shown = daemon.ctl("status")
    took = time.monotonic() - began
    assert len(rows(shown.stdout)) == 3000 and len(shown.stdout.split("\n")) < 3030 and took < 10
    assert len(daemon.status("?match=box29*")["mailboxes"]) == 100
    lag_ms, most_ms = daemon.lag_ms()
    assert lag_ms <= most_ms


def test_completion(simulator, daemon):
    """In an interactive bash, where a word ends at an @"""
    start(simulator, daemon, ["support@contoso.example", "sales@contoso.example", "invoices@contoso.example"])
    home = daemon.socket_dir
    with open(os.path.join(home, "rc"), "w") as f:
        f.write("PS1='> '\nbind 'set enable-bracketed-paste off'\nbind 'set show-all-if-ambiguous on'\n"
                "mailpollctl() { if [ -t 1 ]; then echo \"ran [$*]\"; else \"%s\" -s \"%s\" \"$@\"; fi; }\n"
                ". \"%s/conf/mailpollctl.bash-completion\"\n" % (CTL, daemon.socket, ROOT))
    shell = Terminal("bash", "--noprofile", "--norc", "-i", env={"HOME": home, "INPUTRC": "/dev/null"})
    shell.type(". %s/rc\n" % home)
    for typed, expected in (
            ("tr", "trace"), ("poll in", "poll invoices@contoso.example"), ("trace support@con", "trace support@contoso.example"),
            ("-s %s poll sa" % daemon.socket, "-s %s poll sales@contoso.example" % daemon.socket), ("status --f", "status --failing"),
            ("status invoices@contoso.example --j", "status invoices@contoso.example --json"),
            ("resync sales@contoso.example --s", "resync sales@contoso.example --since"), ("quarantine l", "quarantine list"),
            ("log-level w", "log-level warning"), ("poll nobody@", "poll nobody@"), ("backup %s/r" % home, "backup %s/rc" % home)):
        shell.type("mailpollctl %s\t\n" % typed)
        assert shell.wait(r"ran \[(.*?)\]").group(1) == expected
    shell.type("mailpollctl poll s\t")
    shell.wait(r"sales@contoso\.example\s+support@contoso\.example")
    shell.type("\x15exit\n")
    shell.end(0)
