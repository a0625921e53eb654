"""What things cost as they grow, against the light server: mailboxes, looks, re-logins, configuration, messages in one mailbox."""
import os
import shutil
import statistics
import subprocess
import threading
import time
import urllib.request

from ours import Ours, UnixConnection
from place import BUILD, QUICK, cpu_s, measure, memory_kib
from report import spread
from rows_mailboxes import base_kib, floor_logins, note_logins
from rows_messages import ROUNDS
from server import Light, free_port

SIZES = (10, 40) if QUICK else (10, 100, 1000, 5000, 10000)
LOOKED = (40,) if QUICK else (1000, 5000)
MESSAGES = (1, 10, 100, 400) if QUICK else (1, 10, 100, 1000, 10000, 100000)
SETTLED = 10000 if QUICK else 1000000
LOOK_S, TOKEN_S = (1, 8) if QUICK else (10, 40)


def with_light(row):
    def run(bench):
        light = Light(bench.simulator)
        try:
            row(bench, light)
        finally:
            light.stop()
    run.__name__, run.__doc__ = row.__name__, row.__doc__
    return run


def users(n):
    return ["scale%05d@light.test" % i for i in range(n)]


def watching(bench, light, n, defaults=None, top=None):
    bench.place.clean()
    daemon = Ours(os.path.join(bench.place.disk, "mailpolld"), bench.simulator, light, users(n), defaults, top).start()
    daemon.wait_totals(lambda t: t["watching"] == n, "all watching", 300, pause=0.2)
    return daemon


def over(daemon, seconds):
    """CPU in milliseconds per second."""
    before = cpu_s(daemon.pid)
    time.sleep(seconds)
    return 1000 * (cpu_s(daemon.pid) - before) / seconds


# --- the loop, seen from outside ---

class Pauses(threading.Thread):
    """The longest that a small question had to wait for its answer."""

    def __init__(self, daemon):
        super().__init__(daemon=True)
        self.connection, self.worst_ms, self.stopping = UnixConnection(daemon.socket, 60), 0, threading.Event()
        self.ask()
        self.worst_ms = 0
        self.start()

    def ask(self):
        began = time.monotonic()
        self.connection.request("GET", "/status?summary=1")
        self.connection.getresponse().read()
        self.worst_ms = max(self.worst_ms, 1000 * (time.monotonic() - began))

    def run(self):
        while not self.stopping.wait(0.001):
            self.ask()

    def stop(self):
        self.stopping.set()
        self.join()
        self.connection.close()
        return self.worst_ms


def reload(daemon, n, serial):
    """With one mailbox changed: seconds, CPU in ms, longest pause in ms."""
    changed = users(n)
    changed[n // 2] = {"address": changed[n // 2], "interval": "%dm" % (5 + serial % 2)}
    daemon.set(changed)
    time.sleep(0.2)
    pauses = Pauses(daemon)
    began, cpu = time.monotonic(), cpu_s(daemon.pid)
    daemon.call("POST", "/reload")
    wall = time.monotonic() - began
    time.sleep(0.1)
    return wall, 1000 * (cpu_s(daemon.pid) - cpu), pauses.stop()


def status(daemon):
    began, cpu = time.monotonic(), cpu_s(daemon.pid)
    daemon.call("GET", "/status")
    return 1000 * (time.monotonic() - began), 1000 * (cpu_s(daemon.pid) - cpu)


@with_light
def light(bench, server):
    """10 to 10,000 mailboxes in IDLE on the light server; status and reload with one changed"""
    base, _ = base_kib(bench, server)
    rows, curve, flat = [], [], {}
    for n in SIZES:
        daemon = watching(bench, server, n)
        start_ms, wall = 1000 * cpu_s(daemon.pid) / n, time.monotonic() - daemon.begun
        time.sleep(1)
        anon, rss = daemon.anon_kib(), memory_kib(daemon.pid, "VmRSS")
        idle_ms = over(daemon, 1 if QUICK else 5)
        asked = [status(daemon) for _ in range(ROUNDS)]
        reloads = [reload(daemon, n, i) for i in range(ROUNDS)]
        daemon.wait_totals(lambda t: t["watching"] == n, "all watching", 300, pause=0.2)
        daemon.cleanup()
        status_ms, reload_s, pause_ms = (statistics.median(v) for v in ([a[1] for a in asked], [r[0] for r in reloads], [r[2] for r in reloads]))
        flat[n] = ((anon - base) / n, start_ms, status_ms / n)
        rows.append(("%d" % n, wall, start_ms, anon / 1024, (anon - base) / n, rss / 1024, idle_ms, spread([a[1] for a in asked]),
                     spread([1000 * r[0] for r in reloads]), spread([r[1] for r in reloads]), spread([r[2] for r in reloads])))
        curve.append((n, anon - base, start_ms * n, status_ms, 1000 * reload_s, idle_ms))
    bench.report.table(("mailboxes", "start s", "start: CPU ms each", "RssAnon MiB", "KiB each", "VmRSS MiB", "idle: CPU ms/s", "status: CPU ms", "reload: ms", "reload: CPU ms",
                        "reload: longest pause ms"), rows)
    few, many = (SIZES[0], SIZES[-1]) if QUICK else (1000, 10000)
    bench.report.target("light", "KiB per mailbox, %d against %d" % (many, few), flat[many][0] / flat[few][0], "<=", 1.2)
    bench.report.target("light", "start: CPU per mailbox, %d against %d" % (many, few), flat[many][1] / flat[few][1], "<=", 1.2)
    bench.report.target("light", "status: CPU per mailbox, %d against %d" % (many, few), flat[many][2] / flat[few][2], "<=", 1.2)
    bench.report.target("light", "idle: CPU ms per second at %d" % many, curve[-1][5], "<=", 5, comparable=False)
    bench.report.target("light", "reload of %d: longest pause, ms" % many, pause_ms, "<=", 50, comparable=False)
    for i, (name, what) in enumerate((("memory", "KiB"), ("start", "CPU ms"), ("status", "CPU ms"), ("reload", "ms")), 1):
        picture(bench, "mailboxes-" + name, "%s of N mailboxes" % name, "mailboxes", what, [(c[0], c[i]) for c in curve])


@with_light
def looks(bench, server):
    """Looks and re-logins of mailboxes in IDLE, light server"""
    rows = []
    for n in LOOKED:
        daemon = watching(bench, server, n, {"interval": "%ds" % LOOK_S})
        time.sleep(LOOK_S)
        each = [over(daemon, LOOK_S) * LOOK_S / n for _ in range(ROUNDS)]
        daemon.cleanup()
        rows.append(("look, %d mailboxes" % n, spread(each)))
        bench.report.target("looks", "CPU ms per look at %d" % n, statistics.median(each), "<=", 0.15, comparable=False)
    n = LOOKED[0]
    bench.simulator.post("/token", life_s=TOKEN_S)
    try:
        daemon = watching(bench, server, n, {"interval": "10m"}, {"metrics_listen": "127.0.0.1:%d" % free_port()})
        each = []
        for _ in range(ROUNDS):
            sessions, cpu = opened(daemon), cpu_s(daemon.pid)
            time.sleep(TOKEN_S * 0.75)
            each.append(1000 * (cpu_s(daemon.pid) - cpu) / max(opened(daemon) - sessions, 1))
        assert opened(daemon) > n * (1 + ROUNDS / 2), "there were hardly any re-logins"
        daemon.cleanup()
    finally:
        bench.simulator.post("/token", life_s=3899)
    rows.append(("re-login, %d mailboxes" % n, spread(each)))
    bench.report.table(("", "CPU ms"), rows)
    logins = [floor_logins(server, bench.dovecot.token_file, "scale%05u@light.test", min(n, 500)) for _ in range(ROUNDS)]
    bench.report.against_login("looks", "re-login", statistics.median(each), note_logins(bench, logins, min(n, 500)), 1.2)


def opened(daemon):
    with urllib.request.urlopen("http://%s/metrics" % daemon.top["metrics_listen"], timeout=20) as answer:
        text = answer.read().decode()
    return float(next(line.split()[1] for line in text.split("\n") if line.startswith("mailpolld_sessions_opened_total ")))


def config(bench):
    """Configuration of 10,000 mailboxes: check"""
    rows, curve = [], []
    for n in SIZES:
        bench.place.clean()
        daemon = Ours(os.path.join(bench.place.disk, "mailpolld"), bench.simulator, bench.dovecot, users(n))
        samples = [measure([os.path.join(BUILD, "mailpolld"), "-c", daemon.file, "check"], n)[0] for _ in range(ROUNDS)]
        daemon.cleanup()
        rows.append(("%d" % n, spread([s.wall for s in samples]), spread([s.cpu for s in samples]), spread([s.rss_kib / 1024 for s in samples])))
        curve.append((n, 1000 * statistics.median([s.cpu for s in samples])))
    bench.report.table(("mailboxes", "check: s", "CPU s", "VmHWM MiB"), rows)
    bench.report.target("config", "check of %d, s" % SIZES[-1], statistics.median([s.wall for s in samples]), "<=", 0.3, comparable=False)
    picture(bench, "mailboxes-check", "check of N mailboxes", "mailboxes", "CPU ms", curve)


@with_light
def messages(bench, server):
    """1 to 100,000 messages of 4 KiB in one mailbox, light server; 1,000,000 already settled"""
    rows, curve = [], []
    for n in MESSAGES:
        bench.place.clean()
        sample = Ours(os.path.join(bench.place.disk, "mailpolld"), bench.simulator, server, ["n%d.x@light.test" % n]).delivers(n)
        rows.append(("%d" % n, sample.wall, n / sample.wall, sample.cpu, 1000 * sample.cpu / n, sample.rss_kib / 1024, sample.anon_kib / 1024))
        curve.append((n, 1000 * sample.cpu))
    bench.report.table(("messages", "wall s", "messages/s", "CPU s", "CPU ms each", "VmHWM MiB", "RssAnon MiB"), rows)
    few, many = curve[-3], curve[-1]
    bench.report.target("messages", "CPU of one more message, from %d on against up to there" % few[0],
                        (many[1] - few[1]) / (many[0] - few[0]) / ((few[1] - curve[0][1]) / (few[0] - curve[0][0])), "<=", 1.2)
    picture(bench, "messages", "N messages in one mailbox", "messages", "CPU ms", curve)
    starts, kib = [], []
    bench.place.clean()
    for i in range(ROUNDS + 1):          # the first settles them all
        directory = os.path.join(bench.place.disk, "mailpolld")
        if i == 0:
            daemon = Ours(directory, bench.simulator, server, ["n%d.x@light.test" % SETTLED], {"start": "new"})
        daemon.start()
        daemon.wait_totals(lambda t: t["watching"] == 1, "watching", 120)
        if i > 0:
            starts.append(time.monotonic() - daemon.begun)
            kib.append(daemon.anon_kib())
        assert daemon.stop() == 0
    shutil.rmtree(daemon.socket_dir)
    base, _ = base_kib(bench, server)
    bench.report.note("%d settled UIDs: start to watching %s s, RssAnon beyond a mailbox that has none %s KiB" % (SETTLED, spread(starts), spread([k - base for k in kib])))
    bench.report.target("messages", "start with %d settled UIDs, s" % SETTLED, statistics.median(starts), "<=", 1, comparable=False)
    bench.report.target("messages", "memory of %d settled UIDs, KiB" % SETTLED, statistics.median(kib) - base, "<=", 200, comparable=False)


def picture(bench, name, title, x, y, points):
    """Points, and the straight line through the first and the one before the last but one."""
    data, svg = bench.place.path(name + ".dat"), bench.place.path(name + ".svg")
    with open(data, "w") as f:
        f.writelines("%g %g\n" % p for p in points)
    (x0, y0), (x1, y1) = points[0], points[max(len(points) - 3, 1)]
    slope = (y1 - y0) / (x1 - x0)
    script = ("set terminal svg size 640,420; set output '%s'; set title '%s'; set xlabel '%s'; set ylabel '%s'; set logscale xy; set key left top; set grid;"
              "plot [%g:%g] %g + %g * (x - %g) title 'straight line' with lines, '%s' title 'measured' with linespoints pt 7"
              % (svg, title, x, y, points[0][0], points[-1][0], y0, slope, x0, data))
    if shutil.which("gnuplot"):
        subprocess.run(["gnuplot", "-e", script], check=False, stderr=subprocess.DEVNULL)
        bench.report.note("picture: %s" % os.path.relpath(svg))


ROWS = [light, looks, config, messages]
