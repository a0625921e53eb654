"""Messages arrive byte for byte, exactly once, and stay as they were on the server."""
import collections
import random

from lib.gate import Gate
from lib.maildir import Maildir, key_digest


def specs(rng, n):
    """1 KiB to 60 KiB, and one of 2 MiB; NUL, bare LF, long lines, 8-bit headers, lines that look like IMAP (messages.AWKWARD)."""
    return [{"seed": rng.randrange(10**9), "size": rng.choice([1024, 1024, 3000, 8000, 8000, 20000, 60000]) if i else 2 * 1024 * 1024}
            for i in range(n)]


def expect_all(simulator, daemon, address, folder="INBOX", maildir=None):
    delivered, expected = Maildir(maildir or daemon.maildir(address)), simulator.sums(address, folder)
    assert delivered.sums() == collections.Counter(expected.values())
    assert delivered.digests() == collections.Counter(key_digest(address, folder, 14, int(uid)) for uid in expected)
    assert delivered.tmp() == []


def test_first_message(simulator, daemon):
    simulator.mailbox("support@contoso.example")
    simulator.add("support@contoso.example", [{"seed": 1, "size": 5000}])
    daemon.config(["support@contoso.example"])
    daemon.start()
    daemon.wait_delivered("support@contoso.example", 1)
    expect_all(simulator, daemon, "support@contoso.example")
    assert simulator.folder("support@contoso.example")["messages"] == {"1": []}     # unseen


def test_new_mail_while_idling(simulator, daemon):
    """IDLE brings it (exchange-online 4.8): no poll, no new connection."""
    address = "support@contoso.example"
    simulator.mailbox(address)
    daemon.config([address])
    daemon.start()
    simulator.wait("idling", 1)
    for i in range(3):
        simulator.add(address, [{"seed": i, "size": 2000}])
        daemon.wait_delivered(address, i + 1)
    expect_all(simulator, daemon, address)
    assert simulator.state(address)["logins"] == 1


def test_fifty_mailboxes(simulator, daemon):
    """A hundred messages in each, half of them in two folders"""
    rng, each = random.Random(1), 100
    folders = {"box%02d@contoso.example" % i: ["INBOX", "Entw\u00fcrfe & mehr"][:1 + i % 2] for i in range(50)}
    for address, names in folders.items():
        simulator.mailbox(address, names)
        for folder in names:
            simulator.add(address, specs(rng, each // len(names)), folder)
    daemon.config([{"address": address, "folders": names} for address, names in folders.items()],
                  {"deliver": {"maildir": daemon.directory + "/mail/%{address}/%{folder}"}}, {"log_level": "info"})
    daemon.start()
    daemon.wait_total(len(folders) * each)
    for address, names in folders.items():
        for folder in names:
            expect_all(simulator, daemon, address, folder, daemon.maildir(address, folder))
            assert set(map(tuple, simulator.folder(address, folder)["messages"].values())) == {()}
    assert simulator.counts("token_requests") == 1


def test_new_directories_survive_too(simulator, daemon, tmp_path):
    """A power loss must not take a new Maildir with its first messages: each directory that was made is flushed where it stands"""
    address, mail = "support@contoso.example", daemon.directory + "/mail"
    gate = Gate(tmp_path / "gate", daemon.directory)
    simulator.mailbox(address)
    simulator.add(address, [{"seed": 1, "size": 2000}])
    daemon.config([address], {"deliver": {"maildir": mail + "/some/where/%{address}"}})
    daemon.start(env=gate.env)
    daemon.wait_delivered(address, 1)
    flushed = gate.flushed()
    made = [mail, mail + "/some", mail + "/some/where", mail + "/some/where/" + address]      # in each of them something is new
    before = flushed[:flushed.index(made[3] + "/new")]      # of the message's rename
    assert sorted(path for path in before if path in made) == made
