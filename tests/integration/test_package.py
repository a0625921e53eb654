"""The Debian package: what make deb makes, and its life on a bare system."""
import os
import re
import shutil
import subprocess

import pytest

from lib.box import why_not
from lib.daemon import BUILD

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BOX = "systemd, dbus, python3, openssl, logrotate, "        # besides what the package depends on


def run(*args, timeout=900, **more):
    done = subprocess.run(args, capture_output=True, text=True, errors="replace", timeout=timeout, **more)
    assert done.returncode == 0, "%s: %s%s" % (args[0], done.stdout[-4000:], done.stderr[-4000:])
    return done.stdout


def make_package():
    """Once, unless it is there and newer than the sources. A make above this test has variables that are not for this one."""
    out = run("make", "-C", ROOT, "--no-print-directory", "deb", env={k: v for k, v in os.environ.items() if not re.match("MAKE|MFLAGS", k)})
    return os.path.join(ROOT, out.split()[-1])


def higher_version(package, directory):
    """The same package, as the next release would be: its version and its conffiles are others."""
    run("dpkg-deb", "-R", package, directory)
    run("sed", "-i", "s/^Version: .*/&+new/", directory + "/DEBIAN/control")
    for file in ("mailpolld/mailpolld.yaml", "logrotate.d/mailpolld"):
        with open("%s/etc/%s" % (directory, file), "a", encoding="utf-8") as f:
            f.write("# new\n")
    run("dpkg-deb", "-b", "--root-owner-group", directory, directory + ".deb")
    return directory + ".deb"


def test_life_of_the_package(tmp_path):
    reason = why_not() or next(("%s is not installed" % p for p in ("dpkg-buildpackage", "dh", "lintian", "logrotate") if not shutil.which(p)), "")
    if not reason and os.path.realpath(BUILD) != os.path.join(ROOT, "build"):
        reason = "packages are not made of build %s" % BUILD
    if reason:
        pytest.skip(reason)
    package = make_package()
    files = [(package, "/opt/old.deb"), (higher_version(package, str(tmp_path / "new")), "/opt/new.deb"),
             (os.path.join(ROOT, "tests", "integration", "lib"), "/opt/integration/lib"), (os.path.join(ROOT, "tests", "exchange_sim"), "/opt/exchange_sim")]
    environment = {**os.environ, "BOX_PACKAGES": BOX + run("dpkg-deb", "-f", package, "Depends")}
    out = run(os.path.join(ROOT, "tests", "unit_box.sh"), "mailpolld.service", os.path.join(ROOT, "tests", "package_box.py"),
              *("%s:%s" % pair for pair in files), env=environment)
    print(out)
    assert re.search(r"(?m)^ok all$", out)
