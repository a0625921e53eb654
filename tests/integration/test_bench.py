"""The benchmarks' harness runs; what it measures is not asserted."""
import os
import subprocess

import pytest

from lib.daemon import BUILD

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


@pytest.mark.skipif(os.path.basename(BUILD) != "build", reason="once is enough")
def test_quick():
    done = subprocess.run(["make", "-s", "-C", ROOT, "BUILD=" + BUILD, "bench"], capture_output=True, text=True, timeout=200,
                          env={**os.environ, "BENCH": "many light messages", "BENCH_QUICK": "1", "BENCH_ROUNDS": "1"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for row in ("many: rate against", "light: KiB per mailbox", "messages: start with"):
        assert row in done.stdout
