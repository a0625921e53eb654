"""The unit file: systemd's own checks, and the unit under a real systemd."""
import os
import re
import shutil
import subprocess

import pytest

from lib.box import why_not
from lib.daemon import BUILD

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
UNIT = os.path.join(ROOT, "systemd", "mailpolld.service")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_exposure(record_property):
    """systemd-analyze's measure of what the unit may do."""
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=12", UNIT], capture_output=True, text=True)
    record_property("told", done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-300:]


def test_under_a_real_systemd(record_property):
    reason = why_not()
    if reason:
        pytest.skip(reason)
    files = [("%s/mailpolld" % BUILD, "/usr/local/sbin/mailpolld"), ("%s/mailpollctl" % BUILD, "/usr/local/bin/mailpollctl"),
             ("%s/mailpolld-scaled" % BUILD, "/usr/local/sbin/mailpolld-scaled"), ("%s/stall.so" % BUILD, "/opt/stall.so"),
             ("%s/daemon/log.c" % ROOT, "/opt/log.c"), ("%s/man/mailpolld.8" % ROOT, "/usr/local/share/man/man8/mailpolld.8"),
             ("%s/man/mailpolld.yaml.5" % ROOT, "/usr/local/share/man/man5/mailpolld.yaml.5"),
             ("%s/systemd/mailpolld.sysusers" % ROOT, "/usr/lib/sysusers.d/mailpolld.conf"),
             ("%s/systemd/mailpolld.tmpfiles" % ROOT, "/usr/lib/tmpfiles.d/mailpolld.conf"),
             (os.path.join(HERE, "lib"), "/opt/integration/lib"), (os.path.join(ROOT, "tests", "exchange_sim"), "/opt/exchange_sim")]
    done = subprocess.run([os.path.join(ROOT, "tests", "unit_box.sh"), UNIT, os.path.join(ROOT, "tests", "systemd_box.py"),
                           *("%s:%s" % pair for pair in files)], capture_output=True, text=True, timeout=900)
    print(done.stdout[-6000:], done.stderr[-2000:])
    assert done.returncode == 0 and re.search(r"(?m)^ok all$", done.stdout)
    for line in re.findall(r"(?m)^exposure .*$", done.stdout):
        record_property("told", line)
