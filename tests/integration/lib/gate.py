"""A disk that hangs: what a daemon flushes waits at the gate while that is shut (tests/stall.c)."""
import fcntl
import os
import time

from lib.daemon import BUILD


class Gate:
    def __init__(self, path, below, library=os.path.join(BUILD, "stall.so")):
        """below: the directory whose disk it is."""
        self.file = open(path, "w")
        self.path = str(path)
        os.chmod(path, 0o644)
        # a sanitizer wants to be the first library
        self.env = {"LD_PRELOAD": library, "STALL_GATE": str(path), "STALL_BELOW": str(below), "ASAN_OPTIONS": "verify_asan_link_order=0",
                    "STALL_TOLD": self.path + ".told"}

    def shut(self):
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def open(self):
        fcntl.flock(self.file, fcntl.LOCK_UN)

    def waiting(self):
        """Does anybody wait at it?"""
        inode = ":%d " % os.stat(self.file.fileno()).st_ino
        with open("/proc/locks", encoding="ascii") as f:
            return any("->" in line and inode in line for line in f)

    def flushed(self):
        """The paths of what was, in that order."""
        with open(self.path + ".told", encoding="utf-8") as f:
            return f.read().splitlines()

    def wait_stalled(self, timeout=30):
        until = time.monotonic() + timeout
        while not self.waiting():
            assert time.monotonic() < until, "nothing is flushed"
            time.sleep(0.005)           # the kernel tells nobody who waits for a lock
