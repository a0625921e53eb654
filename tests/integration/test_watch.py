"""Looking for mail: IDLE that is silent or missing, polls, first contact, what is done afterwards."""
import calendar
import collections
import re
import sqlite3
import time

import pytest

from lib.daemon import lateness
from lib.maildir import Maildir

ADDRESS = "support@contoso.example"


def delivered(status):
    return sum(f["delivered"] for m in status["mailboxes"] for f in m["folders"])


def test_silent_idle(simulator, daemon):
    """exchange-online 5.10: after each renewal there is a real look"""
    simulator.mailbox(ADDRESS)
    simulator.fault("silent-idle", ADDRESS)
    daemon.config([ADDRESS], {"interval": "2s"})
    daemon.start()
    simulator.wait("idling", 1)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(ADDRESS, 1)
    assert simulator.state(ADDRESS)["logins"] == 1


def test_mail_before_idle_has_begun(simulator, daemon):
    """exchange-online 4.8, 5.14: DONE before the `+` is answered with BAD: it waits for that"""
    simulator.mailbox(ADDRESS)
    simulator.fault("slow-plus", ADDRESS, seconds=1, count=1)
    daemon.config([ADDRESS])
    daemon.start()
    simulator.wait("fault-slow-plus", 1)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 1)
    assert simulator.state(ADDRESS)["logins"] == 1 and not daemon.has_line("failure=")


def test_shared_mailbox(simulator, daemon):
    """exchange-online 5.14, 5.15: it signs in as its own address; nothing becomes read, so no receipts are sent"""
    simulator.mailbox(ADDRESS)
    uids = simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(3)])
    daemon.config([ADDRESS])
    daemon.start()
    daemon.wait_delivered(ADDRESS, 3)
    assert [address for _, address in simulator.call("GET", "/sign-ins")["sign_ins"]] == [ADDRESS]
    assert simulator.folder(ADDRESS)["messages"] == {str(uid): [] for uid in uids}


def test_server_without_idle(simulator, daemon):
    simulator.mailbox(ADDRESS)
    simulator.post("/options", without=["IDLE"])
    daemon.config([ADDRESS], {"interval": "1s"})
    daemon.start()
    for i in range(3):
        simulator.add(ADDRESS, [{"seed": i, "size": 1500}])
        daemon.wait_delivered(ADDRESS, i + 1)
    assert len([line for line in daemon.lines if "IDLE" in line and "level=debug" not in line]) == 1		# said once
    assert simulator.state()["commands"].get("IDLE", 0) == 0


def test_idle_that_one_mailbox_is_not_offered(simulator, daemon):
    """exchange-online 4.8: it is looked at each interval, another one idles; once it is offered, it is used"""
    other = "other@contoso.example"
    for address in (ADDRESS, other):
        simulator.mailbox(address)
    simulator.fault("no-idle", ADDRESS)
    daemon.config([{"address": ADDRESS, "interval": "1s"}, {"address": other, "interval": "1h"}])
    daemon.start()
    daemon.wait_line("event=server-lacks mailbox=%s .*no IDLE: looking every 1 s instead" % ADDRESS)
    simulator.wait("idling", 1)
    for i in range(2):
        for address in (ADDRESS, other):
            simulator.add(address, [{"seed": i, "size": 1500}])
            daemon.wait_delivered(address, i + 1)
    assert simulator.state()["idling"] == simulator.state(ADDRESS)["logins"] == 1 and not daemon.has_line("failure=")
    simulator.clear(ADDRESS)
    simulator.post("/drop", address=ADDRESS)
    simulator.wait("idling", 2)


def test_session_with_nothing_to_say(simulator, make_daemon):
    """RFC 3501 5.4: without IDLE a NOOP keeps the session, and tells of new mail, however long the interval; that it is closed meanwhile is
    ordinary"""
    simulator.mailbox(ADDRESS)
    simulator.post("/options", without=["IDLE"])
    simulator.post("/token", life_s=10 ** 6)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS], {"interval": "10h"})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "100"})
    daemon.wait_state(ADDRESS, "watching")
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(ADDRESS, 1, timeout=20)
    assert simulator.state()["commands"]["NOOP"] == simulator.state(ADDRESS)["logins"] == 1
    daemon.wait_state(ADDRESS, "watching")
    simulator.post("/drop", address=ADDRESS)
    simulator.wait("logins", 2, ADDRESS)
    assert daemon.wait_line("session ended: .*signing in again") and not daemon.has_line("failure=")


def test_long_wait_for_a_turn_to_fetch(simulator, make_daemon):
    """RFC 3501 5.4: a NOOP every nine minutes keeps the session meanwhile"""
    other = "other@contoso.example"
    for address in (ADDRESS, other):
        simulator.mailbox(address)
    simulator.post("/token", life_s=10 ** 6)
    simulator.fault("drip", other, bytes_per_second=400000)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS, other], {"interval": "1h"}, admission={"fetching_at_once": 1})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "100"})
    daemon.wait(lambda s: s["totals"]["watching"] == 2)
    simulator.add(other, [{"big": 3500000}])                # its one turn takes a quarter of an hour
    simulator.wait("in_flight", 1)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    simulator.wait("command:NOOP", 1)
    assert daemon.of(ADDRESS)["folders"][0]["delivered"] == 0
    for address in (other, ADDRESS):
        daemon.wait_delivered(address, 1)
        assert simulator.state(address)["logins"] == 1
    assert not daemon.has_line("failure=|session ended")


def test_place_among_those_who_wait_to_fetch(simulator, make_daemon):
    """A planned re-login meanwhile keeps it"""
    first, others = "first@contoso.example", ["w%d@contoso.example" % i for i in range(5)]
    for address in (first, *others):
        simulator.mailbox(address)
    simulator.post("/token", life_s=700)                    # signed in anew after six to nine minutes; the first one's turn takes ten
    simulator.fault("drip", first, bytes_per_second=400000)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([first, *others], admission={"fetching_at_once": 1})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "60"})
    daemon.wait(lambda s: s["totals"]["watching"] == 6)
    simulator.add(first, [{"big": 4500000}])
    simulator.wait("in_flight", 1)
    for i, address in enumerate(others):
        simulator.add(address, [{"seed": 1, "size": 1500, "uid": 10 + i}])
        daemon.wait(lambda s: any(m["address"] == address and m["folders"][0]["backlog"] == 1 for m in s["mailboxes"]))
    for address in others:
        simulator.wait("logins", 2, address)
    assert daemon.status()["totals"]["delivered"] == 0
    daemon.wait_total(6)
    asked = [m.group(1) for line in simulator.log_lines() for m in [re.match(r"C \S+ UID FETCH (\d+) ", line)] if m]
    assert asked == ["1", "10", "11", "12", "13", "14"]


@pytest.mark.parametrize("line", ["{tag} NO IDLE failed.", "{tag} OK IDLE completed."])
def test_idle_that_does_not_work(simulator, daemon, line):
    """Offered and then refused, or over at once: as if it were not offered. The server is not asked without a pause."""
    simulator.mailbox(ADDRESS)
    simulator.fault("answer", ADDRESS, command="IDLE", line=line)
    daemon.config([ADDRESS], {"interval": "1s"})
    daemon.start()
    for i in range(3):
        simulator.add(ADDRESS, [{"seed": i, "size": 1500}])
        daemon.wait_delivered(ADDRESS, i + 1)
    daemon.wait_state(ADDRESS, "watching")
    assert simulator.state()["commands"]["IDLE"] == 1 and simulator.state(ADDRESS)["logins"] == 1
    assert len([line for line in daemon.lines if "IDLE" in line and "level=debug" not in line]) == 1


@pytest.mark.parametrize("kind,more,rate", [("answer", {"line": "{tag} BAD Command Error. 10"}, 10), ("answer", {"line": "* BYE Connection closed.", "close": True}, 1),
                                            ("answer", {"line": "{tag} NO Server Unavailable. 15"}, 1), ("hang", {}, 20)], ids=["bad", "closed", "unavailable", "hang"])
def test_idle_that_ends_the_session(simulator, make_daemon, kind, more, rate):
    """exchange-online 5.7: after the second time it is not sent again, in later sessions neither"""
    simulator.mailbox(ADDRESS)
    simulator.fault(kind, ADDRESS, command="IDLE", **more)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS], {"interval": "%ds" % (2 * rate)})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(rate)})       # after BAD there is a wait of a minute, and so long nothing is answered; else an IDLE must have ended within a second
    daemon.wait_line("the server offers no IDLE that works: looking every %d s" % (2 * rate))
    for i in range(3):
        simulator.add(ADDRESS, [{"seed": i, "size": 1500}])
        daemon.wait_delivered(ADDRESS, i + 1)
    daemon.wait_state(ADDRESS, "watching")
    simulator.post("/drop", address=ADDRESS)
    simulator.wait("logins", 4, ADDRESS)
    daemon.wait_state(ADDRESS, "watching")
    assert simulator.state()["commands"]["IDLE"] == 2


def test_idle_that_is_cut_each_time(simulator, make_daemon):
    """A firewall that forgets what idles: after five of them IDLE is renewed sooner, in one session, and it is told once"""
    rate, after_s = 40, 2.5
    simulator.mailbox(ADDRESS)
    simulator.fault("idle-cut", ADDRESS, after_s=after_s)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(rate)})
    line = daemon.wait_line("event=idle-cut mailbox=%s .*failure=idle-cut " % ADDRESS)
    found = re.search("connections to localhost that idle are cut after ([0-9]+) s, each time: IDLE is renewed after ([0-9]+) s; If a firewall", line)
    cut_s, renewed_s = map(int, found.groups())
    assert rate * after_s <= cut_s + 1 < 180 and abs(renewed_s - cut_s * 3 / 4) <= 1
    simulator.wait("command:IDLE", 9)
    assert simulator.state(ADDRESS)["logins"] == 6 or lateness.most_s > 0.3        # what is renewed after a pause of the machine has been cut
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(ADDRESS, 1)
    assert sum("event=idle-cut" in line for line in daemon.lines) == 1 and not daemon.has_line("failure=(?!idle-cut)")


def test_idle_that_is_cut_no_more(simulator, make_daemon):
    """Once an hour a longer one is tried, and one that lives is believed"""
    simulator.mailbox(ADDRESS)
    simulator.post("/token", life_s=10 ** 6)
    simulator.fault("idle-cut", ADDRESS, after_s=0.5)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS], {"interval": "1h"})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "300"})
    daemon.wait_line("event=idle-cut")
    simulator.clear(ADDRESS)

    def lived():
        """How long each IDLE was, in seconds."""
        began, all_of_them = None, []
        for line in daemon.lines:
            at = calendar.timegm(time.strptime(line[:19], "%Y-%m-%dT%H:%M:%S"))
            began = at if "beginning IDLE -> idling" in line else began
            if "idling -> leaving IDLE" in line:
                all_of_them.append(at - began)
        return all_of_them
    daemon.wait_changed(lambda: len(lived()) > 10 and min(lived()[-2:]) > 500, 60, "two that last nine minutes")
    assert sum(s < 150 for s in lived()) > 10


def test_the_same_number_at_each_idle(simulator, daemon):
    """It may mean something new, and is not believed without a pause; what does come is noticed at once"""
    simulator.mailbox(ADDRESS)
    simulator.fault("exists-before-plus", ADDRESS)
    daemon.config([ADDRESS])
    daemon.start()
    for i in range(20):
        simulator.add(ADDRESS, [{"seed": i, "size": 1500}])
        daemon.wait_delivered(ADDRESS, i + 1, timeout=5)
    daemon.wait_state(ADDRESS, "watching")
    assert simulator.state()["commands"]["UID SEARCH"] <= 2 * 20 + 5


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("after", ["delete", {"move": "Done"}])
def test_mail_that_comes_while_others_go(simulator, daemon, after, alone):
    """RFC 3501 7.4.1: EXPUNGE counts, with EXISTS after it or without. What comes in the same command is noticed at once."""
    simulator.mailbox(ADDRESS, ["INBOX", "Done"])
    simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(5)])
    if alone:
        simulator.fault("expunge-alone", ADDRESS)
    kind = "delay-expunge" if after == "delete" else "delay-move"
    simulator.fault(kind, ADDRESS, seconds=1, count=1)
    daemon.config([ADDRESS], {"interval": "1h", "after": after})
    daemon.start()
    simulator.wait("fault-" + kind, 1)
    simulator.add(ADDRESS, [{"seed": 10, "size": 1500}])
    daemon.wait_delivered(ADDRESS, 6, timeout=10)


def test_exists_that_search_finds_later(simulator, daemon):
    """EXISTS without new UIDs: it looks again after 1, 5, 30, 120 s"""
    simulator.mailbox(ADDRESS)
    daemon.config([ADDRESS])
    daemon.start()
    simulator.wait("idling", 1)
    simulator.fault("search-hides", ADDRESS, count=1)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(ADDRESS, 1, timeout=20)


@pytest.mark.parametrize("by", ["exists", "exists-that-search-finds-later", "poll"])
def test_news_in_the_middle_of_a_look(simulator, daemon, by):
    """RFC 3501 7.3.1: EXISTS may come between SEARCH and its OK; what its numbers leave out, or what an operator asks for meanwhile, is not forgotten"""
    simulator.mailbox(ADDRESS)
    daemon.config([ADDRESS], {"interval": "1h"})
    daemon.start()
    simulator.wait("idling", 1)
    simulator.fault("search-rest", ADDRESS, seconds=1, count=1)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    simulator.wait("fault-search-rest", 1)
    looks = simulator.state()["commands"]["UID SEARCH"]
    if by != "poll":
        if by != "exists":
            simulator.fault("search-hides", ADDRESS, only=[2], count=1)
        simulator.add(ADDRESS, [{"seed": 2, "size": 1500}])
        daemon.wait_delivered(ADDRESS, 2, timeout=15)
    else:
        daemon.poll(ADDRESS)
        simulator.wait("command:UID SEARCH", looks + 1, timeout_s=15)


@pytest.mark.parametrize("moment", ["first-contact", "later"])
def test_message_that_search_leaves_out(simulator, daemon, moment):
    """exchange-online 4.5, 5.10: a look that misses one between others, or all, proves nothing: it is fetched when it is listed"""
    simulator.mailbox(ADDRESS)
    daemon.config([ADDRESS])
    if moment == "later":
        simulator.add(ADDRESS, [{"seed": 20 + i, "size": 1500} for i in range(3)])
        daemon.start()
        simulator.wait("idling", 1)
        daemon.wait_delivered(ADDRESS, 3)
    before = len(simulator.folder(ADDRESS)["messages"])
    simulator.fault("search-hides", ADDRESS, only=[before + 3], count=3)
    simulator.fault("search-hides", ADDRESS, count=1)
    simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(6)])
    if moment == "first-contact":
        daemon.start()
    daemon.wait_delivered(ADDRESS, before + 5)
    while simulator.counts("fault-search-hides") < 4:
        looks = simulator.state()["commands"]["UID SEARCH"]
        daemon.poll(ADDRESS)
        simulator.wait("command:UID SEARCH", looks + 1)
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, before + 6, timeout=20)
    assert set(Maildir(daemon.maildir(ADDRESS)).sums().values()) == {1}


def test_poll_asked_for_during_a_logout(simulator, daemon):
    """The session that ends has looked before: another one looks"""
    simulator.mailbox(ADDRESS)
    daemon.config([ADDRESS], {"watch": "poll", "interval": "1h"})
    daemon.start()
    daemon.wait_state(ADDRESS, "sleeping")
    simulator.fault("delay-logout", ADDRESS, seconds=0.8, count=1)
    daemon.poll(ADDRESS)
    simulator.wait("fault-delay-logout", 1)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 1, timeout=15)


@pytest.mark.parametrize("kind,more", [("answer", {"line": "Server Unavailable. 15\n* BYE Connection closed.", "close": True}), ("answer", {"line": "Z99 OK LOGOUT completed."}),
                                       ("garbage", {})], ids=["bare", "other-tag", "garbage"])
def test_what_is_answered_to_logout(simulator, daemon, kind, more):
    """exchange-online 5.4: all was done before, so it is no failure, and the next poll has its time"""
    simulator.mailbox(ADDRESS)
    simulator.fault(kind, ADDRESS, command="LOGOUT", **more)
    daemon.config([ADDRESS], {"watch": "poll", "interval": "1s"})
    daemon.start()
    for i in range(2):
        simulator.add(ADDRESS, [{"seed": i, "size": 1500}])
        daemon.wait_delivered(ADDRESS, i + 1)
    simulator.wait("fault-" + kind, 3)
    daemon.wait_state(ADDRESS, "sleeping")
    assert not daemon.has_line("failure=")


def test_message_that_a_look_leaves_out_while_others_come(simulator, daemon):
    """exchange-online 4.5: the first look has listed it, the second, in the middle of the fetching, has not: it is there all the same"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 1000} for i in range(300)])
    simulator.fault("delay-fetch", ADDRESS, seconds=2, skip=1, count=1)
    simulator.fault("search-hides", ADDRESS, only=[250], skip=1, count=1)
    daemon.config([ADDRESS], {"interval": "2s"})
    daemon.start()
    simulator.wait("fault-delay-fetch", 1)
    simulator.add(ADDRESS, [{"seed": 1000, "size": 1000}])
    simulator.wait("fault-search-hides", 1)
    daemon.wait_delivered(ADDRESS, 301, timeout=30)
    assert set(Maildir(daemon.maildir(ADDRESS)).sums().values()) == {1}


def test_poll(simulator, daemon):
    """connect, SELECT, FETCH, LOGOUT; SEARCH only when SELECT tells that there may be more than one"""
    simulator.mailbox(ADDRESS)
    daemon.config([ADDRESS], {"watch": "poll", "interval": "2s"})
    daemon.start()

    def polls(n, times):
        daemon.wait_delivered(ADDRESS, n)
        simulator.wait("logins", simulator.state(ADDRESS)["logins"] + times, ADDRESS)
        commands = simulator.state()["commands"]
        assert commands.get("IDLE", 0) == commands.get("STATUS", 0) == 0 and commands["SELECT"] >= commands["LOGOUT"] >= times - 1
        return commands.get("UID SEARCH", 0)
    first = polls(0, 3)
    assert first <= 1                       # first contact
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    assert polls(1, 2) == first
    simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(2, 5)])
    assert first < polls(4, 2) <= first + 1


@pytest.mark.parametrize("watch", ["idle", "poll"])
@pytest.mark.parametrize("n", [0, 1])
def test_mail_that_comes_while_a_folder_is_opened(simulator, daemon, watch, n):
    """EXISTS after UIDNEXT (RFC 3501 7.3.1): UIDNEXT, which knows of n new ones, is not the last word"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.config([ADDRESS], {"watch": watch, "interval": "1h"})
    daemon.start()
    daemon.wait_delivered(ADDRESS, 1)
    daemon.wait_state(ADDRESS, "watching", "sleeping")
    simulator.fault("news", ADDRESS, command="SELECT", add=[{"seed": 9, "size": 1500}], count=1)
    assert daemon.ctl("pause", ADDRESS).returncode == 0
    daemon.wait_state(ADDRESS, "paused")
    simulator.add(ADDRESS, [{"seed": 2 + i, "size": 1500} for i in range(n)])
    assert daemon.ctl("resume", ADDRESS).returncode == 0
    daemon.wait_delivered(ADDRESS, n + 2, timeout=30)


def test_poll_for_one_that_is_gone(simulator, daemon):
    """SELECT's UIDNEXT names a message that is not there any more: it is neither owed nor asked for without end, and later ones come"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.config([ADDRESS], {"watch": "poll", "interval": "1h"})
    daemon.start()
    daemon.wait_delivered(ADDRESS, 1)
    daemon.wait_state(ADDRESS, "sleeping")
    simulator.add(ADDRESS, [{"seed": 2, "size": 1500}])
    simulator.post("/remove", address=ADDRESS, uids=[2])
    for i in range(4):
        daemon.poll(ADDRESS)
        simulator.wait("logins", i + 2, ADDRESS)
        daemon.wait_state(ADDRESS, "sleeping")
    assert 1 <= simulator.state()["commands"]["UID FETCH"] <= 2 and daemon.of(ADDRESS)["folders"][0]["owed"] == 0
    simulator.add(ADDRESS, [{"seed": 3, "size": 1500}])
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 2)
    assert set(Maildir(daemon.maildir(ADDRESS)).sums().values()) == {1}


@pytest.mark.parametrize("watch", ["idle", "poll"])
def test_several_folders(simulator, daemon, watch):
    folders = ["INBOX", "Second", "Third"]
    simulator.mailbox(ADDRESS, folders)
    daemon.config([ADDRESS], {"folders": folders, "watch": watch, "interval": "1s"})
    daemon.start()
    for i, folder in enumerate(folders):
        simulator.add(ADDRESS, [{"seed": i, "size": 1500}], folder)
        daemon.wait_delivered(ADDRESS, i + 1)
    if watch == "idle":
        assert simulator.state(ADDRESS)["logins"] == 1


@pytest.mark.parametrize("start,expected", [("all", 4), ("new", 1), ("2026-01-05", 3)])
def test_first_contact(simulator, daemon, start, expected):
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 1500, "internaldate": date} for i, date in enumerate([1767225600, 1767924132, 1768000000])])
    daemon.config([ADDRESS], {"start": start})
    daemon.start()
    simulator.wait("idling", 1)
    simulator.add(ADDRESS, [{"seed": 9, "size": 1500}])
    daemon.wait_delivered(ADDRESS, expected)
    assert daemon.stop() == 0
    daemon.start()				# and it stays so
    simulator.wait("idling", 1)
    assert len(Maildir(daemon.maildir(ADDRESS))) == expected
    assert simulator.counts("bodies") == expected


@pytest.mark.parametrize("start,hidden,skip", [("all", 2, 0), ("2026-01-05", 2, 0), ("2026-01-05", 2, 1), ("2026-01-05", 3, 2)])
def test_message_that_the_first_search_leaves_out(simulator, daemon, start, hidden, skip):
    """exchange-online 4.5, 5.10: what `start` is for is not lost by one SEARCH at first contact; UIDs 2 and 3 are of that day or later"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 1500, "internaldate": date} for i, date in enumerate([1767225600, 1767924132, 1768000000])])
    simulator.fault("search-hides", ADDRESS, only=[hidden], skip=skip, count=1)
    daemon.config([ADDRESS], {"start": start})
    daemon.start()
    simulator.wait("fault-search-hides", 1)
    daemon.wait_state(ADDRESS, "watching")
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 3 if start == "all" else 2, timeout=20)
    assert simulator.counts("bodies") == (3 if start == "all" else 2)


def test_first_search_that_lists_as_many_without_uidnext(simulator, daemon):
    """RFC 3501 6.3.1: what has come since SELECT makes up for no UID that is left out, and without UIDNEXT nobody knows what that is"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 1500, "internaldate": date} for i, date in enumerate([1767225600, 1767924132, 1768000000])])
    simulator.fault("uidnext", ADDRESS, count=1, **{"is": None})
    simulator.fault("search-hides", ADDRESS, only=[2], count=3)
    simulator.fault("search-also", ADDRESS, words=["7"], count=1)
    daemon.config([ADDRESS], {"start": "2026-01-05"})
    daemon.start()
    simulator.wait("fault-search-hides", 3)
    daemon.wait_state(ADDRESS, "watching")
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 2, timeout=20)


def after_done(status):
    return all(f["after_owed"] == 0 and f["delivered"] == 30 for m in status["mailboxes"] for f in m["folders"])


TARGET = "Erledigt & f\u00fcr sp\u00e4ter"


@pytest.mark.parametrize("after,without", [("keep", []), ("seen", []), ("seen", ["MOVE", "UIDPLUS"]), ("delete", []), ("delete", ["MOVE", "UIDPLUS"]),
                                           ({"move": TARGET}, []), ({"move": TARGET}, ["MOVE"]), ({"move": TARGET}, ["MOVE", "UIDPLUS"])])
def test_after(simulator, daemon, after, without):
    """exchange-online 4.7; never a plain EXPUNGE"""
    simulator.post("/options", without=without)
    simulator.mailbox(ADDRESS, ["INBOX", TARGET])
    simulator.add(ADDRESS, [{"seed": i, "size": 1200} for i in range(30)])
    daemon.config([ADDRESS], {"after": after})
    daemon.start()
    daemon.wait(after_done)
    left = simulator.folder(ADDRESS)["messages"]
    if after in ("keep", "seen"):
        assert list(left.values()) == [["\\Seen"] if after == "seen" else []] * 30
    elif "UIDPLUS" in without:
        assert list(left.values()) == [["\\Deleted"]] * 30 and daemon.wait_line("UIDPLUS")
    else:
        assert left == {}
    moved = simulator.folder(ADDRESS, TARGET)["messages"]
    assert len(moved) == (30 if isinstance(after, dict) else 0)
    assert simulator.counts("plain-expunge") == 0 and len(Maildir(daemon.maildir(ADDRESS))) == 30


@pytest.mark.parametrize("lacks", ["no-move", "no-uidplus"])
def test_after_by_what_each_mailbox_is_offered(simulator, daemon, lacks):
    """exchange-online 4.7: what one is not offered, another one's session uses all the same"""
    other, after = "other@contoso.example", {"move": "Done"} if lacks == "no-move" else "delete"
    for address in (ADDRESS, other):
        simulator.mailbox(address, ["INBOX", "Done"])
        simulator.add(address, [{"seed": i, "size": 1200} for i in range(30)])
    sums = sorted(simulator.sums(ADDRESS).values())
    simulator.fault(lacks, ADDRESS)
    daemon.config([ADDRESS, other], {"after": after})
    daemon.start()
    daemon.wait(after_done)
    commands = simulator.state()["commands"]
    assert simulator.folder(other)["messages"] == {} and simulator.counts("plain-expunge") == 0
    if lacks == "no-move":
        assert simulator.folder(ADDRESS)["messages"] == {} and commands["UID COPY"] > 0 and commands["UID MOVE"] > 0
        assert sorted(simulator.sums(ADDRESS, "Done").values()) == sorted(simulator.sums(other, "Done").values()) == sums
    else:
        assert list(simulator.folder(ADDRESS)["messages"].values()) == [["\\Deleted"]] * 30
        daemon.wait_line("event=server-lacks mailbox=%s .*no UIDPLUS: delivered messages stay in INBOX, marked" % ADDRESS)
    assert sum("event=server-lacks" in line for line in daemon.lines) == (lacks == "no-uidplus")


DONE = {"move": "Done"}


@pytest.mark.parametrize("step,after,without,flags,copied", [
    ("store-no", "seen", [], [], 0), ("store-no", "delete", [], [], 0), ("expunge-no", "delete", [], ["\\Deleted"], 0), ("move-no", DONE, [], [], 0),
    ("copy-no", DONE, ["no-move"], [], 0), ("store-no", DONE, ["no-move"], [], 3), ("expunge-no", DONE, ["no-move"], ["\\Deleted"], 3),
], ids=["seen", "mark", "expunge", "move", "copy", "mark-copied", "expunge-copied"])
def test_after_that_is_refused_at_a_step(simulator, daemon, step, after, without, flags, copied):
    """exchange-online 4.7: nothing goes from where it has not been copied; all of it is owed until it is done, and the mail goes on"""
    simulator.mailbox(ADDRESS, ["INBOX", "Done"])
    simulator.add(ADDRESS, [{"seed": i, "size": 1200} for i in range(3)])
    for kind in (step, *without):
        simulator.fault(kind, ADDRESS)
    daemon.config([{"address": ADDRESS, "after": after}])
    daemon.start()
    assert "tried again later" in daemon.wait_line("event=after-refused mailbox=%s folder=INBOX failure=" % ADDRESS)
    assert list(simulator.folder(ADDRESS)["messages"].values()) == [flags] * 3 and len(simulator.folder(ADDRESS, "Done")["messages"]) == copied
    simulator.add(ADDRESS, [{"seed": 9, "size": 1200}])
    daemon.wait_delivered(ADDRESS, 4)
    sums, mailbox = simulator.sums(ADDRESS), daemon.of(ADDRESS)
    assert mailbox["folders"][0]["after_owed"] == 4 == len(sums) and mailbox["failures"] == 0 and simulator.state(ADDRESS)["logins"] == 1
    simulator.clear(ADDRESS)
    daemon.poll(ADDRESS)
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    assert simulator.folder(ADDRESS)["messages"] == ({uid: ["\\Seen"] for uid in sums} if after == "seen" else {})
    assert collections.Counter(simulator.sums(ADDRESS, "Done").values()) == (collections.Counter(sums.values()) if after == DONE else {})    # copied once
    daemon.wait_line("event=mailbox-recovered mailbox=%s folder=INBOX .*`after` of delivered messages is done again" % ADDRESS)
    assert Maildir(daemon.maildir(ADDRESS)).sums() == {digest: 1 for digest in sums.values()} and simulator.counts("plain-expunge") == 0


@pytest.mark.parametrize("without", [[], ["no-move"]], ids=["move", "copy"])
def test_move_that_moves_nothing(simulator, make_daemon, without):
    """exchange-online 4.7: OK, with sets that are empty, and the messages are where they were: they are not deleted, and moved later. Those that
    somebody else has moved meanwhile are done."""
    simulator.mailbox(ADDRESS, ["INBOX", "Done"])
    uids = simulator.add(ADDRESS, [{"seed": i, "size": 1200} for i in range(4)])
    sums = simulator.sums(ADDRESS)
    for kind in ("move-nothing", *without):
        simulator.fault(kind, ADDRESS)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([{"address": ADDRESS, "after": DONE}])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "10"})
    line = daemon.wait_line("event=after-refused mailbox=%s folder=INBOX failure=not-moved" % ADDRESS)
    assert "where they were" in line and list(simulator.folder(ADDRESS)["messages"].values()) == [[]] * 4 and simulator.folder(ADDRESS, "Done")["messages"] == {}
    assert daemon.of(ADDRESS)["folders"][0]["after_owed"] == 4
    simulator.post("/remove", address=ADDRESS, uids=[uids[1]])
    commands = dict(simulator.state()["commands"])
    daemon.poll(ADDRESS)
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["after_owed"] == 3)
    simulator.post("/clear", address=ADDRESS)
    for kind in without:
        simulator.fault(kind, ADDRESS)
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    daemon.wait_line("event=mailbox-recovered .*folder=INBOX .*`after` of delivered messages is done again")
    assert simulator.folder(ADDRESS)["messages"] == {} and simulator.state()["commands"]["UID SEARCH"] > commands["UID SEARCH"]
    assert collections.Counter(simulator.sums(ADDRESS, "Done").values()) == collections.Counter(d for uid, d in sums.items() if int(uid) != uids[1])


def test_move_that_ends_the_connection(simulator, daemon):
    """exchange-online 4.7, 5.11: done, and not answered: asked for once more, fewer at first, it moves nothing, and that is told with sets that
    are empty"""
    simulator.mailbox(ADDRESS, ["INBOX", "Done"])
    simulator.add(ADDRESS, [{"seed": i, "size": 1200} for i in range(3)])
    sums = {digest: 1 for digest in simulator.sums(ADDRESS).values()}
    simulator.fault("close-after-move", ADDRESS, count=1)
    daemon.config([{"address": ADDRESS, "after": DONE}])
    daemon.start()
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["delivered"] == 3 and s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    assert collections.Counter(simulator.sums(ADDRESS, "Done").values()) == sums == Maildir(daemon.maildir(ADDRESS)).sums()
    assert simulator.folder(ADDRESS)["messages"] == {} and simulator.state()["commands"]["UID MOVE"] == 3 and simulator.state(ADDRESS)["logins"] == 2
    assert "S * OK [COPYUID 14  ]" in simulator.log_lines() and not daemon.has_line("event=after-refused")


def test_after_that_is_not_wanted_any_more(simulator, daemon):
    """It is owed no longer, and is not done when an `after` comes again"""
    simulator.mailbox(ADDRESS)
    simulator.fault("store-no", ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(3)])
    daemon.config([{"address": ADDRESS, "after": "delete"}])
    daemon.start()
    daemon.wait_line("event=after-refused")
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["after_owed"] == 3)
    daemon.config([ADDRESS])
    assert daemon.ctl("reload").returncode == 0
    daemon.wait_line("mailbox=%s folder=INBOX .*is keep now: what was still to be done for 3 delivered messages is not done" % ADDRESS)
    daemon.wait(lambda s: s["mailboxes"][0]["state"] == "watching" and s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    simulator.clear(ADDRESS)
    daemon.config([{"address": ADDRESS, "after": "delete"}])
    assert daemon.ctl("reload").returncode == 0
    new = simulator.add(ADDRESS, [{"seed": 3, "size": 1500}])
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["delivered"] == 4 and s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    assert new == [4] and set(simulator.folder(ADDRESS)["messages"]) == {"1", "2", "3"}


def test_copyuid_without_end(simulator, daemon):
    """What is kept of an answer is bounded; what comes after that has not been heard, and is looked for"""
    simulator.mailbox(ADDRESS, ["INBOX", "Done"])
    uid, = simulator.add(ADDRESS, [{"seed": 1, "size": 1200}])
    sets = [",".join(str(n) for n in range(first, first + 12000, 2)) for first in (10000, 30000)] + [str(uid)]
    simulator.fault("answer", ADDRESS, command="UID MOVE", count=1, line="\n".join(["* OK [COPYUID 14 %s 1] moved" % s for s in sets] + ["{tag} OK MOVE completed."]))
    daemon.config([{"address": ADDRESS, "after": DONE}])
    daemon.start()
    daemon.wait_line("event=after-refused .*the messages are where they were")
    daemon.poll(ADDRESS)
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    assert simulator.folder(ADDRESS)["messages"] == {} and len(simulator.folder(ADDRESS, "Done")["messages"]) == 1


def test_after_that_fails_does_not_stop_delivery(simulator, daemon):
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 1200} for i in range(3)])
    daemon.config([ADDRESS], {"after": {"move": "Missing"}})
    daemon.start()
    daemon.wait_delivered(ADDRESS, 3)
    simulator.add(ADDRESS, [{"seed": 9, "size": 1200}])
    status = daemon.wait(lambda s: delivered(s) == 4)
    assert status["mailboxes"][0]["folders"][0]["after_owed"] == 4
    assert len(Maildir(daemon.maildir(ADDRESS))) == 4


@pytest.mark.parametrize("more", [{"line": "{tag} BAD Command Error. 10"}, {"line": "* BYE Connection closed.", "close": True},
                                  {"line": "{tag} NO Server Unavailable. 15"}], ids=["bad", "closed", "unavailable"])
def test_after_that_ends_the_session(simulator, make_daemon, more):
    """It waits for itself: the mailbox is not ended by it again and again, and its mail goes on"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    simulator.fault("answer", ADDRESS, command="UID STORE", **more)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([{"address": ADDRESS, "after": "seen"}])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20"})
    line = daemon.wait_line("event=after-refused")
    assert "tried again later" in line and "failure=" in line
    for i in range(3):
        daemon.wait_state(ADDRESS, "watching")
        simulator.add(ADDRESS, [{"seed": 2 + i, "size": 1500}])
        daemon.wait_delivered(ADDRESS, 2 + i)
    assert 2 <= simulator.state()["commands"]["UID STORE"] <= 3         # again after two minutes, three
    simulator.clear(ADDRESS)
    daemon.poll(ADDRESS)
    daemon.wait(lambda s: all(f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))


def test_after_that_takes_too_long(simulator, make_daemon):
    """Nothing is heard of a COPY for two minutes and the session ends: fewer are asked for, until they are done in time, then more again"""
    rate = 40
    simulator.mailbox(ADDRESS, ["INBOX", "Done"])
    simulator.post("/options", without=["MOVE"])
    simulator.add(ADDRESS, [{"seed": i, "size": 1200} for i in range(32)])
    simulator.fault("slow-copy", ADDRESS, each_s=5 / rate)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([{"address": ADDRESS, "after": DONE}])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": str(rate)})

    def all_done(n):
        daemon.wait(lambda s: all(f["delivered"] == n and f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))
        asked = [m.group(1) for line in simulator.log_lines() for m in [re.match(r"C \S+ UID COPY (\S+) ", line)] if m]
        return [sum(int(hi or lo) - int(lo) + 1 for lo, hi in re.findall(r"(\d+)(?::(\d+))?", text)) for text in asked]
    assert all_done(32) == [32, 16, 16]
    simulator.clear(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 100 + i, "size": 1200} for i in range(64)])
    assert all_done(96)[3:] == [16, 32, 16]
    assert simulator.folder(ADDRESS)["messages"] == {} and set(simulator.sums(ADDRESS, "Done").values()) == set(Maildir(daemon.maildir(ADDRESS)).sums())


def test_after_that_is_throttled(simulator, make_daemon):
    """exchange-online 5.6: the mail that is not fetched yet comes first, however much is owed"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 1200} for i in range(450)])
    simulator.fault("throttle", ADDRESS, command="UID STORE", ms=20000)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([{"address": ADDRESS, "after": "seen"}])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "60"})
    daemon.wait_delivered(ADDRESS, 450, timeout=60)
    simulator.clear(ADDRESS)
    daemon.wait(lambda s: all(f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))


def test_message_that_looks_find_late_in_a_second_folder(simulator, make_daemon):
    """STATUS tells of it, four looks do not find it, the next one does"""
    simulator.mailbox(ADDRESS, ["INBOX", "Second"])
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([{"address": ADDRESS, "folders": ["INBOX", "Second"]}], {"interval": "10s"})
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20"})
    daemon.wait_state(ADDRESS, "watching")
    simulator.fault("search-hides", ADDRESS, only=[1, 2])
    simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(2)], "Second")
    simulator.wait("fault-search-hides", 8)
    assert daemon.of(ADDRESS)["folders"][1]["delivered"] == 0
    simulator.clear(ADDRESS)
    daemon.wait_delivered(ADDRESS, 2)


def test_folder_that_is_refused_is_not_complete(simulator, daemon):
    """What was not looked at may hold what was never delivered: if its UIDs change, nothing of it counts as known for its age"""
    simulator.mailbox(ADDRESS, ["INBOX", "Archive"])
    simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(3)], "Archive")
    simulator.fault("answer", ADDRESS, command="UID FETCH", line="* BYE Connection closed.", close=True, count=1)
    simulator.fault("select-no", ADDRESS, uids=["Archive"], skip=1)          # it can be opened, until its first FETCH
    daemon.config([{"address": ADDRESS, "folders": ["INBOX", "Archive"]}])
    daemon.start()
    simulator.wait("fault-answer", 1)
    daemon.wait_line("event=mailbox-stalled .*folder=Archive")
    daemon.wait_state(ADDRESS, "watching")

    def complete():
        with sqlite3.connect("file:%s/state.db?mode=ro" % daemon.state_dir, uri=True) as db:
            return dict(db.execute("SELECT name, complete FROM folder"))
    daemon.wait(lambda s: complete()["INBOX"] == 1)
    assert complete()["Archive"] == 0
    simulator.clear(ADDRESS)
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 3)
    daemon.wait(lambda s: complete()["Archive"] == 1)


def test_folder_that_cannot_be_opened(simulator, make_daemon):
    """The mailbox's others go on, IDLE included; it is shown as failing; made, it is taken in without a new session"""
    simulator.mailbox(ADDRESS, ["INBOX"])
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([{"address": ADDRESS, "folders": ["Invoices", "INBOX"]}])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20"})
    hint = "Folder Invoices of %s cannot be opened" % ADDRESS
    line = daemon.wait_line("event=mailbox-stalled .*failure=folder-refused")
    assert "folder=Invoices" in line and hint in line
    simulator.wait("idling", 1)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(ADDRESS, 1)
    mailbox = daemon.wait_state(ADDRESS, "watching")["mailboxes"][0]
    assert mailbox["failure"] == "folder-refused" and hint in mailbox["hint"] and mailbox["retry_at"] and mailbox["failures"] == 0
    status = daemon.status()
    assert status["totals"]["failing"] == 1 and (status["health"], status["reasons"]) == ("ok", [])
    logins = simulator.state(ADDRESS)["logins"]
    simulator.mailbox(ADDRESS, ["Invoices"])
    simulator.add(ADDRESS, [{"seed": 2, "size": 1500}], folder="Invoices")
    daemon.wait_delivered(ADDRESS, 2)           # within its own wait of five minutes
    daemon.wait_line("event=mailbox-recovered .*folder=Invoices.*can be opened again")
    daemon.wait(lambda s: s["totals"]["failing"] == 0)
    assert simulator.state(ADDRESS)["logins"] == logins


def test_folders_none_of_which_can_be_opened(simulator, daemon):
    """Then it is the mailbox that fails"""
    simulator.mailbox(ADDRESS, ["INBOX"])
    daemon.config([{"address": ADDRESS, "folders": ["Invoices", "Reports"]}])
    daemon.start()
    mailbox = daemon.wait_state(ADDRESS, "backing-off")["mailboxes"][0]
    assert mailbox["failure"] == "folder-refused" and "Folder Reports of" in mailbox["hint"] and mailbox["failures"] == 1
    assert daemon.status()["health"] == "down"


def test_uid_search_lists_the_last_message(simulator, daemon):
    """exchange-online 4.6: n:* answers the last message even below n; nothing is fetched twice"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1200}])
    daemon.config([ADDRESS], {"interval": "500ms"})
    daemon.start()
    daemon.wait_delivered(ADDRESS, 1)
    simulator.wait("command:UID SEARCH", 5)
    assert simulator.counts("bodies") == 1 


def test_message_removed_by_somebody_else(simulator, daemon):
    """Gone before it was looked for, between the look and its FETCH, or after it: no harm (exchange-online 4.6)."""
    simulator.mailbox(ADDRESS)
    uids = simulator.add(ADDRESS, [{"seed": i, "size": 1200} for i in range(5)])
    simulator.post("/remove", address=ADDRESS, folder="INBOX", uids=[uids[1]])
    simulator.fault("delay-fetch", ADDRESS, seconds=1, count=1)
    daemon.config([ADDRESS])
    daemon.start()
    simulator.wait("fault-delay-fetch", 1)
    simulator.post("/remove", address=ADDRESS, folder="INBOX", uids=[uids[4]])
    daemon.wait_delivered(ADDRESS, 3)
    simulator.post("/remove", address=ADDRESS, folder="INBOX", uids=[uids[0]])
    simulator.add(ADDRESS, [{"seed": 8, "size": 1200}])
    daemon.wait_delivered(ADDRESS, 4)
    assert daemon.of(ADDRESS)["folders"][0]["owed"] == 0


def test_flags_that_others_change(simulator, make_daemon):
    """exchange-online 4.6: told during IDLE, there is nothing to do, and no command that could be late"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "60"})
    daemon.wait_delivered(ADDRESS, 1)
    daemon.wait_state(ADDRESS, "watching")
    before = simulator.state()["commands"]["IDLE"]
    simulator.fault("in-idle", ADDRESS, play="answer", line="* 1 FETCH (FLAGS (\\Seen))", count=1)
    simulator.wait("fault-in-idle", 1)
    daemon.wait(lambda s: simulator.state()["commands"]["IDLE"] > before, 60, "nine minutes, which a limit of three does not last")
    assert not daemon.has_line("failure=stuck")


def test_folder_whose_opening_is_an_error(simulator, make_daemon):
    """exchange-online 5.7: BAD ends the session, and the folder waits for itself while the mailbox's others go on"""
    simulator.mailbox(ADDRESS, ["INBOX", "Archive"])
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([{"address": ADDRESS, "folders": ["INBOX", "Archive"]}])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20"})
    daemon.wait_state(ADDRESS, "watching")
    simulator.fault("answer", ADDRESS, command="STATUS", line="{tag} BAD Command Argument Error. 12")
    daemon.poll(ADDRESS)
    daemon.wait_line("event=mailbox-stalled .*folder=Archive .*failure=argument-refused")
    daemon.wait_state(ADDRESS, "watching")
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(ADDRESS, 1)
    simulator.clear(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 2, "size": 1500}], "Archive")
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 2)
