#!/usr/bin/python3
"""make bench: mailpolld beside mbsync, fetchmail, getmail6 and the floor, on one server, in one run. README.md explains the rows.

BENCH="small poll" selects rows; BENCH_QUICK=1 only shows that everything runs; BENCH_STORE=1 keeps the ratios in ratios.json.
"""
import os
import subprocess
import sys
import time
import traceback

import place
import report
import rows_mailboxes
import rows_messages
import rows_scale
import server

ROWS = rows_messages.ROWS + rows_mailboxes.ROWS + rows_scale.ROWS


class Bench:
    def __init__(self):
        self.report = report.Report(judged=not place.QUICK)
        self.place = place.Place(os.path.join(place.BUILD, "bench"))
        os.makedirs(self.place.path("server", "sim"))
        self.simulator = server.Simulator(self.place.path("server", "sim"))
        self.dovecot = server.Dovecot(self.place, self.simulator)

    def close(self):
        self.dovecot.stop()
        self.simulator.stop()
        self.place.close()


def machine():
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "?")
    version = subprocess.run([os.path.join(place.BUILD, "mailpolld"), "--version"], capture_output=True, text=True).stdout.strip()
    return "%s; %d x %s; Linux %s" % (version, os.cpu_count(), cpu, os.uname().release)


def main():
    wanted = os.environ.get("BENCH", "").replace(",", " ").split()
    names = [row.__name__ for row in ROWS]
    for name in wanted:
        if name not in names:
            sys.exit("no row %s; there are: %s" % (name, " ".join(names)))
    failed, begun = [], time.monotonic()
    bench = Bench()
    try:
        print("%s; Maildirs on %s" % (machine(), "ext4 with a journal (loop device)" if bench.place.journalled else "WHAT THERE IS: not a journalled ext4, no root"))
        print("Median (minimum-maximum) of the runs, which take turns. CPU: user + system of the client.")
        for row in ROWS:
            if wanted and row.__name__ not in wanted:
                continue
            began = time.monotonic()
            bench.report.title("%s: %s" % (row.__name__, row.__doc__))
            try:
                row(bench)
            except Exception:           # the other rows are worth having all the same
                traceback.print_exc()
                failed.append(row.__name__)
            finally:
                place.end_started()
            print("(%.0f s)" % (time.monotonic() - began), flush=True)
        bench.report.summary()
        if os.environ.get("BENCH_STORE"):
            bench.report.store()
    finally:
        bench.close()
    print("\n%.0f s in all%s" % (time.monotonic() - begun, "; FAILED: " + " ".join(failed) if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
