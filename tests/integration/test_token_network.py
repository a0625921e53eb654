"""The way to the token endpoint, and what comes back on it (exchange-online 3.1, 3.2: DNS, TCP, TLS, time-outs, answers that are none): each
fault before there is a token, and when it is to be renewed. What is expected: the failure's name and hint, soon tried again; a session that is open
goes on and its mail comes; all well again when the fault goes. The daemon's clock runs twenty times faster."""
import dataclasses
import re
import subprocess

import pytest

from lib.daemon import BUILD

ADDRESS = "support@contoso.example"
RATE = 10
REACH, BROKEN, NONE = "Cannot reach localhost", "localhost can be reached but does not answer", "localhost gave an answer that is none of a token endpoint"
BUSY, LIMITED = "localhost is temporarily unavailable; existing sessions continue", "localhost is limiting token requests"
MIB = "x" * (2 ** 20 + 1)


@dataclasses.dataclass
class Fault:
    id: str
    failure: str                # the row of the failure table
    hint: str
    line: dict = dataclasses.field(default_factory=dict)       # what the way does
    how: dict = dataclasses.field(default_factory=dict)        # how the answer comes
    answer: dict = dataclasses.field(default_factory=dict)     # one that is no token
    wait_s: tuple = (1, 1)


FAULTS = [
    Fault("refused", "connect", REACH, {"mode": "refuse"}),
    Fault("hang-tcp", "connect", REACH, {"mode": "hang-tcp"}),
    Fault("hang-tls", "connect", REACH, {"mode": "hang-tls"}),
    Fault("reset", "connect", REACH, {"mode": "reset"}),
    Fault("cut-in-the-handshake", "connect", REACH, {"cut_after": 90}),
    Fault("hang-in-the-handshake", "connect", REACH, {"hang_after": 90}),
    Fault("hang-after-the-request", "token-no-answer", BROKEN, how={"hang_after": 0}),
    Fault("hang-in-the-body", "token-no-answer", BROKEN, how={"hang_after": 900}),
    Fault("closed-after-the-request", "token-no-answer", BROKEN, how={"cut_after": 0}),
    Fault("cut-in-the-status-line", "token-no-answer", BROKEN, how={"cut_after": 8, "raw": True}),
    Fault("cut-in-the-head", "token-answer", NONE, how={"cut_after": 40}),
    Fault("cut-in-the-body", "token-no-answer", BROKEN, how={"cut_after": 900}),
    Fault("length-too-great-and-closed", "token-no-answer", BROKEN, how={"length": 5000, "cut_after": 5000, "raw": True}),
    Fault("length-too-great", "token-no-answer", BROKEN, how={"length": 5000}),         # it waits for the rest
    Fault("length-too-small", "token-answer", NONE, how={"length": 100}),
    Fault("length-zero", "token-answer", NONE, how={"length": 0}),
    Fault("no-length-cut-raw", "token-answer", NONE, how={"length": None, "cut_after": 900, "raw": True}),
    Fault("body-of-a-mib", "token-no-answer", BROKEN, answer={"status": 200, "body": MIB}),
    # the status says enough, and when to come again
    Fault("page-of-a-mib", "token-unavailable", BUSY, answer={"status": 503, "body": MIB}),
    Fault("throttled-and-cut", "token-throttled", LIMITED, how={"cut_after": 300, "raw": True}, answer={"status": 429, "retry_after": 10, "body": MIB}, wait_s=(10, 11)),
    Fault("unavailable-and-hangs", "token-unavailable", BUSY, how={"hang_after": 300}, answer={"status": 503, "retry_after": 10, "body": MIB}, wait_s=(10, 11)),
]


class Scene:
    def __init__(self, simulator, daemon):
        self.simulator, self.daemon = simulator, daemon
        self.line = simulator.post("/line", server="token")["port"]
        simulator.token_url = re.sub(r":\d+/", ":%d/" % self.line, simulator.token_url)
        simulator.mailbox(ADDRESS)
        simulator.post("/token", life_s=160, refresh_in=40)         # renewed after 40 to 56 s
        daemon.config([ADDRESS])

    def set(self, fault):
        if fault.how or fault.answer:
            self.simulator.post("/token", fail={"how": fault.how, **fault.answer})
        else:
            self.simulator.post("/line", port=self.line, end=True, **fault.line)

    def clear(self, fault):
        if fault.line:
            self.simulator.post("/line", port=self.line)        # for a moment nobody listens
        self.simulator.post("/token", fail=None)

    def add(self):
        self.simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
        self.daemon.wait_delivered(ADDRESS, len(self.simulator.folder(ADDRESS)["messages"]))

    def credential(self, *states):
        return self.daemon.wait(lambda s: s["credentials"][0]["state"] in states)["credentials"][0]


@pytest.fixture
def scene(simulator, make_daemon):
    return Scene(simulator, make_daemon(program="mailpolld-scaled"))


@pytest.mark.parametrize("fault", FAULTS, ids=[f.id for f in FAULTS])
def test_way_to_the_token(scene, fault):
    """exchange-online 3.1, 3.2, 3.3"""
    daemon = scene.daemon
    scene.set(fault)
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(RATE)})
    line = daemon.wait_line("event=token-failed")
    assert "failure=%s " % fault.failure in line and fault.hint in line and fault.wait_s[0] <= int(re.search(r"trying again in (\d+) s", line).group(1)) <= fault.wait_s[1], line
    scene.clear(fault)
    daemon.wait_state(ADDRESS, "watching")
    scene.add()
    # the renewal
    scene.set(fault)
    credential = scene.credential("stale")
    assert fault.hint in credential["hint"], credential
    scene.add()
    assert daemon.of(ADDRESS)["failures"] == 0 and scene.simulator.state(ADDRESS)["logins"] == 1
    scene.clear(fault)
    credential = scene.credential("fresh")
    assert credential["error"] is None and not daemon.has_line("sign-in-failed|mailbox-stalled")
    failed = [line for line in daemon.lines if "event=token-failed" in line]
    assert all("failure=%s " % fault.failure in line for line in failed), failed


def test_answers_that_come_oddly(scene):
    """One byte at a time, on the wire and in records of TLS; without a length, or close_notify: a token all the same"""
    ways = [{"single": True}, {"raw": True}, {"length": None}, {"length": None, "raw": True}, {}]
    scene.simulator.post("/line", port=scene.line, chunk=1)
    scene.simulator.post("/token", life_s=20, refresh_in=None, script=[{"how": how} for how in ways])
    scene.daemon.start(env={"MAILPOLLD_CLOCK_RATE": "5"})           # so many bytes by themselves take a busy machine its time
    scene.simulator.wait("token_requests", len(ways) + 1)
    scene.add()
    assert not scene.daemon.has_line("failure=") and scene.daemon.of(ADDRESS)["failures"] == 0


NO_NAMES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <unistd.h>
typedef int function(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list)
{
	return access(getenv("NO_NAMES"), F_OK) == 0 ? EAI_NONAME : ((function *)dlsym(RTLD_NEXT, "getaddrinfo"))(host, service, hints, list);
}
"""


@pytest.mark.skipif("asan" in BUILD, reason="its library must be loaded first")
def test_name_that_is_not_found(scene, tmp_path):
    """exchange-online 3.2: told, and tried again soon; an address that was found within the hour is used while the name is not found (RFC 8767)"""
    daemon, simulator, no_names, library = scene.daemon, scene.simulator, tmp_path / "no-names", str(tmp_path / "no-names.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=NO_NAMES, text=True, check=True)
    simulator.post("/token", life_s=240, refresh_in=90)         # renewed after 66 to 114 s: a minute's answer is not asked for again
    no_names.touch()
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(RATE), "LD_PRELOAD": library, "NO_NAMES": str(no_names)})
    line = daemon.wait_line("event=token-failed")
    assert "failure=resolve " in line and "The name localhost is not found: check DNS" in line and "trying again in 1 s" in line, line
    no_names.unlink()
    daemon.wait_state(ADDRESS, "watching")
    no_names.touch()
    scene.add()
    simulator.wait("token_requests", 2)
    simulator.post("/drop", address=ADDRESS)
    simulator.wait("logins", 2, ADDRESS)
    scene.add()
    credential = scene.credential("fresh")
    assert credential["error"] is None and daemon.of(ADDRESS)["failures"] == 0 and not daemon.has_line("sign-in-failed|mailbox-stalled")
    assert all("failure=resolve " in line for line in daemon.lines if "event=token-failed" in line)
