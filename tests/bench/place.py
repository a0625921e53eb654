"""Where the benchmarks run: a journalled file system for what is delivered, limits, and what /proc tells of a process."""
import collections
import os
import resource
import shutil
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("BUILD_DIR", os.path.join(HERE, "..", "..", "build"))
TOOLS = os.path.join(BUILD, "bench", "tools")      # where make has put the C programs
QUICK = os.environ.get("BENCH_QUICK", "") not in ("", "0")
DISK_BYTES = (1 if QUICK else 8) << 30

started = []                                        # processes that a row that fails would leave behind

# wall and cpu in seconds, memory in KiB; n: how many of whatever was done
Sample = collections.namedtuple("Sample", "wall cpu rss_kib anon_kib n")
INOTIFY = {"fs/inotify/max_user_instances": 100000, "fs/inotify/max_user_watches": 1000000, "fs/inotify/max_queued_events": 100000}


def tool(name):
    return os.path.join(TOOLS, name)


class Place:
    def __init__(self, directory):
        self.directory = os.path.abspath(directory)
        shutil.rmtree(os.path.join(self.directory, "server"), ignore_errors=True)
        os.makedirs(self.directory, exist_ok=True)
        self.disk, self.mounted, self.kept = os.path.join(self.directory, "disk"), False, {}
        self.raise_limits()
        self.journalled = self.make_disk()

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def raise_limits(self):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        for name, value in INOTIFY.items():
            path = "/proc/sys/" + name
            try:
                with open(path) as f:
                    before = int(f.read())
                if before < value:
                    with open(path, "w") as f:
                        f.write("%d\n" % value)
                    self.kept[path] = before
            except OSError as e:
                print("%s stays as it is (%s): notices of new mail may be late" % (name, e.strerror), file=sys.stderr)

    def make_disk(self):
        """ext4 with a journal, in a file; without root what there is."""
        if os.path.ismount(self.disk):          # of a run that was killed
            subprocess.run(["umount", "--lazy", self.disk], check=True)
        shutil.rmtree(self.disk, ignore_errors=True)
        os.makedirs(self.disk)
        if os.geteuid() != 0:
            return False
        image = self.path("disk.img")
        subprocess.run(["fallocate", "-l", str(DISK_BYTES), image], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-N", "400000", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
        mount = subprocess.run(["mount", "-o", "loop,noatime", image, self.disk], capture_output=True, text=True)
        if mount.returncode != 0:
            print("no loop device: %s" % mount.stderr.strip(), file=sys.stderr)
            return False
        self.mounted = True
        device = subprocess.check_output(["findmnt", "-n", "-o", "SOURCE", self.disk], text=True).strip()
        # what is written once is not kept in memory twice
        subprocess.run(["losetup", "--direct-io=on", device], capture_output=True)
        return True

    def clean(self):
        """Empty, and nothing left to be written: each run begins with the same disk."""
        for name in os.listdir(self.disk):
            if name != "lost+found":
                shutil.rmtree(os.path.join(self.disk, name))
        subprocess.run(["sync", "-f", self.disk], check=True)

    def close(self):
        if self.mounted:
            subprocess.run(["umount", self.disk], check=False)
            os.unlink(self.path("disk.img"))
        for path, value in self.kept.items():
            with open(path, "w") as f:
                f.write("%d\n" % value)
        shutil.rmtree(self.path("server"), ignore_errors=True)


def measure(command, n, env=None, ok=(0,), limit_s=300):
    """Runs a command to its end."""
    result = os.path.join(TOOLS, "measured.%d" % os.getpid())
    done = subprocess.run([tool("measure"), result, str(limit_s), *command], capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode not in ok:
        raise RuntimeError("%s: exit status %d\n%s" % (" ".join(command), done.returncode, (done.stdout + done.stderr)[-2000:]))
    with open(result) as f:
        wall, user, system, rss, anon = f.read().split()
    os.unlink(result)
    return Sample(float(wall), float(user) + float(system), int(rss), int(anon), n), done.stdout


# --- a process that goes on ---

def cpu_s(pid):
    """User and system time of all its threads, to the nanosecond; a thread that has ended does not count."""
    total, base = 0, "/proc/%d/task" % pid
    for task in os.listdir(base):
        try:
            with open("%s/%s/schedstat" % (base, task)) as f:
                total += int(f.read().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total / 1e9


def memory_kib(pid, name):
    with open("/proc/%d/status" % pid) as f:
        return int(next(line for line in f if line.startswith(name + ":")).split()[1])


class AnonymousPeak(threading.Thread):
    """The most RssAnon seen until stop()."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.kib, self.over = pid, 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.is_set():
            try:
                self.kib = max(self.kib, memory_kib(self.pid, "RssAnon"))
            except (OSError, StopIteration):
                return
            self.over.wait(0.01)

    def stop(self):
        self.over.set()
        self.join()
        return self.kib


def end_started():
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
    started.clear()


def until(condition, what, timeout=300, pause=0.02):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("not within %d s: %s" % (timeout, what))
        time.sleep(pause)
