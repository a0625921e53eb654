"""What is odd but no failure: nothing is counted, everything arrives once."""
import base64

import pytest

from lib.maildir import Maildir
from lib.simulator import imap, messages

M = "odd@contoso.example"


def all_arrive(simulator, daemon, n, **conf):
    simulator.mailbox(M, conf.pop("known", ["INBOX"]))
    daemon.config([{"address": M, **conf}])
    simulator.add(M, [{"seed": i, "size": 1500 + i} for i in range(n)])
    daemon.start()
    daemon.wait_delivered(M, n)
    simulator.add(M, [{"seed": 1000, "size": 1500}])
    daemon.wait_delivered(M, n + 1)
    assert set(Maildir(daemon.maildir(M)).sums().values()) == {1} and len(Maildir(daemon.maildir(M))) == n + 1
    assert daemon.of(M)["failures"] == 0 and not daemon.has_line("failure=")


@pytest.mark.parametrize("before,after,greeting", [(before, after, "AB"[(i + j) % 2]) for i, before in enumerate(imap.BEFORE) for j, after in enumerate(imap.AFTER)])
def test_greetings_and_capabilities(simulator, daemon, greeting, before, after):
    """All pairs of them. exchange-online 4.1, 4.10: no greeting is matched; what counts is offered after the sign-in; IMAP4rev2, where it is, is not enabled, and LSUB
    never sent"""
    simulator.post("/options", greeting=greeting, before=before, after=after)
    all_arrive(simulator, daemon, 5, known=["INBOX", "Done"], after={"move": "Done"})
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    commands = simulator.state()["commands"]
    assert "ENABLE" not in commands and "LSUB" not in commands and commands["IDLE"] > 0 and commands["UID MOVE"] > 0 and "UID COPY" not in commands
    assert not any("RETURN" in line for line in simulator.log_lines() if line.startswith("C "))


@pytest.mark.parametrize("words,asks", [("AUTH=XOAUTH2 SASL-IR", False), ("STARTTLS", True)])
def test_capabilities_in_the_greeting(simulator, daemon, words, asks):
    """RFC 3501 7.1: they need not be asked for, unless what matters is not among them"""
    simulator.fault("greeting", line="* OK [CAPABILITY IMAP4rev1 %s] ready" % words)
    all_arrive(simulator, daemon, 1)
    assert simulator.state()["commands"]["CAPABILITY"] == 1 + asks         # after the sign-in, all the same (4.1)


@pytest.mark.parametrize("says", ["", '{"status":"200"}'])
def test_a_challenge_before_the_ok(simulator, daemon, says):
    """exchange-online 4.2: a `+` after the response is a refusal's beginning, but the tagged answer tells"""
    simulator.mailbox(M)
    simulator.fault("odd-plus", M, says=says)
    all_arrive(simulator, daemon, 1)
    simulator.post("/drop", address=M)
    simulator.wait("logins", 2, M)
    daemon.wait_state(M, "watching")
    assert not daemon.has_line("refused sign-in")


@pytest.mark.parametrize("kind", ["esearch", "unsolicited", "odd-flags", "number-above-exists", "fetch-descending", "search-descending"])
def test_answers_nobody_asked_for(simulator, daemon, kind):
    """exchange-online 4.6, 4.10; RFC 3501 7"""
    simulator.mailbox(M)
    simulator.fault(kind, M)
    all_arrive(simulator, daemon, 20)


@pytest.mark.parametrize("command", ["UID FETCH", "UID SEARCH", "IDLE", "DONE"])
def test_news_within_an_answer(simulator, daemon, command):
    """exchange-online 4.6, 4.8; RFC 3501 7: between messages, between numbers and their OK, before IDLE's `+`, after DONE, somebody else's message
    comes, one that has been fetched goes, flags change and an alert is told: everything comes, once"""
    specs = [{"seed": i, "size": 1500 + i} for i in range(18)]
    simulator.mailbox(M)
    daemon.config([M])
    for n in range(10, 18, 2):          # first contact, then each wakes it; what comes meanwhile is not left for the next time
        first, later = n == 10, command == "DONE"
        if not (first and later):
            simulator.fault("news", M, command=command, add=specs[n + 1:n + 2], remove=True, count=1)
        simulator.add(M, specs[0 if first else n:n + 1 + (first and later)])
        if first:
            daemon.start()
        daemon.wait_delivered(M, n + 2, timeout=20)
        simulator.wait("idling", 1)
    assert simulator.counts("fault-news") == (3 if later else 4)
    assert Maildir(daemon.maildir(M)).sums() == {messages.sha256(spec): 1 for spec in specs}
    daemon.wait_state(M, "watching")
    assert daemon.of(M)["failures"] == 0 and daemon.of(M)["folders"][0]["owed"] == 0 and not daemon.has_line("failure=|session ended")


@pytest.mark.parametrize("form", ["reversed", "uid-last", "lower-case", "extra", "quoted", "plus", "literal8", "no-date", "flags-first", "unasked", "twice"])
def test_other_forms_of_fetch(simulator, daemon, form):
    """exchange-online 4.6, RFC 3501 7.4.2: items in any order and case, more of them than asked, data nobody asked for, the same twice"""
    simulator.mailbox(M)
    simulator.fault("fetch-odd", M, form=form)
    if form == "quoted":                # without what a quoted string must not hold
        uids = simulator.add(M, [{"text": "Message-ID: <%d@sim.example>  say \"\\\"" % i} for i in range(5)])
        daemon.config([M])
        daemon.start()
        daemon.wait_delivered(M, 5)
        assert Maildir(daemon.maildir(M)).sums() == {simulator.sums(M)[str(uid)]: 1 for uid in uids}
        return
    all_arrive(simulator, daemon, 20)


def test_expunge_in_the_middle_of_a_fetch(simulator, daemon):
    """RFC 3501 7.4.1, 5.12: sequence numbers change under way, and a message goes before its turn"""
    simulator.mailbox(M)
    uids = simulator.add(M, [{"seed": i, "size": 1500} for i in range(30)])
    simulator.fault("fetch-odd", M, form="expunge", uids=uids[5:8])     # takes the first and the last away each time
    daemon.config([M])
    daemon.start()
    daemon.wait_delivered(M, 27)
    simulator.add(M, [{"seed": 100, "size": 1500}])
    daemon.wait_delivered(M, 28)
    held, there = Maildir(daemon.maildir(M)).sums(), set(simulator.sums(M).values())
    assert set(held.values()) == {1} and there < set(held) and len(held) == 28 and len(there) == 25
    assert daemon.of(M)["failures"] == 0 and daemon.of(M)["folders"][0]["owed"] == 0


@pytest.mark.parametrize("kind,more", [
    ("search-lines", {"each": 1}), ("search-lines", {"each": 7}), ("esearch", {}), ("search-silent", {}), ("search-also", {"words": ["77", "4294967295"]}),
    ("uidnext", {"is": None}), ("uidnext", {"is": 1}), ("uidnext", {"is": 0}), ("uidvalidity", {"is": 4294967295}), ("uidnext", {"is": "18446744073709551615"}), ("long-capability", {"words": 1000}), ("long-capability", {"words": 2, "lines": True}),
    ("size-off", {"is": 10 ** 15}), ("size-off", {"is": 2 ** 64 - 1}), ("size-off", {"is": 0}),
    ("permanent-flags", {"flags": "()"}), ("permanent-flags", {"flags": "(\\Seen \\* [odd] we]ird {3} \"x\" NIL"}), ("permanent-flags", {"flags": ""}),
    ("permanent-flags", {"flags": "(" + " ".join("$label%d" % i for i in range(3000)) + ")"}),
])
def test_other_answers(simulator, daemon, kind, more):
    """exchange-online 4.1, 4.4, 4.5: SEARCH in several lines, as ESEARCH, or none; what nobody has; no UIDNEXT; long lists of capabilities and flags"""
    simulator.mailbox(M, ["INBOX", "Done"])
    simulator.fault(kind, M, **more)
    all_arrive(simulator, daemon, 20, known=["INBOX", "Done"], after={"move": "Done"})
    daemon.wait(lambda s: all(f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))
    assert len(simulator.folder(M, "Done")["messages"]) == 21
    assert simulator.state()["commands"]["IDLE"] > 0 and simulator.state()["commands"]["UID MOVE"] > 0


@pytest.mark.parametrize("told", [None, 1])
@pytest.mark.parametrize("start,hits", [("new", 0), ("2026-01-05", 2), ("2026-01-20", 0)])
def test_no_uidnext_at_first_contact(simulator, daemon, start, hits, told):
    """RFC 3501 6.3.1 asks for it, older servers lack it; what is older has the highest UID, or nothing has come since that day"""
    simulator.mailbox(M)
    simulator.fault("uidnext", M, count=1, **{"is": told})
    dates = [1767225600, 1767924132, 1768000000, 1767225600]
    simulator.add(M, [{"seed": i, "size": 1500, "internaldate": date} for i, date in enumerate(dates)])
    daemon.config([{"address": M, "start": start}])
    daemon.start()
    simulator.wait("idling", 1)
    simulator.add(M, [{"seed": 9, "size": 1500}])
    expected = hits + 1
    daemon.wait_delivered(M, expected)
    assert simulator.counts("bodies") == expected


def test_uidnext_of_one_beside_messages(simulator, daemon):
    """It cannot be, and is no sign that the UIDs are others: nothing is listed anew, and nothing is delivered once more"""
    simulator.mailbox(M)
    simulator.fault("uidnext", M, **{"is": 1})
    simulator.add(M, [{"text": "Subject: without a name\r\n\r\n%d\r\n" % i} for i in range(3)])
    daemon.config([M])
    daemon.start()
    daemon.wait_delivered(M, 3)
    daemon.wait_state(M, "watching")
    simulator.post("/drop", address=M)
    simulator.wait("logins", 2, M)
    simulator.add(M, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(M, 4)
    assert simulator.counts("bodies") == 4 and not daemon.has_line("event=uidvalidity-changed")


@pytest.mark.parametrize("told", [2, 3])
def test_uidnext_that_lags(simulator, daemon, told):
    """RFC 3501 2.3.1.1: it must be above all UIDs; where it is not, and the last one is still there, nothing is listed anew, nor delivered once more"""
    simulator.mailbox(M, ["INBOX", "Second"])
    for folder in ("INBOX", "Second"):
        simulator.add(M, [{"text": "Subject: without a name\r\n\r\n%d %s\r\n" % (i, folder)} for i in range(3)], folder=folder)
    daemon.config([{"address": M, "folders": ["INBOX", "Second"]}])
    daemon.start()
    daemon.wait_delivered(M, 6)
    daemon.wait_state(M, "watching")
    simulator.fault("uidnext", M, **{"is": told})
    simulator.post("/drop", address=M)
    simulator.wait("logins", 2, M)
    daemon.wait_state(M, "watching")
    for folder in ("INBOX", "Second"):
        simulator.add(M, [{"seed": len(folder), "size": 1500}], folder=folder)
    daemon.poll(M)
    daemon.wait_delivered(M, 8)
    simulator.post("/drop", address=M)
    simulator.wait("logins", 3, M)
    daemon.wait_state(M, "watching")
    assert simulator.counts("bodies") == 8 and not daemon.has_line("event=uidvalidity-changed")


@pytest.mark.parametrize("form", ["NIL", '""', "{0}\r\n"])
def test_empty_bodies(simulator, daemon, form):
    """exchange-online 5.9: an entirely empty body is never the message; when it can be had, it is"""
    simulator.mailbox(M)
    uids = simulator.add(M, [{"seed": i, "size": 1500} for i in range(4)])
    simulator.fault("body-nil", M, uids=[uids[1]], form=form)
    daemon.config([M])
    daemon.start()
    daemon.wait(lambda s: any(f["delivered"] == 3 and f["owed"] == 1 for m in s["mailboxes"] for f in m["folders"]))
    assert len(Maildir(daemon.maildir(M))) == 3


def test_names_in_modified_utf7(simulator, daemon):
    """RFC 3501 5.1.3, exchange-online 4.3: folders and the target of a move, with all that needs quoting"""
    folder, target = "Gelöschte & \"alte\" \\ 日本", "Erledigt/Größe & mehr"
    simulator.mailbox(M, ["INBOX", folder, target])
    simulator.add(M, [{"seed": i, "size": 1500} for i in range(3)], folder=folder)
    daemon.config([{"address": M, "folders": [folder], "after": {"move": target}}])
    daemon.start()
    daemon.wait(lambda s: any(f["delivered"] == 3 and f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))
    assert len(simulator.folder(M, target)["messages"]) == 3 and not simulator.folder(M, folder)["messages"]


def test_tokens_of_several_kib(simulator, daemon):
    """exchange-online 4.2: the line of the sign-in is 2 to 4 KiB, and may be longer"""
    simulator.post("/token", claims={"groups": [base64.b64encode(bytes([i]) * 30).decode() for i in range(150)]})
    all_arrive(simulator, daemon, 2)


def test_an_edited_message_has_a_new_uid(simulator, daemon):
    """exchange-online 5.12: within a session, and UIDVALIDITY stays; it is delivered under its new UID"""
    simulator.mailbox(M)
    uids = simulator.add(M, [{"seed": i, "size": 1500} for i in range(3)])
    daemon.config([M])
    daemon.start()
    daemon.wait_delivered(M, 3)
    simulator.post("/remove", address=M, uids=[uids[0]])
    simulator.add(M, [{"seed": 500, "size": 1600}])
    daemon.wait_delivered(M, 4)
    assert daemon.of(M)["folders"][0]["rebuilt"] is None and daemon.of(M)["failures"] == 0


def test_same_uidvalidity_everywhere(simulator, daemon):
    """exchange-online 5.12: INBOX has 14 in unrelated mailboxes; state is kept apart by mailbox and folder"""
    other = "other@contoso.example"
    for address in (M, other):
        simulator.mailbox(address, ["INBOX", "Second"], uidvalidity=14)
        for folder in ("INBOX", "Second"):
            simulator.add(address, [{"seed": hash((address, folder)) % 10000 + i, "size": 1500} for i in range(3)], folder=folder)
    daemon.config([{"address": a, "folders": ["INBOX", "Second"]} for a in (M, other)])
    daemon.start()
    daemon.wait_total(12)
    for address in (M, other):
        assert len(Maildir(daemon.maildir(address))) == 6
