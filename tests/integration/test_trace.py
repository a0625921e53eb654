"""mailpollctl trace: a mailbox's wire, live."""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from lib.daemon import BUILD

A, B, C = "a@contoso.example", "b@contoso.example", "c@contoso.example"


class Trace:
    """mailpollctl trace, its lines as they come, without the time before each."""

    def __init__(self, daemon, address):
        self.lines, self.changed = [], threading.Condition()
        self.process = subprocess.Popen([os.path.join(BUILD, "mailpollctl"), "-s", daemon.socket, "trace", address], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.wait("-- %s, " % address)

    def read(self):
        for line in self.process.stdout:
            at, _, text = line.rstrip("\n").partition(" ")
            assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}Z", at), line
            with self.changed:
                self.lines.append(text)
                self.changed.notify_all()

    def wait(self, begin, timeout=30):
        until = time.monotonic() + timeout
        with self.changed:
            while not any(line.startswith(begin) for line in self.lines):
                assert time.monotonic() < until, "%s is not in\n%s" % (begin, "\n".join(self.lines))
                self.changed.wait(0.5)

    def end(self, how=None):
        """Its exit status and what it has complained of."""
        if how is not None:
            self.process.send_signal(how)
        code = self.process.wait(20)
        self.reader.join(10)
        complaint = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return code, complaint


def start(simulator, daemon, *addresses, **more):
    for address in addresses:
        simulator.mailbox(address)
    daemon.config(list(addresses), **more)
    daemon.start()
    for address in addresses:
        daemon.wait_state(address, "watching")


@pytest.mark.parametrize("without", [[], ["no-sasl-ir"]])
def test_secrets_and_bodies_are_left_out(simulator, daemon, without):
    """Both forms of AUTHENTICATE; literal, quoted and empty bodies; over two sessions, and only of this mailbox"""
    start(simulator, daemon, A, B)
    trace = Trace(daemon, A)
    for kind in without:
        simulator.fault(kind)
    simulator.post("/drop", address=A)
    trace.wait("-- session ended: ")
    trace.wait("-- watching")
    text = "From: x\r\nSubject: confidential\r\n\r\nThe treasure is under the oak.\r\n"
    simulator.fault("answer", A, command="UID FETCH", count=1,
                    line='* 1 FETCH (UID 1 FLAGS () INTERNALDATE "09-Jan-2026 02:02:12 +0000" BODY[] "treasure \\"here\\"")\n{tag} OK FETCH completed.')
    simulator.add(A, [{"text": text}])
    daemon.wait_delivered(A, 1)
    trace.wait("S: * 1 FETCH (UID 1 FLAGS () INTERNALDATE")
    simulator.add(A, [{"text": text}])
    simulator.add(B, [{"text": text}])
    daemon.wait_delivered(A, 2)
    daemon.wait_delivered(B, 1)
    trace.wait("S: <%d bytes>" % len(text))
    done = sum(line == "C: DONE" for line in trace.lines)
    daemon.poll(A)
    daemon.wait(lambda s: sum(line == "C: DONE" for line in trace.lines) > done)
    code, complaint = trace.end(signal.SIGINT)
    all_of_it = "\n".join(trace.lines)
    assert code == 0 and complaint == ""
    if without:
        assert re.search(r"C: A\d+ AUTHENTICATE XOAUTH2\nS: \+ ?\nC: <secret>\nS: A\d+ OK", all_of_it)
    else:
        assert re.search(r"C: A\d+ AUTHENTICATE XOAUTH2 <secret>\nS: A\d+ OK", all_of_it)
    assert 'BODY[] <19 bytes>)' in all_of_it
    assert "treasure" not in all_of_it and "confidential" not in all_of_it and not re.search(r"[A-Za-z0-9+/=_.-]{60,}", all_of_it)
    assert daemon.wait_line("event=verb mailbox=%s verb=trace peer_uid=%d " % (A, os.getuid()))


def test_several_readers(simulator, daemon):
    """Each sees all; one that ends takes nothing from the others; 16 at most"""
    start(simulator, daemon, A)
    traces = [Trace(daemon, A) for _ in range(16)]
    refused = daemon.ctl("trace", A)
    assert refused.returncode == 75 and "Too many traces" in refused.stderr
    for trace in traces[:14]:
        assert trace.end(signal.SIGTERM) == (0, "")
    simulator.add(A, [{"seed": 1, "size": 2000}])
    for trace in traces[14:]:
        trace.wait("S: <2000 bytes>")
    daemon.wait(lambda _: sum(1 for line in daemon.lines if "verb=trace" in line) == 16)
    more = Trace(daemon, A)
    more.wait("-- ")
    assert [t.end(signal.SIGINT) for t in (*traces[14:], more)] == [(0, "")] * 3
    assert daemon.ctl("trace", "nobody@contoso.example").returncode == 67


def test_without_a_session(simulator, daemon):
    """Attached before there is one: the failing sign-in is seen, with its reason"""
    simulator.mailbox(A)
    simulator.fault("auth-refused", A)
    daemon.config([A])
    daemon.start()
    daemon.wait_state(A, "backing-off")
    trace = Trace(daemon, A)
    assert trace.lines == ["-- %s, backing-off" % A]
    daemon.poll(A)
    trace.wait("-- session ended: authenticating: ")
    assert any(re.fullmatch(r"S: A\d+ NO AUTHENTICATE failed\.?", line) for line in trace.lines)
    simulator.clear(A)
    daemon.poll(A)
    trace.wait("-- watching")
    assert trace.end(signal.SIGINT) == (0, "")


@pytest.mark.parametrize("form,shown", [("echo", [r"S: A\d+ BAD unknown: AUTHENTICATE XOAUTH2 <\d+ bytes>", r"S: \* NO what is <"]),
                                        ("json-echo", [r"the server says of the refused sign-in: <\d+ bytes>"])])
def test_a_server_that_repeats_the_secret(simulator, daemon, form, shown):
    """In its answers, or in the mechanism's own words (exchange-online 4.2): neither trace nor log nor status has it"""
    simulator.mailbox(A)
    simulator.fault("auth-refused", A, form=form)
    daemon.config([A])
    daemon.start()
    daemon.wait_state(A, "backing-off")
    trace = Trace(daemon, A)
    daemon.poll(A)
    trace.wait("-- session ended: authenticating: ")
    assert trace.end(signal.SIGINT) == (0, "")
    told = "\n".join([*trace.lines, *daemon.lines, json.dumps(daemon.request("GET", "/mailboxes/" + A)[1])]).replace(daemon.directory, "")
    for text in shown:
        assert re.search(text, told), text
    assert not re.search(r"[A-Za-z0-9+/=_-]{80,}", told)


def test_reload_and_stop(simulator, daemon):
    """A reload leaves the trace of a mailbox that it leaves alone, ends the others; so does the daemon's stop"""
    start(simulator, daemon, A, B, C)
    traces = {address: Trace(daemon, address) for address in (A, B, C)}
    daemon.config([A, {"address": B, "after": "seen"}])
    assert daemon.ctl("reload").returncode == 0
    for address in (B, C):
        assert traces[address].end()[0] == 69
        assert traces[address].lines[-1] == "-- the trace ends: a reload has changed or removed this mailbox"
    daemon.poll(A)
    traces[A].wait("C: DONE")
    daemon.stop()
    assert traces[A].end() == (69, "") and traces[A].lines[-1] == "-- the trace ends: mailpolld stops"


def test_a_reader_that_is_too_slow(simulator, daemon):
    """Cut off when more than 1 MiB waits for it; the mailbox does not notice"""
    start(simulator, daemon, A, top={"log_level": "info"})
    simulator.fault("answer", A, command="UID SEARCH", count=1, line="* OK %s\n" % ("x" * 900) * 3000 + "* SEARCH 1\n{tag} OK SEARCH completed.")
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(20)
        slow.connect(daemon.socket)
        slow.sendall(b"GET /mailboxes/%s/trace HTTP/1.1\r\nHost: x\r\n\r\n" % A.encode())
        daemon.wait_line("verb=trace")
        simulator.add(A, [{"seed": 1, "size": 2000}])
        daemon.wait_delivered(A, 1)
        got = b""
        while data := slow.recv(1 << 20):
            got += data
    assert got.endswith(b"0\r\n\r\n") and b"-- the trace ends: its reader is too slow" in got[-300:]
    assert 1 << 20 <= len(got) < 3 << 19
    assert simulator.state(A)["logins"] == 1
