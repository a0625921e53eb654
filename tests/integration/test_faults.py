"""The fault matrix: each fault at first contact, in IDLE, and in the middle of a batch. What is expected: the failure's name, its hint, its
wait; nothing lost, nothing twice; the other mailbox undisturbed; recovered when the fault goes. The daemon's clock runs ten times
faster, so that deadlines and waits of minutes can be seen to their end."""
import calendar
import dataclasses
import re
import time
import urllib.request

import pytest

from lib.maildir import Maildir
from lib.ports import free_port

GOOD, BAD = "good@contoso.example", "bad@contoso.example"
RATE = 10                       # a pause of the machine is no deadline
POLL_ABOVE_S = 35               # longer waits are not waited for


@dataclasses.dataclass
class Fault:
    id: str
    failure: str                # the row of the failure table; "" when there is nothing to complain about
    wait: tuple = (0, 0)        # seconds, at least and at most, as the log says
    hint: str = ""
    kind: str = ""
    more: dict = dataclasses.field(default_factory=dict)
    line: dict = None           # what the way to the server does
    by_line: bool = False       # for who comes that way, since it is not known yet which mailbox that is


NETWORK, UNAVAILABLE = (1, 2), (1, 5)


def answer(ident, failure, wait, hint, line, close=False, **more):
    return Fault(ident, failure, wait, hint, "answer", {"line": line, "close": close, **more})


def at_once(ident, failure, wait, hint, kind, **more):
    return Fault(ident, failure, wait, hint, kind, more, by_line=True)


# what comes in place of an answer; exchange-online's section beside it
ANSWERS = [
    Fault("throttle-no", "throttled", (20, 22), "throttling mailbox bad@contoso.example for 20 seconds", "throttle", {"form": "NO", "ms": 20000}),     # 5.6
    Fault("throttle-bad", "throttled", (20, 22), "throttling mailbox", "throttle", {"form": "BAD", "ms": 20000}),
    Fault("throttle-bad-bye", "throttled", (20, 22), "throttling mailbox", "throttle", {"form": "BAD-BYE", "ms": 20000}),
    Fault("throttle-bye", "throttled", (20, 22), "throttling mailbox", "throttle", {"form": "BYE", "ms": 20000}),
    Fault("throttle-untagged", "throttled", (30, 33), "throttling mailbox", "throttle", {"form": "untagged", "ms": 20000}),
    Fault("throttle-a-day", "throttled", (3600, 3960), "throttling mailbox", "throttle", {"form": "NO", "ms": 86400000}),      # clamped
    Fault("unavailable-no", "unavailable", UNAVAILABLE, "nothing to change here", "unavailable", {"form": "NO"}),               # 5.4
    Fault("unavailable-bad", "unavailable", UNAVAILABLE, "nothing to change here", "unavailable", {"form": "BAD"}),
    Fault("unavailable-bare", "unavailable", UNAVAILABLE, "nothing to change here", "unavailable", {"form": "bare"}),
    answer("not-connected", "no-access", (30, 300), "Add-MailboxPermission bad@contoso.example", "{tag} BAD User is authenticated but not connected."),    # 5.1
    answer("closed-14", "closed-number", (30, 33), "", "* BYE Connection closed. 14", True),                                        # 5.5
    answer("closed-99", "closed-number", (30, 33), "closed the connection of bad@contoso.example after errors or too many", "* BYE Connection closed. 99", True),   # 5.5
    answer("throttled-then-closed", "throttled", (20, 22), "throttling mailbox", "* NO Request is throttled. Suggested Backoff Time: 20000 milliseconds", True),     # 5.6
    answer("bad-then-cut", "command-refused", (30, 60), "please report", "* BAD Command Error. 10", "raw"),                  # 5.5
    answer("command-error", "command-refused", (30, 60), "please report", "{tag} BAD Command Error. 10"),                     # 5.7
    answer("argument-error", "argument-refused", (30, 60), "please report", "{tag} BAD Command Argument Error. 11"),
    answer("invalid-state", "invalid-state", UNAVAILABLE, "begins a new one", "{tag} BAD Command received in Invalid state."),                # 5.14
    answer("bad", "bad", UNAVAILABLE, "did not take a command for bad@contoso.example", "{tag} BAD That was nothing."),
    answer("serverbug", "unavailable", UNAVAILABLE, "nothing to change here", "{tag} NO [SERVERBUG] Internal server error."),    # 5.14
    answer("code-unavailable", "unavailable", UNAVAILABLE, "nothing to change here", "{tag} NO [UNAVAILABLE] Later."),          # RFC 5530
    answer("code-throttled", "throttled", (300, 330), "throttling mailbox bad@contoso.example for 300 seconds", "{tag} NO [THROTTLED] Slow down."),
    answer("in-use", "in-use", UNAVAILABLE, "stop other clients on it", "{tag} NO [INUSE] Locked."),
    answer("limit", "in-use", UNAVAILABLE, "stop other clients on it", "{tag} NO [LIMIT] Too many."),                           # 8
    answer("wrong-tag", "protocol", NETWORK, "what is not IMAP", "Z99 OK SEARCH completed."),
    answer("uid-too-large", "protocol", NETWORK, "what is not IMAP", "* SEARCH 1 4294967296\n{tag} OK SEARCH completed."),
    Fault("two-tagged-replies", "protocol", NETWORK, "what is not IMAP", "two-tags"),
    Fault("garbage", "protocol", NETWORK, "what is not IMAP", "garbage"),
    Fault("line-of-a-gib", "protocol", NETWORK, "what is not IMAP", "long-line"),
    Fault("hang", "network", NETWORK, "timed out while in a command", "hang"),
    Fault("close-without-notify", "network", NETWORK, "connection closed by the server", "close-raw"),                                                         # 5.11
]
# what befalls a connection before it has signed in
SIGN_INS = [
    Fault("auth-refused", "sign-in-refused", (6, 60), "New-ServicePrincipal was run with the Object ID", "auth-refused"),        # 5.2
    Fault("auth-refused-bye", "sign-in-refused", (6, 60), "New-ServicePrincipal was run with the Object ID", "auth-refused", {"form": "bye"}),      # 5.2
    Fault("no-permission", "no-access", (30, 300), "Set-CASMailbox bad@contoso.example -ImapEnabled $true", "no-permission"),    # 5.1
    Fault("inbox-refused", "folder-refused", (30, 300), "INBOX is refused for a while when a mailbox is being moved", "select-no"),    # 5.14
    Fault("auth-hangs", "network", NETWORK, "timed out while authenticating", "hang-authenticate"),
    Fault("hangs-after-auth", "network", NETWORK, "timed out while asking capabilities again", "hang", {"command": "CAPABILITY"}),
    answer("auth-throttled", "throttled", (20, 22), "throttling mailbox", "{tag} NO Request is throttled. Suggested Backoff Time: 20000 milliseconds", command="AUTHENTICATE"),
    answer("auth-unavailable", "unavailable", UNAVAILABLE, "nothing to change here", "{tag} NO Server Unavailable. 15", command="AUTHENTICATE"),
    answer("auth-closed", "sign-in-closed", (30, 60), "sign-ins may have failed too often", "* BYE Connection is closed.", True, command="AUTHENTICATE"),
    answer("auth-bad", "command-refused", (30, 60), "please report", "{tag} BAD Command Error. 10", command="AUTHENTICATE"),
    Fault("auth-cut", "network", NETWORK, "authenticating: ", "close-raw", {"command": "AUTHENTICATE"}),
    at_once("hang-greeting", "network", NETWORK, "timed out while awaiting the greeting", "hang-greeting"),
    at_once("closed-for-a-greeting", "closed-number", (30, 33), "after errors or too many", "greeting", line="* BYE Connection is closed. 14", close=True),   # 5.5
    at_once("not-imap", "protocol", NETWORK, "lead to the IMAP server", "greeting", line="HTTP/1.1 400 Bad Request"),
    at_once("preauth", "protocol", NETWORK, "lead to the IMAP server", "greeting", line="* PREAUTH welcome"),
    at_once("no-greeting", "network", NETWORK, "greeting: connection closed by the server", "close-on-connect"),
    at_once("no-xoauth2", "no-xoauth2", (6, 60), "does not offer XOAUTH2", "options", before="P2", without=["AUTH=XOAUTH2"]),
    at_once("hang-capability", "network", NETWORK, "timed out while asking capabilities", "hang", command="CAPABILITY"),
    Fault("refuse", "connect", NETWORK, "Cannot reach localhost", line={"mode": "refuse"}),
    Fault("hang-tcp", "connect", NETWORK, "Cannot reach localhost", line={"mode": "hang-tcp"}),
    Fault("hang-tls", "tls", NETWORK, "no firewall interferes", line={"mode": "hang-tls"}),
    Fault("reset", "tls", NETWORK, "no firewall interferes", line={"mode": "reset"}),
    Fault("cut-in-tls", "tls", NETWORK, "no firewall interferes", line={"cut_after": 90}),
    Fault("hang-in-tls", "tls", NETWORK, "no firewall interferes", line={"hang_after": 90}),
]
# what befalls a message while it comes
BODIES = [
    Fault("close-in-a-literal", "network", NETWORK, "fetching: connection closed by the server", "close-mid-literal", {"after": 700}),                                   # 5.8 C
    Fault("hang-in-a-literal", "network", NETWORK, "timed out while in a command", "hang-mid-literal", {"after": 700}),
    Fault("literal-longer-than-told", "protocol", NETWORK, "what is not IMAP", "lie", {"by": -40}),
    Fault("literal-shorter-than-told", "network", NETWORK, "", "lie", {"by": 100000}),
    Fault("literal-of-4-eib", "protocol", NETWORK, "what is not IMAP", "lie", {"by": 2 ** 62}),
]
# what befalls one message as long as it lasts; 5.8 A, B, C and 5.9
MESSAGES = [("fetch-empty", {}), ("substitute", {}), ("fetch-no", {}), ("fetch-no", {"text": "Server Unavailable. 15"}), ("close-mid-literal", {"after": 700}), ("body-nil", {"form": "NIL"})]
# what comes while it idles, unasked
IN_IDLE = [
    Fault("throttle-bye", "throttled", (20, 22), "throttling mailbox bad@contoso.example for 20 seconds", "throttle", {"form": "BYE", "ms": 20000}),    # 5.6
    Fault("throttle-untagged", "throttled", (30, 33), "throttling mailbox", "throttle", {"form": "untagged", "ms": 20000}),
    Fault("unavailable-bare", "unavailable", UNAVAILABLE, "nothing to change here", "unavailable", {"form": "bare"}),           # 5.4
    answer("closed-14", "closed-number", (30, 33), "", "* BYE Connection closed. 14", True),                                        # 5.5
    answer("bad-then-closed", "command-refused", (30, 60), "please report", "* BAD Command Error. 10\n* BYE Connection closed. 14", True),
    answer("wrong-tag", "protocol", NETWORK, "what is not IMAP", "Z99 OK IDLE completed."),
    Fault("two-tagged-replies", "protocol", NETWORK, "what is not IMAP", "two-tags"),
    Fault("garbage", "protocol", NETWORK, "what is not IMAP", "garbage"),
    Fault("line-of-a-gib", "protocol", NETWORK, "what is not IMAP", "long-line"),
]
TO_DONE = [f for f in ANSWERS if f.id in ("unavailable-bare", "unavailable-no", "throttle-bad-bye", "closed-14", "invalid-state")] + [     # 5.4, 5.5, 5.6, 5.14
    answer("alert-then-unavailable", "unavailable", UNAVAILABLE, "nothing to change here",
           "* OK [ALERT] Your mailbox is almost full\n* 3 EXISTS\n* 0 RECENT\nServer Unavailable. 15\n* BYE Connection closed.", True),
]
# how sessions that idle end every day: signed in again at once, nothing is counted
ORDINARY = [
    answer("token-expired", "", (0, 0), "", "* BYE Session invalidated - AccessTokenExpired", True),                            # 5.3
    answer("invalidated", "", (0, 0), "", "* BYE Session invalidated", True),
    answer("closed", "", (0, 0), "", "* BYE Connection closed.", True),
    answer("warned", "", (0, 0), "", "* NO Mailbox is at 98% of quota\n* BYE Connection closed.", True),                         # RFC 3501 7.1.2
    Fault("close-without-notify", "", (0, 0), "", "close-raw"),                                                                 # 5.11
    Fault("cut", "", line={"mode": "ok"}),
]


def of_one_that_worked(fault):
    """It is tried again sooner (exchange-online 5.1)."""
    return dataclasses.replace(fault, wait=(6, 60)) if fault.failure in ("no-access", "folder-refused") else fault


def ids(faults):
    return {"argvalues": faults, "ids": [f.id for f in faults]}


class Scene:
    def __init__(self, simulator, daemon):
        self.simulator, self.daemon = simulator, daemon
        self.line = simulator.post("/line")["port"]
        self.seed = 0
        simulator.mailbox(GOOD)
        simulator.mailbox(BAD)
        daemon.config([GOOD, {"address": BAD, "port": self.line}])

    def add(self, address, n=1):
        self.seed += n
        return self.simulator.add(address, [{"seed": self.seed + i * 1000, "size": 2000} for i in range(n)])

    def start(self, rate=RATE):
        self.daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(rate)})

    def watch(self, rate=RATE):
        self.start(rate)
        self.daemon.wait(lambda s: all(m["state"] == "watching" and m["folders"][0]["backlog"] == 0 for m in s["mailboxes"]))

    def set(self, fault, **more):
        if fault.line is not None:
            self.simulator.post("/line", port=self.line, **fault.line, end=True)
        elif fault.by_line:
            self.simulator.post("/fault", port=self.line, kind=fault.kind, **fault.more)
        else:
            self.simulator.fault(fault.kind, BAD, **fault.more, **more)

    def clear(self):
        self.simulator.clear(BAD)
        self.simulator.post("/clear", port=self.line)
        self.simulator.post("/line", port=self.line, mode="ok")

    def expect(self, fault, at_once=True):
        """It fails as the table says, and the other mailbox goes on. at_once: its first failure is that. Gives the line of the log."""
        this = "" if at_once else fault.failure + " "
        line = self.daemon.wait_line(r"failure=%s.*mailbox=%s|mailbox=%s.*failure=%s" % (this, BAD, BAD, this))
        assert re.search(r"failure=%s( |$)" % fault.failure, line), line
        wait_s = int(re.search(r"trying again in (\d+) s", line).group(1))
        most = 4 if fault.wait == NETWORK and not at_once else fault.wait[1]        # it may be the second of the network's in a row
        assert fault.wait[0] <= wait_s <= most, line
        assert fault.hint in line
        self.add(GOOD)
        self.daemon.wait_delivered(GOOD, len(self.simulator.folder(GOOD)["messages"]))
        assert self.daemon.of(GOOD)["failures"] == 0
        self.clear()
        if wait_s > POLL_ABOVE_S:
            self.daemon.poll(BAD)
        return line

    def hurry(self, condition):
        """Until it is so; waits between sessions are not waited for."""
        def so(status):
            if not condition(status) and any(m["address"] == BAD and m["state"] == "backing-off" for m in status["mailboxes"]):
                self.daemon.poll(BAD)
            return condition(status)
        self.daemon.wait(so)

    def mended(self):
        self.add(BAD)
        for address in (GOOD, BAD):
            self.daemon.wait_delivered(address, len(self.simulator.folder(address)["messages"]))
            held = Maildir(self.daemon.maildir(address))
            assert held.sums() == {digest: 1 for digest in self.simulator.sums(address).values()}
        status = self.daemon.wait_state(BAD, "watching")
        mailbox = next(m for m in status["mailboxes"] if m["address"] == BAD)
        assert mailbox["failures"] == 0 and mailbox["error"] is None
        assert Maildir(self.daemon.maildir(BAD)).tmp() == []


@pytest.fixture
def scene(simulator, make_daemon):
    return Scene(simulator, make_daemon(program="mailpolld-scaled"))


@pytest.mark.parametrize("fault", **ids(ANSWERS))
def test_answer_at_first_contact(scene, fault):
    scene.add(BAD, 3)
    scene.set(fault, command="SELECT")
    scene.start()
    scene.expect(fault)
    scene.mended()


@pytest.mark.parametrize("fault", **ids(ANSWERS))
def test_answer_in_idle(scene, fault):
    """Mail wakes it; what it does then is answered so."""
    fault = of_one_that_worked(fault)
    scene.watch()
    scene.set(fault, command="UID SEARCH")
    scene.add(BAD, 3)
    scene.expect(fault)
    scene.mended()


@pytest.mark.parametrize("fault", **ids(ANSWERS))
def test_answer_in_a_batch(scene, fault):
    """Half of the messages of a FETCH have come."""
    uids = scene.add(BAD, 12)
    scene.simulator.fault("mid-fetch", BAD, play=fault.kind, uids=uids[6:7], count=1, **fault.more)
    scene.start()
    scene.expect(fault)
    scene.mended()


@pytest.mark.parametrize("fault", **ids(IN_IDLE))
def test_while_it_idles(scene, fault):
    scene.add(BAD, 3)
    scene.watch()
    scene.simulator.fault("in-idle", BAD, play=fault.kind, count=1, **fault.more)
    scene.expect(fault)
    scene.mended()


@pytest.mark.parametrize("fault", **ids([f for f in ANSWERS if f.failure in ("throttled", "unavailable", "in-use", "command-refused")]))
def test_answer_to_idle(scene, fault):
    scene.add(BAD, 3)
    scene.set(fault, command="IDLE")
    scene.start()
    scene.daemon.wait_delivered(BAD, 3)
    scene.expect(fault)
    scene.mended()


@pytest.mark.parametrize("fault", **ids(TO_DONE))
def test_answer_to_done(scene, fault):
    """exchange-online 4.8: mail wakes it, and IDLE does not end as it should; what was told before counts"""
    scene.watch()
    scene.set(fault, command="DONE")
    scene.add(BAD, 3)
    scene.expect(fault)
    scene.mended()


@pytest.mark.parametrize("fault", **ids(ORDINARY))
def test_ordinary_ends_of_idle(scene, fault):
    scene.add(BAD, 3)
    scene.watch()
    if fault.kind:
        scene.simulator.fault("in-idle", BAD, play=fault.kind, count=1, **fault.more)
    else:
        scene.set(fault)
    scene.simulator.wait("logins", 2, BAD)
    scene.mended()
    assert scene.daemon.wait_line("session ended: .*signing in again") and not scene.daemon.has_line("failure=")


def test_peer_that_is_dead_while_it_idles(scene):
    """exchange-online 5.10: no answer 30 s after DONE; signed in again at once"""
    scene.watch()
    scene.simulator.fault("in-idle", BAD, play="hang", count=1)
    scene.simulator.wait("fault-in-idle", 1)
    scene.daemon.poll(BAD)
    scene.simulator.wait("logins", 2, BAD)
    scene.mended()
    assert scene.daemon.wait_line("session ended: .*timed out while leaving IDLE")


def test_what_was_answered_with_bad(scene):
    """exchange-online 5.7: the log names the command"""
    scene.watch()
    scene.simulator.fault("answer", BAD, line="{tag} BAD Command Error. 10", command="UID SEARCH", count=1)
    scene.add(BAD, 1)
    scene.daemon.wait_line("BAD Command Error. 10, to UID SEARCH .*please report")
    scene.daemon.poll(BAD)
    scene.mended()


def test_complaint_and_nothing_after_it(scene):
    """exchange-online 5.6: no message is blamed for it"""
    scene.add(BAD, 3)
    fault = answer("", "throttled", (20, 22), "throttling mailbox", "* NO Request is throttled. Suggested Backoff Time: 20000 milliseconds")
    scene.set(fault, command="UID FETCH", skip=1)       # the question for sizes
    scene.start(20)
    scene.expect(fault)
    scene.mended()
    assert not scene.daemon.has_line("event=owed")


def test_search_without_end(scene):
    """What is kept of an answer is bounded, too: no mailbox has a hundred million messages, each between two that are gone"""
    scene.add(BAD, 3)
    fault = Fault("", "protocol", NETWORK, "what is not IMAP", "long-search", {"numbers": 100000000})
    scene.set(fault, command="UID SEARCH")
    scene.start()
    scene.expect(fault)
    assert scene.daemon.memory_kib("VmHWM") < 300 * 1024
    scene.mended()


@pytest.mark.parametrize("fault", **ids(SIGN_INS))
def test_sign_in_at_first_contact(scene, fault):
    scene.add(BAD, 3)
    scene.set(fault)
    scene.start()
    scene.expect(fault)
    scene.mended()


@pytest.mark.parametrize("fault", **ids(SIGN_INS))
def test_sign_in_after_idle(scene, fault):
    """The session ends, the next one meets it."""
    fault = of_one_that_worked(fault)
    scene.watch()
    scene.set(fault)
    scene.simulator.post("/drop", address=BAD)
    scene.add(BAD, 3)
    line = scene.expect(fault, at_once=False)       # a session that was just beginning ends of the drop
    assert fault.id != "no-permission" or "level=warning" in line       # one that never worked waits for a person: an error
    scene.mended()


@pytest.mark.parametrize("fault", **ids(BODIES))
@pytest.mark.parametrize("moment", ["first-contact", "idle", "batch"])
def test_body(scene, fault, moment):
    if moment == "idle":
        scene.watch()
    if moment == "batch" and fault.id == "literal-shorter-than-told":       # the next message's bytes are taken for this one's
        fault = dataclasses.replace(fault, failure="protocol")
    uid = (scene.simulator.folder(BAD)["uidnext"]) + (49 if moment == "batch" else 1)
    scene.set(fault, uids=[uid], count=1)
    scene.add(BAD, 130 if moment == "batch" else 3)
    if moment != "idle":
        scene.start()
    scene.expect(fault)
    scene.mended()


@pytest.mark.parametrize("kind,more", MESSAGES, ids=[kind + "-unavailable" * ("text" in more) for kind, more in MESSAGES])
@pytest.mark.parametrize("moment", ["first-contact", "idle", "batch"])
def test_message_that_cannot_be_had(scene, kind, more, moment):
    """exchange-online 5.8, 5.9: it is owed and asked for alone, the others come meanwhile; when it can be had, it comes"""
    if moment == "idle":
        scene.watch()
    n = 130 if moment == "batch" else 3
    uid = scene.simulator.folder(BAD)["uidnext"] + (49 if moment == "batch" else 1)
    scene.simulator.fault(kind, BAD, uids=[uid], **more)
    scene.add(BAD, n)
    if moment != "idle":
        scene.start()
    owed = "event=owed .*message UID %d could not be had .*trying again in 60 s" % uid
    scene.hurry(lambda s: scene.daemon.has_line(owed))
    scene.hurry(lambda s: sum(f["delivered"] for m in s["mailboxes"] if m["address"] == BAD for f in m["folders"]) >= n - 1)
    status = scene.daemon.of(BAD)
    assert [f["owed"] for f in status["folders"]] == [1] and (status["failures"] == 0 or kind == "close-mid-literal" or "text" in more)
    scene.add(GOOD)
    scene.daemon.wait_delivered(GOOD, 1)
    assert scene.daemon.of(GOOD)["failures"] == 0
    scene.clear()
    scene.mended()
    assert [f["owed"] for f in scene.daemon.of(BAD)["folders"]] == [0]


@pytest.mark.parametrize("after_bytes", [2500, 4000, 6000, 60000])
def test_cut_at_a_byte(scene, after_bytes):
    """Wherever the connection is cut: nothing is lost, nothing comes twice."""
    scene.add(BAD, 60)
    scene.simulator.post("/line", port=scene.line, cut_after=after_bytes)
    scene.start()
    scene.daemon.wait_line(r"failure=(network|tls)")
    scene.clear()
    scene.daemon.poll(BAD)
    scene.mended()


def test_cut_at_every_byte_of_a_conversation(scene):
    """From the greeting to the end of the FETCH, every 43rd byte of it: what comes is whole, and comes once"""
    scene.add(BAD, 1)
    scene.simulator.post("/fault", port=scene.line, kind="cut", after=0, count=1)
    scene.start()
    scene.simulator.wait("cuts", 1)
    for n, after in enumerate(range(7, 3600, 43), 1):
        scene.simulator.post("/fault", port=scene.line, kind="cut", after=after, count=1)
        scene.add(BAD, 1)
        scene.daemon.poll(BAD)              # it waits longer each time, unless told to look
        while not scene.simulator.comes("cuts", n + 1, timeout_s=2)[0]:
            if scene.simulator.counts("fault-cut") > n:
                scene.add(BAD, 1)           # the conversation was shorter than that
            else:
                scene.simulator.post("/drop", address=BAD)      # of a session from before the fault
            scene.daemon.poll(BAD)
    scene.clear()
    scene.daemon.poll(BAD)
    scene.mended()


@pytest.mark.parametrize("moment", ["first-contact", "later"])
def test_every_byte_in_a_record_of_its_own(scene, moment):
    scene.simulator.post("/fault", port=scene.line, kind="cut", single=True)
    scene.add(BAD, 3)
    if moment == "later":
        scene.watch(5)
        scene.add(BAD, 3)
    else:
        scene.start(5)
    scene.mended()
    assert not scene.daemon.has_line("failure=")


def test_one_byte_at_a_time(scene):
    scene.add(BAD, 2)
    scene.simulator.post("/line", port=scene.line, chunk=1)
    scene.start(5)
    scene.mended()
    assert not scene.daemon.has_line("failure=")


@pytest.mark.parametrize("moment", ["idle", "batch"])
def test_expired_token_is_ordinary(scene, moment):
    """exchange-online 5.3: signed in again at once, nothing counted"""
    uids = scene.add(BAD, 12 if moment == "batch" else 1)
    line = "* BYE Session invalidated - AccessTokenExpired"
    if moment == "batch":
        scene.simulator.fault("mid-fetch", BAD, play="answer", uids=uids[6:7], line=line, close=True, count=1)
        scene.start()
    else:
        scene.watch()
        scene.simulator.fault("in-idle", BAD, play="answer", line=line, close=True, count=1)
    scene.simulator.wait("logins", 2, BAD)
    scene.mended()
    assert scene.daemon.wait_line("session ended: .*AccessTokenExpired.*signing in again") and not scene.daemon.has_line("failure=")


def test_countdown_of_a_throttled_mailbox(scene):
    """exchange-online 5.6: each attempt is told less; FETCH commands become smaller, and larger again"""
    scene.add(BAD, 320)
    scene.simulator.fault("throttle", BAD, ms=20000, countdown=9000, command="UID FETCH", skip=1, count=2)
    scene.start()
    scene.mended()
    waits = [int(n) for line in scene.daemon.lines for n in re.findall(r"Backoff Time: (\d+)", line)]
    assert waits == [20000]             # the second is the same failure, and counted with it
    asked = [m.group(1) for line in scene.simulator.log_lines() for m in [re.match(r"C \S+ UID FETCH (\S+) .*BODY", line)] if m]
    sizes = [sum(int(hi or lo) - int(lo) + 1 for lo, hi in re.findall(r"(\d+)(?::(\d+))?", text)) for text in asked]
    assert sizes[:4] == [200, 50, 55, 60], sizes      # the second wait met the question for sizes


def test_owed_message_comes_in_parts(scene):
    """exchange-online 5.8: tried again alone, in a new connection, as a whole, then as HEADER and TEXT; byte for byte all the same"""
    uids = scene.add(BAD, 6)
    scene.simulator.fault("fetch-whole-empty", BAD, uids=[uids[2]])
    scene.start()
    scene.daemon.wait_line("message UID %d could not be had .*trying again in 60 s" % uids[2])
    scene.daemon.wait_delivered(BAD, 6)
    assert scene.simulator.state(BAD)["logins"] == 2
    scene.mended()
    assert scene.daemon.of(BAD)["folders"][0]["owed"] == 0


def test_owed_message_without_its_second_part(scene):
    """exchange-online 5.9: an empty TEXT makes a header no message, and it stays owed; one that is no larger than its header has none"""
    uids = scene.add(BAD, 5)
    uids += scene.simulator.add(BAD, [{"text": "Message-ID: <header-only@sim.example>\r\nSubject: a header and nothing else\r\n\r\n"}])
    scene.simulator.fault("fetch-whole-empty", BAD, uids=uids[2:])
    scene.simulator.fault("size-off", BAD, uids=uids[5:], by=0)
    for uid, form in zip(uids[2:5], ("NIL", '""', "{0}\r\n")):
        scene.simulator.fault("body-nil", BAD, uids=[uid], form=form, sections=["TEXT"])
    scene.start(60)
    for uid in uids[2:5]:
        scene.daemon.wait_line("message UID %d could not be had .*trying again in 600 s" % uid)
    scene.daemon.wait_delivered(BAD, 3)
    assert scene.daemon.of(BAD)["folders"][0]["owed"] == 3
    scene.clear()
    scene.mended()


@pytest.mark.parametrize("form", ["two-bodies", "more-bodies", "from-the-middle"])
def test_what_is_more_or_less_than_the_message(scene, form):
    """RFC 3501 7.4.2: a second body is no part of the first, and what has an origin is a part of the whole: had again, alone"""
    uids = scene.add(BAD, 6)
    scene.simulator.fault("fetch-odd", BAD, uids=[uids[2]], form=form, count=1)
    scene.start(40)
    scene.daemon.wait_line("message UID %d could not be had .*trying again in 60 s" % uids[2])
    scene.mended()
    assert scene.daemon.of(BAD)["folders"][0]["owed"] == 0


def test_message_that_is_given_up(simulator, make_daemon):
    """exchange-online 5.8: after 1 min, 10 min and 1 h it is reported; never dropped, moved or deleted; later mail flows on"""
    scene = Scene(simulator, make_daemon(program="mailpolld-scaled"))
    port = free_port()
    scene.daemon.config([GOOD, {"address": BAD, "after": "delete"}], top={"metrics_listen": "127.0.0.1:%d" % port})
    uids = scene.add(BAD, 4)
    simulator.fault("fetch-empty", BAD, uids=[uids[1]])

    def given_up():
        while True:
            try:
                with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % port) as answer:
                    text = answer.read().decode()
                break
            except ConnectionError:         # a request has 25 ms of the fast clock
                pass
        return [int(re.search(r"(?m)^mailpolld_messages_%s (\d+)$" % name, text).group(1)) for name in ("owed", "unretrievable")]

    scene.daemon.start(env={"MAILPOLLD_CLOCK_RATE": "400"})
    line = scene.daemon.wait_line("event=unretrievable", timeout=60)
    hint = "Message UID %d in INBOX of %s cannot be read over IMAP: open it in Outlook on the web, then forward or re-save it." % (uids[1], BAD)
    assert hint in line and "failure=unretrievable" in line and "uid=%d" % uids[1] in line
    folder = scene.daemon.of(BAD)["folders"][0]
    assert folder["owed"] == 1 and folder["unretrievable"][0]["uid"] == uids[1] and folder["unretrievable"][0]["hint"] == hint
    assert given_up() == [1, 1]
    assert " ".join(hint.split()) in " ".join(scene.daemon.ctl("status", BAD).stdout.split())
    tries = sum("trying again in %d s" % s in line for line in scene.daemon.lines for s in (60, 600, 3600) if "could not be had" in line)
    assert tries == 3
    simulator.add(BAD, [{"seed": 999, "size": 1500}])
    scene.daemon.wait_delivered(BAD, 4)
    scene.daemon.wait(lambda s: all(f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))
    assert list(simulator.folder(BAD)["messages"]) == [str(uids[1])]
    # restarted, it is still known, and not asked for at each look
    scene.daemon.stop()
    scene.daemon.start(env={"MAILPOLLD_CLOCK_RATE": "1"})
    scene.daemon.wait_state(BAD, "watching")
    assert scene.daemon.of(BAD)["folders"][0]["unretrievable"][0]["uid"] == uids[1] and given_up() == [1, 1]
    # when it can be read again, a person has it fetched
    simulator.clear(BAD)
    assert scene.daemon.ctl("resync", BAD, "--since", time.strftime("%Y-%m-%d", time.gmtime(time.time() - 2 * 86400))).returncode == 0
    scene.daemon.wait_delivered(BAD, 5)
    assert scene.daemon.of(BAD)["folders"][0]["unretrievable"] == [] and given_up() == [0, 0]


def test_many_messages_that_cannot_be_had(simulator, make_daemon):
    """exchange-online 5.8: each alone, all of them in one session of each round; new mail does not wait for that"""
    scene = Scene(simulator, make_daemon(program="mailpolld-scaled"))
    uids = scene.add(BAD, 60)
    simulator.fault("fetch-empty", BAD, uids=uids[::2])
    scene.daemon.start(env={"MAILPOLLD_CLOCK_RATE": "100"})
    scene.daemon.wait(lambda s: any(f["owed"] == 30 for m in s["mailboxes"] for f in m["folders"]))
    simulator.wait("logins", 2, BAD)
    scene.add(BAD)
    scene.daemon.wait_delivered(BAD, 31)
    scene.daemon.wait_changed(lambda: sum("event=unretrievable" in line for line in scene.daemon.lines) == 30, 120, "all given up")
    assert simulator.state(BAD)["logins"] <= 8, simulator.state(BAD)       # four, and what a busy machine takes


def test_given_up_message_that_is_deleted(simulator, make_daemon):
    """exchange-online 5.8: a person has seen to it; two sessions in a row do not find it, and it is reported no more"""
    scene = Scene(simulator, make_daemon(program="mailpolld-scaled"))
    uids = scene.add(BAD, 4)
    simulator.fault("fetch-empty", BAD, uids=[uids[1]])
    scene.daemon.start(env={"MAILPOLLD_CLOCK_RATE": "400"})
    scene.daemon.wait_line("event=unretrievable", timeout=60)
    scene.daemon.stop()
    simulator.post("/remove", address=BAD, uids=[uids[1]])
    scene.start()
    asked = "C \\S+ UID SEARCH UID %d$" % uids[1]
    scene.hurry(lambda s: any(re.match(asked, line) for line in simulator.log_lines()))
    assert scene.daemon.of(BAD)["folders"][0]["unretrievable"] != []
    scene.daemon.wait_state(BAD, "watching")
    simulator.post("/drop", address=BAD)
    scene.daemon.wait(lambda s: all(f["owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))
    assert scene.daemon.of(BAD)["folders"][0]["unretrievable"] == []


def test_question_for_given_up_messages_that_ends_the_session(simulator, make_daemon):
    """It is put once; the mail goes on"""
    scene = Scene(simulator, make_daemon(program="mailpolld-scaled"))
    uids = scene.add(BAD, 4)
    simulator.fault("fetch-empty", BAD, uids=[uids[1]])
    scene.daemon.start(env={"MAILPOLLD_CLOCK_RATE": "400"})
    scene.daemon.wait_line("event=unretrievable", timeout=60)
    scene.daemon.stop()
    before = len(simulator.log_lines())
    simulator.fault("answer", BAD, command="UID SEARCH", line="* BYE Connection closed.", close=True, count=1)
    scene.start()
    simulator.wait("fault-answer", 1)
    scene.hurry(lambda s: any(m["address"] == BAD and m["state"] == "watching" for m in s["mailboxes"]))
    simulator.post("/drop", address=BAD)
    scene.add(BAD)
    scene.daemon.wait_delivered(BAD, 4)
    asked = [line for line in simulator.log_lines()[before:] if re.match(r"C \S+ UID SEARCH UID %d$" % uids[1], line)]
    assert len(asked) == 1, asked


def test_owed_message_that_is_deleted(simulator, make_daemon):
    """exchange-online 5.8: it may have been moved or deleted; it is asked for on its schedule, no oftener, and forgotten at the end"""
    scene = Scene(simulator, make_daemon(program="mailpolld-scaled"))
    uids = scene.add(BAD, 5)
    simulator.fault("fetch-empty", BAD, uids=uids[1:3])
    scene.daemon.start(env={"MAILPOLLD_CLOCK_RATE": "200"})
    scene.daemon.wait(lambda s: any(f["owed"] == 2 for m in s["mailboxes"] for f in m["folders"]))
    simulator.post("/remove", address=BAD, uids=uids[1:3])
    scene.daemon.wait(lambda s: all(f["owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))
    assert simulator.state()["commands"]["UID FETCH"] <= 24 and not scene.daemon.has_line("event=unretrievable")
    assert all(scene.daemon.has_line("UID %d, which could not be had, is no longer there" % uid) for uid in uids[1:3])
    scene.daemon.wait_delivered(BAD, 3)


def test_owed_message_that_the_last_look_leaves_out(simulator, make_daemon):
    """exchange-online 4.5, 5.8: the tries before have found it: one look that does not proves nothing, and a person is told"""
    scene = Scene(simulator, make_daemon(program="mailpolld-scaled"))
    uids = scene.add(BAD, 3)
    simulator.fault("fetch-empty", BAD, uids=[uids[1]])
    scene.daemon.start(env={"MAILPOLLD_CLOCK_RATE": "200"})
    scene.daemon.wait_line("trying again in 3600 s", timeout=60)
    simulator.fault("search-hides", BAD, only=[uids[1]])
    scene.daemon.wait_line("event=unretrievable .*SEARCH does not list it", timeout=60)
    simulator.clear(BAD)
    assert scene.daemon.of(BAD)["folders"][0]["unretrievable"][0]["uid"] == uids[1]


@pytest.mark.parametrize("play", ["close-raw", "unavailable"])
def test_sizes_that_cannot_be_had(scene, play):
    """Asked before the first batch; a server that fails at that is not asked again"""
    scene.add(BAD, 5)
    scene.simulator.fault(play, BAD, command="UID FETCH", count=1)
    scene.start()
    scene.daemon.wait_line("failure=")
    scene.mended()
    asked = [line for line in scene.simulator.log_lines() if re.match(r"C \S+ UID FETCH \S+ \(UID RFC822.SIZE\)", line)]
    assert len(asked) == 1, asked


@pytest.mark.parametrize("play", ["close-raw", "unavailable"])
def test_batch_that_ends_the_session_for_one_message(scene, play):
    """exchange-online 5.8 C: none of them comes; they are asked for one at a time, in one session, until it is the bad one's turn"""
    uids = scene.add(BAD, 60)
    scene.simulator.fault(play, BAD, command="UID FETCH", asks=uids[40])
    scene.start()
    scene.hurry(lambda s: scene.daemon.has_line("event=owed .*message UID %d could not be had" % uids[40]))
    scene.hurry(lambda s: sum(f["delivered"] for m in s["mailboxes"] if m["address"] == BAD for f in m["folders"]) == 59)
    assert scene.simulator.state(BAD)["logins"] <= 6        # sizes, all of them, it alone twice, the others
    scene.clear()
    scene.mended()


@pytest.mark.parametrize("kind", ["fetch-empty", "fetch-no"])
def test_server_that_gives_no_message(scene, kind):
    """exchange-online 5.8: if none can be had it is the server and not the messages; they are not owed one by one"""
    scene.add(BAD, 150)
    scene.simulator.fault(kind, BAD)
    scene.start()
    scene.expect(Fault("", "none-given", (1, 5), "nothing to change here"))
    scene.daemon.wait_delivered(BAD, 140)
    scene.mended()
    assert sum("could not be had" in line for line in scene.daemon.lines) <= 10
    assert scene.daemon.of(BAD)["folders"][0]["owed"] == 0


def test_server_that_gives_no_message_of_one_folder(simulator, daemon):
    """The hint names it, also when another one was asked about last"""
    simulator.mailbox(BAD, ["INBOX", "Second"])
    daemon.config([{"address": BAD, "folders": ["INBOX", "Second"]}])
    daemon.start()
    simulator.wait("idling", 1)
    daemon.poll(BAD)
    simulator.wait("command:STATUS", 1)
    simulator.wait("idling", 1)
    simulator.fault("fetch-no", BAD)
    simulator.add(BAD, [{"seed": i, "size": 1500} for i in range(6)])
    line = daemon.wait_line("failure=none-given")
    assert "gives none of the messages of INBOX in %s" % BAD in line


def test_mailbox_of_messages_that_cannot_be_had(scene):
    """exchange-online 5.8: nor is it the server for ever: they are owed in the end, and the one behind them comes"""
    uids = scene.add(BAD, 13)
    scene.simulator.fault("fetch-empty", BAD, uids=uids[:12])
    scene.simulator.fault("fetch-empty", BAD, uids=uids[12:], count=10)      # the sizes, and the body, five times
    scene.start()
    scene.daemon.wait(lambda s: any(f["owed"] >= 12 for m in s["mailboxes"] for f in m["folders"]), timeout=120)
    assert sum("failure=none-given" in line for line in scene.daemon.lines) == 1        # the other times are the same failure
    scene.daemon.wait_delivered(BAD, 1)
    assert scene.daemon.of(BAD)["folders"][0]["owed"] == 12


def test_several_throttled_slow_the_credential(simulator, make_daemon):
    """exchange-online 5.6: throttled within a minute, three mailboxes make all of the credential start fewer sessions; it recovers"""
    daemon = make_daemon(program="mailpolld-scaled")
    addresses = ["t%d@contoso.example" % i for i in range(4)]
    for address in addresses:
        simulator.mailbox(address)
        simulator.fault("throttle", address, ms=5000, command="SELECT", count=1)
    daemon.config(addresses, admission={"sessions_per_second": 8})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(RATE)})
    daemon.wait_line("event=throttled .*credential=contoso.*4.00 new sessions per second")
    assert "slowed down to" in daemon.ctl("status").stdout
    status = daemon.wait(lambda s: not s["credentials"][0]["admission"]["slowed"] and s["totals"]["watching"] == 4)
    assert status["credentials"][0]["admission"]["sessions_per_second"] == 8
    daemon.wait_line("no mailbox was throttled for a minute: new sessions start as configured")


def wait_of(mailbox):
    """How long it waits for its next try."""
    since, retry = (calendar.timegm(time.strptime(mailbox[k], "%Y-%m-%dT%H:%M:%SZ")) for k in ("since", "retry_at"))
    return retry - since


@pytest.mark.parametrize("folders,command", [(["INBOX"], "UID SEARCH"), (["INBOX", "Second"], "STATUS")])
def test_patience_grows_until_a_full_look(scene, folders, command):
    """exchange-online 5: neither a sign-in nor a SELECT nor one folder of two proves anything; the steps are 2, 4, 8 ... s"""
    scene.simulator.mailbox("two@contoso.example", folders)
    scene.daemon.config([GOOD, {"address": "two@contoso.example", "folders": folders}])
    scene.start()
    scene.daemon.wait_state("two@contoso.example", "watching")
    scene.simulator.fault("answer", "two@contoso.example", command=command, line="* BYE Connection closed.", close=True)
    scene.simulator.add("two@contoso.example", [{"seed": i, "size": 1500} for i in range(2)])
    scene.simulator.post("/drop", address="two@contoso.example")
    waits, seen = [], 0
    while seen < 5:
        status = scene.daemon.wait(lambda s: any(m["failures"] > seen and m["retry_at"] for m in s["mailboxes"]))
        mailbox = next(m for m in status["mailboxes"] if m["failures"])
        seen = mailbox["failures"]
        waits.append((seen, wait_of(mailbox)))
    assert all(wait <= 2 ** n + 1 for n, wait in waits) and max(wait for _, wait in waits) > 2, waits       # the fifth is of 3.2 s at least
    assert scene.simulator.state("two@contoso.example")["logins"] >= 5
    scene.simulator.clear("two@contoso.example")
    scene.daemon.wait(lambda s: s["totals"]["watching"] == 2)
    assert scene.daemon.of("two@contoso.example")["failures"] == 0
    scene.daemon.wait_line("recovered after [0-9]+ failures")


def test_patience_grows_though_each_session_brings_mail(scene):
    """One folder ends each of them: what the others bring says nothing of that one, and the mailbox fails since the first"""
    address, folders = "two@contoso.example", ["INBOX", "Second"]
    scene.simulator.mailbox(address, folders)
    scene.daemon.config([{"address": address, "folders": folders}])
    scene.start(5)
    scene.daemon.wait_state(address, "watching")
    scene.simulator.fault("delay-status", address, seconds=0.2)        # in which the message is settled
    scene.simulator.fault("close-raw", address, asks="Second")
    scene.simulator.post("/drop", address=address)
    seen = 0
    while seen < 5:
        mailbox = scene.daemon.wait(lambda s: s["mailboxes"][0]["failures"] > seen and s["mailboxes"][0]["retry_at"])["mailboxes"][0]
        seen = mailbox["failures"]
        scene.simulator.add(address, [{"seed": seen, "size": 1500}])
        scene.daemon.wait_delivered(address, mailbox["folders"][0]["delivered"] + 1)
    assert sum("event=mailbox-recovered" in line for line in scene.daemon.lines) == 0


@pytest.mark.parametrize("rate,delay_s,grows", [(5, 0.1, True), (20, 0.3, False)], ids=["early", "late"])
def test_sessions_that_end_after_a_message(scene, rate, delay_s, grows):
    """Those that end early, whatever they have brought, are not followed by the next each second; when they last a while, the waits do not add up"""
    uids = scene.add(BAD, 12)
    scene.simulator.fault("delay-fetch", BAD, seconds=delay_s)          # in which the message before is settled
    for uid in uids[1::2]:
        scene.simulator.fault("close-raw", BAD, command="UID FETCH", asks=uid)
    scene.start(rate)
    waits = []

    def delivered(status):
        mailbox = next(m for m in status["mailboxes"] if m["address"] == BAD)
        if mailbox["state"] == "backing-off":
            waits.append(wait_of(mailbox))
        return mailbox["folders"][0]["delivered"]
    status = scene.daemon.wait(lambda s: delivered(s) == 6 or max(waits, default=0) > 10)       # the fourth in a row may be of 16 s
    assert (delivered(status) < 6) == grows, waits


def test_slow_front_end(scene):
    """exchange-online 4.2, 5.14: 40 s for the sign-in, as much for each of the first commands: no failure"""
    scene.add(BAD, 3)
    scene.simulator.post("/fault", port=scene.line, kind="slow-sign-in", seconds=40 / 5, count=1)
    for command in ("capability", "select"):
        scene.simulator.fault("delay-" + command, BAD, seconds=40 / 5, count=1)
    scene.start(5)
    scene.mended()
    assert not scene.daemon.has_line("failure=")


def test_permission_that_comes_late(simulator, make_daemon):
    """exchange-online 5.1, 5.15: IMAP was switched on and FullAccess given, and that takes its time: nobody has to tell mailpolld when"""
    scene = Scene(simulator, make_daemon(program="mailpolld-scaled"))
    scene.add(BAD, 3)
    simulator.fault("no-permission", BAD, count=2)
    scene.daemon.start(env={"MAILPOLLD_CLOCK_RATE": "150"})
    scene.daemon.wait_delivered(BAD, 3, timeout=60)
    assert scene.daemon.wait_line("mailbox=%s .*failure=no-access .*trying again in" % BAD) and simulator.counts("fault-no-permission") == 2
    scene.mended()


def test_text_with_odd_bytes(scene):
    """What a server says is shown, and never taken at its word: neither the log nor the JSON breaks"""
    scene.add(BAD, 3)
    scene.set(answer("", "", (), "", "{tag} NO caf\xe9 \x1b[31m \x07\x7f \"quoted\" \\ </b> %s%n " + "x" * 3000), command="UID SEARCH", count=2)
    scene.start()
    line = scene.daemon.wait_line("failure=refused")
    assert "\x1b" not in line and "\x07" not in line and len(line) < 1000
    status = scene.daemon.wait(lambda s: any(m["error"] for m in s["mailboxes"]))
    assert "quoted" in next(m["error"] for m in status["mailboxes"] if m["error"]) and "\x1b" not in scene.daemon.ctl("status", BAD).stdout
    scene.mended()


def test_sessions_that_end_at_once_each_time(scene):
    """Ordinary, but not without end: the second short one in a row waits."""
    scene.add(BAD, 1)
    scene.simulator.fault("answer", BAD, line="* BYE Session invalidated - AccessTokenExpired", close=True, command="IDLE", count=4)
    scene.start(4)
    scene.daemon.wait_line("session ended: .*AccessTokenExpired.*signing in again")
    scene.daemon.wait_line("failure=token-expired")
    scene.mended()
