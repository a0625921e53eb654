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
    """Of a connection that is just gone the tickets are good; a handshake that fails costs all of them, since they may be why"""
    address, line = BOXES[0], simulator.post("/line")["port"]
    simulator.post("/tls", maximum=version)
    simulator.mailbox(address)
    daemon.config([{"address": address, "port": line}], {"watch": "poll", "interval": "1h"})

    def poll_is_resumed(verb="poll"):
        before = simulator.state()["counts"]
        assert daemon.ctl(verb, address).returncode == 0
        simulator.wait("connections", before["connections"] + 1)
        daemon.wait_state(address, "sleeping")
        assert daemon.of(address)["failures"] == 0
        return simulator.counts("tls_resumed") > before["tls_resumed"]
    daemon.start()
    daemon.wait_state(address, "sleeping")
    for how in ({"kind": "close-raw"}, {"kind": "answer", "line": "* BYE signing off.\n{tag} OK LOGOUT completed.", "close": "raw"}):     # exchange-online 4.9, 5.11
        simulator.fault(address=address, command="LOGOUT", count=1, **how)
        assert poll_is_resumed() and simulator.counts("fault-" + how["kind"]) == 1 and poll_is_resumed()
    simulator.post("/line", port=line, cut_after=90)
    daemon.poll(address)
    daemon.wait_state(address, "backing-off")
    assert daemon.ctl("pause", address).returncode == 0         # else it tries by itself meanwhile
    daemon.wait_state(address, "paused")
    simulator.post("/line", port=line, mode="ok")
    assert not poll_is_resumed("resume")
    assert poll_is_resumed()


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
