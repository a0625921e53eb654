"""A mailbox that was moved or restored has other UIDs for the same messages: what was delivered is not delivered again, what is
new is; an operator may want it again all the same (exchange-online 5.12)."""
import contextlib
import os
import sqlite3
import time

import pytest

from lib.maildir import Maildir

M = "moved@contoso.example"


def delivered(daemon, n, **more):
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["delivered"] >= n and s["mailboxes"][0]["state"] == "watching", what="%d delivered" % n, **more)


def begin(simulator, daemon, n=30, **conf):
    simulator.mailbox(M)
    simulator.add(M, [{"seed": i, "size": 1500} for i in range(n)])
    daemon.config([{"address": M, **conf}])
    daemon.start()
    delivered(daemon, n)


def move(simulator, uidvalidity):
    """The session that knows the old UIDs hears nothing of it before it ends."""
    simulator.fault("silent-idle", M)
    simulator.post("/folder", address=M, uidvalidity=uidvalidity)


def look_anew(simulator, daemon):
    """The session that knows the old UIDs ends."""
    simulator.post("/drop", address=M)
    daemon.poll(M)


def test_new_uidvalidity(simulator, daemon):
    begin(simulator, daemon)
    move(simulator, 15)
    new = simulator.add(M, [{"seed": 100 + i, "size": 1500} for i in range(3)])
    look_anew(simulator, daemon)
    delivered(daemon, 33)
    folder = daemon.of(M)["folders"][0]
    assert folder["rebuilt"]["known"] == 30 and folder["rebuilt"]["new"] == 3
    assert "30 known messages skipped, 3 fetched" in daemon.ctl("status", M).stdout
    assert daemon.wait_line("event=uidvalidity-changed mailbox=moved@contoso.example .*30 known messages are skipped, 3 are fetched")
    assert set(simulator.folder(M)["fetched"]) & set(map(str, new)) == set(map(str, new))
    assert set(Maildir(daemon.maildir(M)).sums().values()) == {1}

    move(simulator, 16)       # the record outlives the first change, and a restart
    daemon.stop()
    simulator.add(M, [{"seed": 200, "size": 1500}])
    daemon.start()
    delivered(daemon, 34)
    assert set(Maildir(daemon.maildir(M)).sums().values()) == {1} and len(Maildir(daemon.maildir(M))) == 34


@pytest.mark.parametrize("after,hindrance", [({"move": "Done"}, "move-no"), ("seen", "store-no"), ("delete", "store-no")])
def test_after_that_is_owed_meanwhile(simulator, daemon, after, hindrance):
    """What has been delivered is moved or marked all the same, under its new UID; what only seems so by its age, is not, and none is deleted"""
    now = int(time.time())
    simulator.mailbox(M, ["INBOX", "Done"])
    simulator.fault(hindrance, M)
    simulator.add(M, [{"seed": i, "size": 1500, "internaldate": now - 1000 + i} for i in range(5)])
    daemon.config([{"address": M, "after": after}])
    daemon.start()
    delivered(daemon, 5)
    daemon.wait_line("event=after-refused")
    move(simulator, 15)
    simulator.add(M, [{"text": "Subject: without a name\r\n\r\nx\r\n", "internaldate": now - 86400 * 40}])      # older than the record
    look_anew(simulator, daemon)
    daemon.wait_line("6 known messages are skipped, 0 are fetched; " + ("5 delivered ones that were to be deleted stay" if after == "delete" else
                     "`after`, owed for 5, is done for 5"))
    simulator.clear(M)
    new = simulator.add(M, [{"seed": 60, "size": 1500}])[0]
    daemon.poll(M)
    delivered(daemon, 6)
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    there, done = simulator.folder(M)["messages"], simulator.folder(M, "Done")["messages"]
    if after == "seen":
        assert {uid for uid, flags in there.items() if "\\Seen" in flags} == set(map(str, [1, 2, 3, 4, 5, new])) and len(there) == 7
    elif after == "delete":
        assert set(there) == set(map(str, range(1, 7)))
    else:
        assert set(there) == {"6"} and len(done) == 6
    assert set(Maildir(daemon.maildir(M)).sums().values()) == {1} and len(Maildir(daemon.maildir(M))) == 6


@pytest.mark.parametrize("command", ["UID SEARCH", "UID FETCH"])
def test_news_while_it_is_listed_anew(simulator, daemon, command):
    """exchange-online 4.6, 5.12: meanwhile somebody else takes one that is known away, and a new one comes"""
    begin(simulator, daemon)
    move(simulator, 15)
    simulator.fault("news", M, command=command, add=[{"seed": 100, "size": 1500}], remove=True, count=1)
    look_anew(simulator, daemon)
    delivered(daemon, 31, timeout=20)
    assert simulator.counts("fault-news") == 1 and simulator.counts("bodies") == 31 and daemon.of(M)["folders"][0]["owed"] == 0
    assert set(Maildir(daemon.maildir(M)).sums().values()) == {1} and len(Maildir(daemon.maildir(M))) == 31
    assert daemon.of(M)["failures"] == 0 and not daemon.has_line("failure=(?!uids-changed)")


def test_uidnext_went_back(simulator, daemon):
    begin(simulator, daemon)
    simulator.post("/remove", address=M, uids=[1, 2, 3, 4, 5])
    move(simulator, 14)
    simulator.add(M, [{"seed": 100, "size": 1500}])
    look_anew(simulator, daemon)
    delivered(daemon, 31)
    assert daemon.of(M)["folders"][0]["rebuilt"]["known"] == 25
    assert set(Maildir(daemon.maildir(M)).sums().values()) == {1}


def test_older_than_the_record(simulator, daemon):
    """Messages that no record can know (they have no Message-ID): those of before the oldest kept entry count as known."""
    now = int(time.time())
    anonymous = {"text": "Subject: without a name\r\n\r\nx\r\n"}
    simulator.mailbox(M)
    simulator.add(M, [{**anonymous, "internaldate": now - 86400 * 40}, {"seed": 1, "size": 1500, "internaldate": now - 86400 * 20},
                      {**anonymous, "internaldate": now - 86400 * 10}])
    daemon.config([M])
    daemon.start()
    delivered(daemon, 3)
    move(simulator, 15)
    look_anew(simulator, daemon)
    delivered(daemon, 4)
    assert daemon.of(M)["folders"][0]["rebuilt"]["known"] == 2


def test_old_message_that_came_late(simulator, daemon):
    """It was put into the folder meanwhile, with its old date. A record that has forgotten none knows that it is new."""
    begin(simulator, daemon)
    move(simulator, 15)
    simulator.add(M, [{"seed": 100, "size": 1500, "internaldate": 1000000000}])
    look_anew(simulator, daemon)
    delivered(daemon, 31)
    assert daemon.of(M)["folders"][0]["rebuilt"]["known"] == 30
    assert set(Maildir(daemon.maildir(M)).sums().values()) == {1} and len(Maildir(daemon.maildir(M))) == 31


def test_known_message_that_the_listing_leaves_out(simulator, daemon):
    """exchange-online 4.5: SELECT tells that there are more; so it is listed again, and nothing is delivered twice"""
    begin(simulator, daemon)
    move(simulator, 15)
    simulator.fault("search-hides", M, only=[7], count=1)
    look_anew(simulator, daemon)
    daemon.wait_line("30 known messages are skipped, 0 are fetched")
    daemon.wait_state(M, "watching")
    daemon.poll(M)
    daemon.wait_state(M, "watching")
    assert simulator.counts("bodies") == 30 and simulator.counts("fault-search-hides") == 1


@pytest.mark.parametrize("form", ["NIL", '""', "{0}\r\n"])
def test_header_that_is_empty_once(simulator, daemon, form):
    """exchange-online 5.9: it is no header without a Message-ID, and asked for once more, alone"""
    begin(simulator, daemon)
    move(simulator, 15)
    simulator.fault("body-nil", M, uids=[9], form=form, count=1)
    look_anew(simulator, daemon)
    daemon.wait_line("30 known messages are skipped, 0 are fetched")
    daemon.wait_state(M, "watching")
    assert simulator.counts("bodies") == 30 and simulator.counts("fault-body-nil") == 1


def test_what_start_left_out_stays_out(simulator, daemon):
    simulator.mailbox(M)
    simulator.add(M, [{"seed": i, "size": 1500, "internaldate": int(time.time()) - 86400} for i in range(5)])
    daemon.config([{"address": M, "start": "new"}])
    daemon.start()
    daemon.wait_state(M, "watching")
    move(simulator, 15)
    simulator.add(M, [{"seed": 50, "size": 1500, "internaldate": int(time.time()) + 5}])
    look_anew(simulator, daemon)
    delivered(daemon, 1)
    assert daemon.of(M)["folders"][0]["rebuilt"]["known"] == 5
    assert daemon.of(M)["folders"][0]["delivered"] == 1


def test_first_contact_by_a_clock_that_was_ahead(simulator, daemon):
    """`start: new`: what has come since looks older than the first contact, and is new all the same"""
    simulator.mailbox(M)
    simulator.add(M, [{"seed": 1, "size": 1500}])
    daemon.config([{"address": M, "start": "new"}])
    daemon.start()
    daemon.wait_state(M, "watching")
    simulator.add(M, [{"seed": 2, "size": 1500}])
    delivered(daemon, 1)
    daemon.stop()
    with contextlib.closing(sqlite3.connect(os.path.join(daemon.state_dir, "state.db"))) as db, db:
        assert db.execute("UPDATE folder SET begun = begun + 30 * 86400").rowcount == 1
    simulator.post("/folder", address=M, uidvalidity=15)
    new = simulator.add(M, [{"seed": 3, "size": 1500}])
    daemon.start()
    daemon.wait_line("event=uidvalidity-changed")
    daemon.wait(lambda s: str(new[0]) in simulator.folder(M)["fetched"])
    delivered(daemon, 2)


def test_one_message_hinders_the_listing(simulator, daemon):
    """exchange-online 5.8: NO to one, nothing for another, while all are listed: they are not known, and fetched when they can be"""
    begin(simulator, daemon)
    move(simulator, 15)
    simulator.fault("fetch-no", M, uids=[7])
    simulator.fault("fetch-empty", M, uids=[9])
    look_anew(simulator, daemon)
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["owed"] == 2)
    assert daemon.of(M)["folders"][0]["rebuilt"]["known"] == 28
    assert len(Maildir(daemon.maildir(M))) == 30


def test_one_message_is_left_out_of_the_listing_once(simulator, daemon):
    """exchange-online 5.8 A: it is asked for alone before it counts as new"""
    begin(simulator, daemon)
    move(simulator, 15)
    simulator.fault("fetch-empty", M, uids=[9], count=1)
    look_anew(simulator, daemon)
    daemon.wait_line("30 known messages are skipped, 0 are fetched")
    daemon.wait_state(M, "watching")
    assert len(Maildir(daemon.maildir(M))) == 30 and daemon.of(M)["folders"][0]["delivered"] == 30


@pytest.mark.parametrize("kind", ["fetch-empty", "fetch-no"])
def test_listing_that_tells_nothing(simulator, daemon, kind):
    """exchange-online 5.8: a server that gives nothing of any message does not make them new ones; it is asked again, in other sessions"""
    begin(simulator, daemon)
    move(simulator, 15)
    simulator.fault(kind, M)
    look_anew(simulator, daemon)
    daemon.wait_line("failure=none-given .*told neither Message-ID nor date")
    simulator.clear(M)
    simulator.add(M, [{"seed": 100, "size": 1500}])
    daemon.poll(M)
    delivered(daemon, 31)
    folder = daemon.of(M)["folders"][0]
    assert folder["rebuilt"]["known"] == 30 and folder["rebuilt"]["new"] == 1 and len(Maildir(daemon.maildir(M))) == 31


@pytest.mark.parametrize("play", ["close-raw", "unavailable"])
def test_one_message_ends_the_session_that_lists(simulator, daemon, play):
    """exchange-online 5.8 C: found out one at a time; what is known of the others is kept over the sessions"""
    begin(simulator, daemon)
    move(simulator, 15)
    simulator.fault(play, M, command="UID FETCH", asks=17)
    look_anew(simulator, daemon)
    daemon.wait_line("failure=")
    while not daemon.has_line("event=uidvalidity-changed"):
        daemon.poll(M)
        daemon.wait(lambda s: s["mailboxes"][0]["state"] in ("backing-off", "watching") or daemon.has_line("event=uidvalidity-changed"))
    assert daemon.of(M)["folders"][0]["rebuilt"]["known"] == 29
    asked = [line for line in simulator.log_lines() if line[0] == "C" and "MESSAGE-ID" in line]
    assert len(asked) == 32, asked        # all, each, the one twice
    daemon.wait_state(M, "backing-off")         # it ends the session as well when it is fetched
    simulator.clear(M)
    daemon.poll(M)
    delivered(daemon, 31)                       # the one that was not known is fetched once more
    assert len(Maildir(daemon.maildir(M))) == 31


@pytest.mark.parametrize("command", ["UID SEARCH", "UID FETCH"])
def test_uidnext_goes_back_and_on_while_it_is_listed(simulator, daemon, command):
    """The session that has seen it go back ends, and the next one sees a UIDNEXT that looks as it should, and a message with the highest known UID"""
    begin(simulator, daemon)
    simulator.post("/remove", address=M, uids=[1, 2, 3, 4, 5])
    move(simulator, 14)
    simulator.fault("close-raw", M, command=command, count=1)
    look_anew(simulator, daemon)
    simulator.wait("fault-close-raw", 1)
    new = simulator.add(M, [{"seed": 100 + i, "size": 1500, "internaldate": int(time.time()) + 1000 + i} for i in range(10)])
    assert min(new) <= 30 < max(new)            # as some that were delivered, whose names differ by the date
    daemon.poll(M)
    delivered(daemon, 40)
    assert daemon.of(M)["folders"][0]["rebuilt"]["known"] == 25 and len(Maildir(daemon.maildir(M))) == 40


def test_resync_asked_for_again_meanwhile(simulator, daemon):
    """Another day, while the server answers for the first: both are done"""
    now = int(time.time())
    days = [time.strftime("%Y-%m-%d", time.gmtime(now - 86400 * ago)) for ago in (2, 5)]
    simulator.mailbox(M)
    simulator.add(M, [{"seed": i, "size": 1500, "internaldate": now - 86400 * (12 - i) + 7200} for i in range(12)])
    daemon.config([M])
    daemon.start()
    delivered(daemon, 12)
    simulator.fault("search-rest", M, seconds=1, count=1)
    daemon.ctl("resync", M, "--since", days[0])
    simulator.wait("fault-search-rest", 1)
    daemon.ctl("resync", M, "--since", days[1])
    daemon.wait_line("messages since %s are fetched again" % days[1])
    assert daemon.has_line("messages since %s are fetched again" % days[0])


@pytest.mark.parametrize("play,more", [("answer", {"line": "{tag} NO SEARCH failed."}), ("answer", {"line": "{tag} BAD Command Argument Error. 11"}),
                                       ("close-raw", {}), ("hang", {})], ids=["no", "bad", "closed", "hang"])
def test_resync_that_the_server_does_not_answer(simulator, make_daemon, play, more):
    """It is given up after the second time, the log says so, and mail goes on"""
    daemon = make_daemon(program="mailpolld-scaled")
    simulator.mailbox(M)
    simulator.add(M, [{"seed": i, "size": 1500} for i in range(3)])
    daemon.config([M])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "10"})
    delivered(daemon, 3)
    simulator.fault(play, M, command="UID SEARCH", **more)
    daemon.ctl("resync", M, "--since", "2026-01-05")
    line = daemon.wait_line("event=mailbox-stalled mailbox=%s folder=INBOX .*resync since 2026-01-05 is given up" % M, timeout=60)
    assert "mailpollctl resync %s --since 2026-01-05" % M in line
    searches = [line for line in simulator.log_lines() if line[0] == "C" and "SEARCH SINCE" in line]
    assert len(searches) == 2, searches
    simulator.clear(M)
    simulator.add(M, [{"seed": 50, "size": 1500}])
    daemon.poll(M)
    delivered(daemon, 4)
    assert len(Maildir(daemon.maildir(M))) == 4
    assert daemon.stop() == 0
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "10"})      # for good: it is no wish any more
    daemon.wait_state(M, "watching")
    assert simulator.counts("bodies") == 4
    daemon.ctl("resync", M, "--since", "2026-01-05")      # but can be asked for again
    daemon.wait_delivered(M, 8)


def test_resync_of_a_throttled_mailbox(simulator, make_daemon):
    """exchange-online 5.6: whoever is told to wait waits; the wish is kept however often that is"""
    daemon = make_daemon(program="mailpolld-scaled")
    simulator.mailbox(M)
    simulator.add(M, [{"seed": i, "size": 1500} for i in range(3)])
    daemon.config([M])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "100"})
    delivered(daemon, 3)
    simulator.fault("answer", M, command="UID SEARCH", count=3, line="{tag} BAD Request is throttled. Suggested Backoff Time: 92415 milliseconds")
    daemon.ctl("resync", M, "--since", "2026-01-05")
    daemon.wait_delivered(M, 6)
    assert not daemon.has_line("is given up")


def test_resync(simulator, daemon):
    """An operator wants once more what came since a day."""
    now = int(time.time())
    day = time.strftime("%Y-%m-%d", time.gmtime(now - 86400 * 5))
    simulator.mailbox(M)
    simulator.add(M, [{"seed": i, "size": 1500, "internaldate": now - 86400 * (12 - i)} for i in range(12)])
    daemon.config([M])
    daemon.start()
    delivered(daemon, 12)
    for path in list(Maildir(daemon.maildir(M)).files()):
        os.unlink(path)
    refused = daemon.ctl("resync", M, "--since", "yesterday")
    assert refused.returncode == 64 and "since must be a date such as 2026-01-31" in refused.stderr
    assert daemon.ctl("resync", M).returncode == 64
    done = daemon.ctl("resync", M, "--since", day)
    assert done.returncode == 0 and "delivers once more" in done.stdout
    delivered(daemon, 17)
    assert len(Maildir(daemon.maildir(M))) == 5
    assert daemon.wait_line("resync asked for by uid")


@pytest.mark.parametrize("then", ["a reload", "a restart", "a crash"])
def test_resync_that_waits(simulator, daemon, then):
    """Asked for and acknowledged, it is done once, whatever comes before its session: in a folder that was never looked at, too"""
    now = int(time.time())
    day = time.strftime("%Y-%m-%d", time.gmtime(now - 86400 * 5))
    simulator.mailbox(M, ["INBOX", "Archive"])
    for folder in ("INBOX", "Archive"):
        simulator.add(M, [{"seed": i + len(folder), "size": 1500, "internaldate": now - 86400 * (12 - i)} for i in range(12)], folder)
    daemon.config([{"address": M, "start": "new"}])
    daemon.start()
    daemon.wait_state(M, "watching")
    daemon.config([{"address": M, "start": "new", "folders": ["INBOX", "Archive"]}])
    assert daemon.ctl("pause", M).returncode == 0 and daemon.ctl("reload").returncode == 0
    assert daemon.ctl("resync", M, "--since", day).returncode == 0
    if then == "a crash":
        daemon.kill9()
        daemon.start()
    elif then == "a restart":
        assert daemon.stop() == 0
        daemon.start()
    else:
        daemon.config([{"address": M, "start": "new", "folders": ["Archive", "INBOX"]}])
        assert daemon.ctl("reload").returncode == 0
    assert daemon.ctl("resume", M).returncode == 0
    daemon.wait(lambda s: [f["delivered"] for f in s["mailboxes"][0]["folders"]] == [5, 5] and s["mailboxes"][0]["state"] == "watching")
    assert daemon.stop() == 0
    daemon.start()
    daemon.wait_state(M, "watching")
    assert len(Maildir(daemon.maildir(M))) == 10 == simulator.counts("bodies")
