"""TLS sessions are resumed, whichever mailbox's connection brought the ticket."""
import pytest

BOXES = ["box%d@contoso.example" % i for i in range(3)]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_resumed(simulator, daemon, version):
    simulator.post("/tls", maximum=version)
    for address in BOXES:
        simulator.mailbox(address)
    daemon.config(BOXES, {"watch": "poll", "interval": "1h"}, admission={"starting_at_once": 1})
    daemon.start()
    for address in BOXES:
        daemon.wait_state(address, "sleeping")
    assert simulator.counts("connections") == 3 and simulator.counts("tls_resumed") == 2     # the first one brought it
    for _ in range(2):
        for address in BOXES:
            count = simulator.counts("connections")
            daemon.poll(address)
            simulator.wait("connections", count + 1)
            daemon.wait_state(address, "sleeping")
    assert simulator.counts("tls_resumed") == 8


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_connections_that_break(simulator, daemon, version):
    """A ticket of a connection that broke is none; what else there is serves"""
    simulator.post("/tls", maximum=version)
    for address in BOXES:
        simulator.mailbox(address)
    daemon.config(BOXES)
    daemon.start()
    for n in range(1, 3):
        for address in BOXES:
            daemon.wait_state(address, "watching")
            simulator.post("/drop", address=address)
            simulator.wait("logins", n + 1, address)
    for address in BOXES:
        daemon.wait_state(address, "watching")
        assert daemon.of(address)["failures"] == 0


def test_certificate_that_changes(simulator, daemon):
    """A reload reads the authorities anew, and no ticket of before speaks for the server"""
    simulator.mailbox(BOXES[0])
    daemon.config([BOXES[0]], {"watch": "poll", "interval": "1h"})
    daemon.start()
    daemon.wait_state(BOXES[0], "sleeping")
    simulator.post("/certificate", server="imap", name="stranger")
    assert daemon.ctl("reload").returncode == 0
    daemon.poll(BOXES[0])
    daemon.wait_line("failure=certificate")
