"""The same daemon against an IMAP server that nobody of this project wrote."""
import collections
import hashlib
import os
import random
import subprocess

import pytest

from lib.daemon import BUILD
from lib.dovecot import Dovecot
from lib.maildir import Maildir
from lib.simulator import messages

USERS = ["support@contoso.example", "invoices@contoso.example"]


@pytest.fixture
def dovecot(tmp_path, simulator):
    d = Dovecot(tmp_path / "dovecot", simulator)
    yield d
    d.stop()


def bodies(seed, n):
    """CRLF throughout and no NUL: what an IMAP server may be given to store."""
    rng, made = random.Random(seed), []
    for i in range(n):
        body = messages.awkward(rng.randrange(10**9), rng.choice([1024, 5000, 60000, 700000]))
        body = body.replace(b"\0", b"0").replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\n", b"\r\n")
        made.append(body if body.endswith(b"\r\n") else body + b"\r\n")
    return made


def sums(all_bodies):
    return collections.Counter(hashlib.sha256(b).hexdigest() for b in all_bodies)


def configure(daemon, dovecot, **more):
    daemon.config(USERS, {"port": dovecot.port, **more})


def test_everything_arrives(dovecot, daemon):
    sent = {user: bodies(i, 60) for i, user in enumerate(USERS)}
    for user in USERS:
        dovecot.append(user, sent[user])
    configure(daemon, dovecot)
    daemon.start()
    daemon.wait_total(120)
    for user in USERS:
        assert Maildir(daemon.maildir(user)).sums() == sums(sent[user])
        assert not any("\\Seen" in line for line in dovecot.flags(user))
    daemon.wait(lambda s: s["totals"]["watching"] == 2)
    more = bodies(99, 3)
    dovecot.append(USERS[0], more)			# IDLE
    daemon.wait_total(123)
    assert Maildir(daemon.maildir(USERS[0])).sums() == sums(sent[USERS[0]] + more)


@pytest.mark.parametrize("after", ["seen", "delete", {"move": "Processed"}])
def test_after(dovecot, daemon, after):
    sent = bodies(7, 30)
    dovecot.append(USERS[0], sent)
    configure(daemon, dovecot, after=after)
    daemon.start()
    daemon.wait(lambda s: all(f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]) and s["mailboxes"][0]["folders"][0]["delivered"] == 30)
    left, moved = dovecot.flags(USERS[0]), dovecot.flags(USERS[0], "Processed")
    if after == "seen":
        assert len(left) == 30 and all("\\Seen" in line for line in left)
    else:
        assert left == [] and len(moved) == (30 if isinstance(after, dict) else 0)


def test_polls(dovecot, daemon):
    configure(daemon, dovecot, watch="poll", interval="1s")
    daemon.start()
    daemon.wait(lambda s: s["totals"]["sleeping"] == 2)
    sent = bodies(3, 5)
    dovecot.append(USERS[1], sent)
    daemon.wait_delivered(USERS[1], 5)
    assert Maildir(daemon.maildir(USERS[1])).sums() == sums(sent)


def test_refused_token(simulator, dovecot, daemon):
    """`+` with JSON, an empty line, NO (exchange-online 4.2)"""
    simulator.post("/token", roles=[])			# the simulator says of it that it is not active
    configure(daemon, dovecot)
    daemon.start()
    daemon.wait_state(USERS[0], "backing-off")
    daemon.wait_line("the server says of the refused sign-in: .*401")
    simulator.post("/token", roles=["IMAP.AccessAsApp"])
    daemon.config(USERS, {"port": dovecot.port, "interval": "1m"}, {"log_level": "info"})
    daemon.write_secret(simulator.secret)
    assert daemon.stop() == 0
    daemon.start()
    daemon.wait_state(USERS[0], "watching")


def test_doctor(dovecot, daemon):
    """Passes, and leaves the mailbox as it is; a folder that is not there is told, in this server's words"""
    for user in USERS:
        dovecot.append(user, bodies(9, 3))
    configure(daemon, dovecot, after={"move": "Processed"})
    done = subprocess.run([os.path.join(BUILD, "mailpolld"), "-c", daemon.file, "doctor"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and ", 0 failed, 0 skipped" in done.stdout and done.stdout.count("3 messages") == 2, done.stdout
    client = dovecot.login(USERS[0])
    client.select("INBOX")
    assert client.search(None, "UNSEEN")[1] == [b"1 2 3"]
    client.logout()
    configure(daemon, dovecot, folders=["Nowhere"])
    done = subprocess.run([os.path.join(BUILD, "mailpolld"), "-c", daemon.file, "doctor", USERS[0]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Folder Nowhere does not exist in mailbox %s" % USERS[0] in " ".join(done.stdout.split()), done.stdout
