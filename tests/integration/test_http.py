"""The control socket and the metrics port against clients that are odd, slow, many or rude: all is bounded, and others are answered."""
import json
import os
import re
import select
import socket
import time

import pytest

from lib.ports import free_port

A = "a@contoso.example"
CLIENTS = 64            # of http_server.c
TOO_LONG = 400, 413, None       # nothing at all when it closes before it has read what was still sent


@pytest.fixture
def served(simulator, make_daemon):
    """A daemon whose clock runs 4 times too fast: 10 s for a request are 2.5 s, which leaves a busy machine time."""
    daemon = make_daemon("daemon", "mailpolld-scaled")
    daemon.port = free_port()
    simulator.mailbox(A)
    daemon.config([A], top={"metrics_listen": "127.0.0.1:%d" % daemon.port})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "4"})
    daemon.wait_state(A, "watching")
    return daemon


def connect(daemon, to):
    if to == "metrics":
        return socket.create_connection(("127.0.0.1", daemon.port), 20)
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(daemon.socket)
    return s


def read_all(s):
    got = b""
    try:
        while data := s.recv(65536):
            got += data
    except ConnectionResetError:
        pass
    return got


def ask(daemon, to, data):
    with connect(daemon, to) as s:
        try:
            s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return read_all(s)


def code(answer):
    found = re.match(rb"HTTP/1\.[01] (\d+) ", answer)
    return int(found.group(1)) if found else None


def is_alive(daemon):
    return daemon.status("?summary=1")["schema"] == 1 and code(ask(daemon, "metrics", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")) == 200


@pytest.mark.parametrize("to", ["control", "metrics"])
def test_garbage(served, to):
    request = "GET /healthz HTTP/1.1" if to == "metrics" else "GET /status?summary=1 HTTP/1.1"
    for data, expected in (
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", None),            # TLS: no line ever comes
            (b"\0" * 5000, None),
            (b"HELO there\r\n\r\n", 400),
            (b"GET / HTTP/9.9\r\n\r\n", None),
            (b"GET %zz HTTP/1.1\r\n\r\n", 400),
            (b"GET /mailboxes/%4 HTTP/1.1\r\n\r\n", 400),
            (b"GET /mailboxes/a%00b HTTP/1.1\r\n\r\n", 400),
            (b"GET /status?match=%g1 HTTP/1.1\r\n\r\n", 400),
            (b"GET //../../etc/passwd HTTP/1.1\r\n\r\n", 404),
            (b"BREW /coffee HTTP/1.1\r\n\r\n", None),
            (b"DELETE /metrics HTTP/1.1\r\n\r\n" if to == "metrics" else b"DELETE /status HTTP/1.1\r\n\r\n", 405),
            (request.encode() + b"\r\nX: " + b"y" * 20000 + b"\r\n\r\n", TOO_LONG),
            (request.encode() + b"\r\n" + b"X-A: b\r\n" * 5000 + b"\r\n", TOO_LONG),
            (b"POST /reload HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n" + b"z" * 200000, TOO_LONG),
            (b"POST /reload HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            (b"POST /reload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"8000\r\n" + b"z" * 0x8000 + b"\r\n8000\r\n" + b"z" * 0x8000 +
             b"\r\n8000\r\n" + b"z" * 0x8000 + b"\r\n", TOO_LONG),
            (request.encode() + b"\r\nHost: x\r\n\r\n", 200),
            (request.encode() + b"\r\nHost: x\r\n\r\n" + request.encode() + b"\r\nHost: x\r\n\r\n", 200)):
        answer = ask(served, to, data)
        if expected is not None:
            assert code(answer) in (expected if isinstance(expected, tuple) else (expected,)), (data[:60], answer[:200])
        assert answer.count(b"HTTP/1.1 200") <= 1, data[:60]            # one request on a connection
    assert is_alive(served) and not served.has_line("event=reloaded")


@pytest.mark.parametrize("to", ["control", "metrics"])
def test_a_slow_request_is_cut_off(served, to):
    """A byte now and then does not keep it: the whole has 10 s"""
    began = time.monotonic()
    with connect(served, to) as s:
        s.sendall(b"GET /status HTTP/1.1\r\nX: ")
        while not select.select([s], [], [], 0.1)[0]:
            try:
                s.sendall(b"y")
            except OSError:             # closed meanwhile
                break
            assert time.monotonic() - began < 10
        answer = read_all(s)
        assert answer == b"" or code(answer) != 200
        assert time.monotonic() - began > 2     # 10 s of its own are 2.5
    assert is_alive(served)


def descriptors(daemon):
    return len(os.listdir("/proc/%d/fd" % daemon.process.pid))


@pytest.mark.parametrize("to", ["control", "metrics"])
def test_many_connections(served, to):
    """More than may be: the next ones wait, and the others' silence ends within their 10 s"""
    before = descriptors(served)
    silent = [connect(served, to) for _ in range(CLIENTS)]
    later = [connect(served, to) for _ in range(40)]
    for s in later:
        s.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" if to == "metrics" else b"GET /status?summary=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    try:
        most, until = 0, time.monotonic() + 9
        while most <= CLIENTS / 2 and time.monotonic() < until:     # it takes them when it comes to it
            most = max(most, descriptors(served) - before)
        most = max(most, *(descriptors(served) - before for _ in range(200)))
        assert CLIENTS / 2 < most <= CLIENTS + 1
        assert is_alive(served)
        for s in silent:
            assert read_all(s) == b""
        for s in later:
            assert code(read_all(s)) == 200
    finally:
        for s in silent + later:
            s.close()
    assert is_alive(served)


def test_a_reader_that_does_not_read(simulator, served):
    """A status longer than any socket's buffer: cut off after 30 s; others are answered meanwhile"""
    addresses = ["b%04d@contoso.example" % i for i in range(3000)]
    served.config([A, *addresses], defaults={"host": "localhost", "port": free_port()}, admission={"sessions_per_second": 1})
    assert served.ctl("reload").returncode == 0
    with connect(served, "control") as s:
        s.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert len(served.status()["mailboxes"]) == 3001
        hung_up = select.poll()
        hung_up.register(s, select.POLLRDHUP)
        assert hung_up.poll(20000)
        answer = read_all(s)
        assert code(answer) == 200 and not answer.endswith(b"0\r\n\r\n")
    lag_ms, most_ms = served.lag_ms()
    assert lag_ms < 4 * most_ms             # of a clock that is four times faster
    assert json.loads(served.ctl("status", "--json").stdout)["totals"]["mailboxes"] == 3001


def test_clients_that_go_away(simulator, served, tmp_path):
    """At any moment of a request, of an answer that comes later, of one in pieces, of a trace; the last ones while the daemon stops"""
    addresses = ["b%04d@contoso.example" % i for i in range(500)]
    served.config([A, *addresses], defaults={"host": "localhost", "port": free_port()}, admission={"sessions_per_second": 1})
    paths = ["GET /status", "POST /reload", "GET /mailboxes/%s/trace" % A, "GET /quarantine", "POST /backup?file=%s/copy" % tmp_path, "GET /status?summary=1",
             "POST /forget/nobody"]
    held = []
    for i in range(140):
        request = ("%s HTTP/1.1\r\nHost: x\r\n\r\n" % paths[i % len(paths)]).encode()
        s = connect(served, "control")
        s.sendall(request if i % 3 else request[:i % len(request)])
        if i % 5 == 0:
            s.recv(10 if i % 3 else 0)
        if i < 126:
            s.close()
        else:
            held.append(s)
    assert served.status("?summary=1")["schema"] == 1
    assert served.stop() == 0, "\n".join(served.lines[-60:])
    for s in held:
        s.close()
