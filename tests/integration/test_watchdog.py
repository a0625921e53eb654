"""What the service manager's watchdog hears (promise 8): each of its checks, broken; and what must not break it. The clock runs fast."""
import os
import signal
import subprocess
import threading
import time

import pytest

from lib.daemon import BUILD
from lib.gate import Gate
from lib.maildir import Maildir
from lib.metrics import wait_numbers
from lib.ports import free_port

A, B, C = "a@contoso.example", "b@contoso.example", "c@contoso.example"
RATE, PING_S = 60, 5
FAST = {"MAILPOLLD_CLOCK_RATE": str(RATE), "WATCHDOG_USEC": str(2 * PING_S * 1000000)}


def pings(daemon, since=0.0):
    return [at for at, line in daemon.notified if line == "WATCHDOG=1" and at >= since]


def wait_pings(daemon, n):
    """So many from now on, each PING_S of the daemon's clock after the one before."""
    since = time.monotonic()
    daemon.wait_changed(lambda: len(pings(daemon, since)) >= n, 30, "%d pings" % n)


@pytest.mark.parametrize("whose", ["mail", "state"])
def test_disk_that_hangs(simulator, make_daemon, tmp_path, whose):
    """Health is down after 20 s; the ping goes on for 180 s; then it is withheld until the disk answers. Nothing is lost."""
    daemon = make_daemon(program="mailpolld-scaled")
    gate = Gate(tmp_path / "gate", daemon.directory + "/" + whose)
    simulator.mailbox(A)
    daemon.config([A])
    daemon.start(env={**FAST, **gate.env})
    daemon.wait_state(A, "watching")
    simulator.add(A, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(A, 1)
    before = time.monotonic()
    gate.shut()
    simulator.add(A, [{"seed": 2, "size": 1500}])
    gate.wait_stalled()
    stalled = time.monotonic()
    status = daemon.wait(lambda s: s["health"] == "down")
    assert time.monotonic() - before >= 20 / RATE and [r["what"] for r in status["reasons"]] == ["disk"], status["reasons"]
    daemon.wait_line("level=error .*the watchdog's ping is withheld")
    assert time.monotonic() - before >= 180 / RATE
    assert max(pings(daemon)) - stalled >= 60 / RATE
    threading.Event().wait(0.5)                 # what was sent before may be read late
    withheld = time.monotonic()
    threading.Event().wait(10 * PING_S / RATE)       # in which nothing is to be heard
    assert pings(daemon, withheld) == []
    gate.open()
    daemon.wait_line("the watchdog's ping goes out again")
    wait_pings(daemon, 2)
    daemon.wait_delivered(A, 2)
    assert Maildir(daemon.maildir(A)).sums() == {digest: 1 for digest in simulator.sums(A).values()}
    daemon.wait(lambda s: s["health"] == "ok")


SLOW_GROUPS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <grp.h>
#include <stdlib.h>
#include <unistd.h>
typedef int function(const char *, struct group *, char *, size_t, struct group **);
int getgrnam_r(const char *name, struct group *group, char *room, size_t size, struct group **found)
{
	while (access(getenv("SLOW_GROUPS"), F_OK) == 0)
		usleep(10000);
	return ((function *)dlsym(RTLD_NEXT, "getgrnam_r"))(name, group, room, size, found);
}
"""


@pytest.mark.skipif("asan" in BUILD, reason="its library must be loaded first")
def test_directory_service_that_hangs(simulator, make_daemon, tmp_path):
    """A reload waits for it, to learn which group that is; the mail does not, and no disk is at fault"""
    daemon, slow, library = make_daemon(program="mailpolld-scaled"), tmp_path / "slow", str(tmp_path / "slow.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=SLOW_GROUPS, text=True, check=True)

    def config(*addresses):
        daemon.config(list(addresses), {"deliver": {"maildir": os.path.join(daemon.directory, "mail", "%{address}"), "group": "mail"}})
    simulator.mailbox(A), simulator.mailbox(B)
    config(A)
    daemon.start(env={**FAST, "LD_PRELOAD": library, "SLOW_GROUPS": str(slow)})
    daemon.wait_state(A, "watching")
    slow.touch()
    config(A, B)
    asked = time.monotonic()
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_notified("RELOADING=1", since=asked)
    while time.monotonic() < asked + 200 / RATE:        # longer than any disk may take
        wait_pings(daemon, 1)
        assert daemon.status("?summary=1")["health"] == "ok"
    simulator.add(A, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(A, 1)
    assert len(daemon.status()["mailboxes"]) == 1 and not daemon.has_line("ping is withheld")
    slow.unlink()
    daemon.wait_line("event=reloaded .*1 mailboxes added")
    daemon.wait_state(B, "watching")


def test_program_on_a_disk_that_hangs(simulator, make_daemon, tmp_path):
    """Neither the loop nor another program waits for it; it is a disk like another: told after 20 s. Its message is not lost."""
    daemon, programs = make_daemon(program="mailpolld-scaled"), tmp_path / "programs"
    programs.mkdir()
    take, other = programs / "take", tmp_path / "other"
    for path in (take, other):
        path.write_text("#!/bin/sh\ncat > /dev/null\n")
        path.chmod(0o755)
    gate = Gate(tmp_path / "gate", programs)
    for address in (A, B, C):
        simulator.mailbox(address)
    daemon.config([{"address": A, "deliver": {"command": [str(take)]}}, {"address": B, "deliver": {"command": [str(other)]}}, C])
    daemon.start(env={**FAST, **gate.env, "MAILPOLLD_CLOCK_RATE": str(RATE // 2)})
    daemon.wait(lambda s: s["totals"]["watching"] == 3)
    gate.shut()
    simulator.add(A, [{"seed": 1, "size": 1500}])
    gate.wait_stalled()
    for address in (B, C):
        simulator.add(address, [{"seed": 2, "size": 1500}])
        daemon.wait_delivered(address, 1)
    daemon.wait(lambda s: s["health"] == "down" and [r["what"] for r in s["reasons"]] == ["disk"])
    wait_pings(daemon, 2)
    assert daemon.of(A)["folders"][0]["delivered"] == 0
    gate.open()
    daemon.wait_delivered(A, 1)
    daemon.wait(lambda s: s["health"] == "ok")
    assert not daemon.has_line("withheld")


def test_backup_that_hangs(simulator, make_daemon, tmp_path):
    """A copy of the state may go to a slow place: mail flows on, the health is good, the ping goes out"""
    daemon, away = make_daemon(program="mailpolld-scaled"), tmp_path / "away"
    away.mkdir()
    gate = Gate(tmp_path / "gate", away)
    simulator.mailbox(A)
    daemon.config([A])
    daemon.start(env={**FAST, **gate.env, "MAILPOLLD_CLOCK_RATE": str(RATE // 2)})      # its answer must come within ten minutes
    daemon.wait_state(A, "watching")
    gate.shut()
    backup = subprocess.Popen([os.path.join(BUILD, "mailpollctl"), "-s", daemon.socket, "backup", str(away / "copy")])
    gate.wait_stalled()
    simulator.add(A, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(A, 1)
    wait_pings(daemon, 200 // PING_S)
    assert daemon.status()["health"] == "ok" and backup.poll() is None
    gate.open()
    assert backup.wait(30) == 0 and not daemon.has_line("withheld")


def test_mailbox_past_its_deadline(simulator, make_daemon):
    """A server that talks without ever answering: the session is torn down, counted, told and started anew; the ping goes on"""
    daemon, port = make_daemon(program="mailpolld-scaled"), free_port()
    simulator.mailbox(A)
    simulator.mailbox(B)
    simulator.fault("chatter", A, command="UID SEARCH", every_s=0.1)
    daemon.config([A, B], top={"metrics_listen": "127.0.0.1:%d" % port})
    daemon.start(env=FAST)
    wait_numbers(daemon, port, mailbox_stalls_total=0)
    simulator.wait("logins", 1, A)
    before = time.monotonic()
    line = daemon.wait_line("event=mailbox-stalled mailbox=%s .*no progress within the deadline" % A)
    assert time.monotonic() - before >= 170 / RATE, line
    simulator.clear(A)
    simulator.add(A, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(A, 1)
    wait_pings(daemon, 2)
    wait_numbers(daemon, port, mailbox_stalls_total=1)
    assert simulator.state(A)["logins"] == 2 and simulator.state(B)["logins"] == 1
    assert daemon.wait_line("event=mailbox-recovered mailbox=%s" % A) and not daemon.has_line("withheld")


def test_waiting_for_others(simulator, make_daemon):
    """A command that hangs, a token that does not come, a sink that takes nothing: for ten minutes, and the ping goes on"""
    daemon = make_daemon(program="mailpolld-scaled")
    for address in (A, B, C):
        simulator.mailbox(address)
        simulator.add(address, [{"seed": 1, "size": 1500}])
    with open(daemon.directory + "/file", "w"):
        pass
    daemon.config([{"address": A, "deliver": {"command": ["/bin/sleep", "600"], "timeout": "10h"}},
                   {"address": B, "deliver": {"maildir": daemon.directory + "/file/maildir"}}, C])
    daemon.start(env={**FAST, "MAILPOLLD_CLOCK_RATE": "60"})
    daemon.wait_delivered(C, 1)
    daemon.wait_state(B, "held")
    daemon.wait(lambda s: any(sink["running"] == 1 for sink in s["sinks"]))
    simulator.post("/token", hang=True)
    simulator.post("/expire")
    daemon.wait_state(C, "waiting-token", "backing-off")
    wait_pings(daemon, 600 // PING_S)
    assert not daemon.has_line("withheld")
