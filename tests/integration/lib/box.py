"""The box of unit_box.sh, a small system under a real systemd: whether this machine can have one, and what tests inside it use."""
import os
import shutil
import subprocess
import time

UNIT = os.environ.get("UNIT", "")
PROBE = """
mount -t tmpfs x /mnt; cd /mnt; mkdir u w m c
mount -t overlay x -o lowerdir=/usr,upperdir=u,workdir=w m
[ ! -d /run/systemd/system ] || exit 0          # else nobody gives the box a cgroup
mount -t cgroup2 x c; c="c$(sed -n 's/^0:://p' /proc/self/cgroup)/probe.$$"; mkdir "$c"; rmdir "$c"
"""


def why_not():
    """Why there can be none here; "" when there can."""
    if os.getuid() != 0:
        return "needs root"
    for program in ("systemd-nspawn", "setpriv", "dbus-daemon"):
        if not shutil.which(program):
            return "%s is not installed" % program
    with open("/proc/filesystems") as f:
        known = f.read()
    if "overlay" not in known or "cgroup2" not in known:
        return "the kernel has no overlayfs or no cgroup v2"
    probe = subprocess.run(["unshare", "--mount", "sh", "-ec", PROBE], capture_output=True, text=True)
    return "" if probe.returncode == 0 else "this machine does not let us: " + probe.stderr.strip()


# --- inside ---

def run(*args, check=True, **more):
    done = subprocess.run(args, capture_output=True, text=True, errors="replace", **more)
    assert not check or done.returncode == 0, "%s: %s%s" % (" ".join(args), done.stdout, done.stderr)
    return done


def show(name):
    """A property of the unit."""
    return run("systemctl", "show", UNIT, "-p", name, "--value").stdout.strip()


def ok(what):
    print("ok", what, flush=True)


def wait(what, condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "%s: not within %d s\n%s\n%s" % (
            what, seconds, run("mailpollctl", "status", check=False).stdout, run("journalctl", "-u", UNIT, "-n", "20", check=False).stdout)
        time.sleep(0.05)                # neither files nor the service manager tell
    ok(what)
