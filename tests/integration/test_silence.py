"""Nobody reads the log, the journal is stopped, names are not answered: the loop goes on (its lag stays under 100 ms)."""
import os
import socket

ADDRESS = "support@contoso.example"


def works(simulator, daemon):
    daemon.status()				# the greatest lag is counted anew after each answer
    for i in range(5):
        simulator.add(ADDRESS, [{"seed": i, "size": 3000}])
        daemon.wait_delivered(ADDRESS, i + 1)
    lag_ms, most_ms = daemon.lag_ms()
    assert lag_ms < most_ms


def test_standard_error_is_not_read(simulator, daemon):
    simulator.mailbox(ADDRESS)
    daemon.config([ADDRESS] + ["nobody%d@contoso.example" % i for i in range(50)])
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 4096)		# full before it begins
    except BlockingIOError:
        os.set_blocking(write, True)
    daemon.start(stderr=write)
    os.close(write)
    works(simulator, daemon)
    assert daemon.stop(10) == 0
    os.close(read)


def test_journal_is_stopped(simulator, daemon, tmp_path):
    """The journal's socket in a mount namespace of its own, with nobody who reads it."""
    directory = tmp_path / "journal"
    directory.mkdir()
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    journal.bind(str(directory / "socket"))
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    simulator.mailbox(ADDRESS)
    daemon.config([ADDRESS])
    st = os.fstat(stream.fileno())
    daemon.in_namespace(directory, "/run/systemd/journal")
    daemon.start(stderr=stream.fileno(), env={"JOURNAL_STREAM": "%d:%d" % (st.st_dev, st.st_ino)})
    works(simulator, daemon)
    assert len(journal.recv(65536)) > 0			# it did go there
    assert daemon.stop(10) == 0


def test_names_are_not_answered(simulator, daemon):
    """A mailbox whose host is never resolved: it fails alone; the resolver waits elsewhere."""
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.153", 53))			# a name server that says nothing
    resolv = os.path.join(daemon.directory, "resolv.conf")
    with open(resolv, "w") as f:
        f.write("nameserver 127.0.0.153\noptions timeout:5 attempts:2\n")
    simulator.mailbox(ADDRESS)
    daemon.config([ADDRESS, {"address": "lost@contoso.example", "host": "imap.invalid-name.example"}])
    daemon.in_namespace(resolv, "/etc/resolv.conf")
    daemon.start()
    assert silent.recv(512)				# it was asked
    works(simulator, daemon)
    assert daemon.of("lost@contoso.example")["state"] in ("connecting", "backing-off")
    daemon.wait_state("lost@contoso.example", "backing-off", timeout=40)
    silent.close()


