import fcntl
import os
import shutil
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib.daemon import Daemon  # noqa: E402
from lib.simulator import Factory, Simulator  # noqa: E402
import certs  # noqa: E402  the simulator's


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Made once, for all workers: openssl(1) takes longer for them than the simulator to start."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    directory = base / "certificates"
    with open(base / "certificates.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)          # Dovecot reads them as another user
        certs.Certificates(str(directory))      # what is there stays
    return directory


# These take longest, from half a minute to two: they begin first, so that nobody waits for them at the end.
SLOW = ["test_under_a_real_systemd", "test_quick", "test_life_of_the_package", "test_fifty_mailboxes", "_messages_that_cannot_be_had", "test_exactly_once",
        "test_crash.py::test_after", "test_who_fails_does_not_stand_before_others", "test_what_lasts_is_told_hourly", "test_many_mailboxes"]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: next((i for i, name in enumerate(SLOW) if name in item.nodeid), len(SLOW)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A worker has one test and the next: what it has been given nobody else takes, however long it is busy."""
    from xdist.scheduler import LoadScheduling

    class FewAtATime(LoadScheduling):
        def _send_tests(self, node, num):
            if not self.node2pending[node] and len(self.pending) > 2:   # the second one from the end, or two slow ones would be one worker's
                self.pending.insert(1, self.pending.pop())
            super()._send_tests(node, min(num, 2 - len(self.node2pending[node])))
    return FewAtATime(config, log)


def pytest_terminal_summary(terminalreporter):
    """Figures that a test wants to be read: record_property("told", ...)."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "told":
                terminalreporter.write_line("%s: %s" % (report.nodeid, value))


@pytest.fixture(scope="session")
def simulators():
    factory = Factory()
    yield factory
    factory.stop()


@pytest.fixture
def simulator(tmp_path, certificates, simulators):
    shutil.copytree(certificates, tmp_path / "sim")
    sim = Simulator(tmp_path / "sim", simulators)
    yield sim
    sim.stop()


@pytest.fixture
def daemon(tmp_path, simulator):
    d = Daemon(tmp_path / "daemon", simulator)
    yield d
    d.cleanup()


@pytest.fixture
def make_daemon(tmp_path, simulator):
    """For tests that want another program, or several."""
    made = []

    def make(name="daemon", program="mailpolld"):
        made.append(Daemon(tmp_path / name, simulator, program))
        return made[-1]
    yield make
    for d in made:
        d.cleanup()
