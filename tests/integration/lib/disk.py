"""A disk that is small, and full."""
import contextlib
import os
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(daemon, directory, size):
    """A file system of that size, gone again with the daemon."""
    mount = str(directory / "small")
    os.makedirs(mount)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + size, "tmpfs", mount], capture_output=True).returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield mount
        assert daemon.stop() == 0
    finally:
        if daemon.process and daemon.process.poll() is None:
            daemon.kill9()
        subprocess.run(["umount", mount], check=True)


def fill(path):
    """With one file, until nothing more goes in."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as f:
        while f.write(b"x" * 4096):
            pass
