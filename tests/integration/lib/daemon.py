"""mailpolld as a child process: its configuration, its notifications, its control socket, its end."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

BUILD = os.environ.get("BUILD_DIR", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "build"))
LAG_MOST_MS = 1000 if "/asan" in BUILD else 100         # of the loop, beside other tests; see Daemon.lag_ms()


class Lateness(threading.Thread):
    """How late this machine is itself: a pause of all of it is nobody's lag."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most_s = 0.0
        self.start()

    def run(self):
        while True:
            until = time.monotonic() + 0.05
            time.sleep(0.05)
            self.most_s = max(self.most_s, time.monotonic() - until)


lateness = Lateness()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Daemon:
    """config(...) then start(). Everything lies below directory."""

    def __init__(self, directory, simulator, program="mailpolld"):
        self.directory, self.simulator, self.program = str(directory), simulator, program
        os.makedirs(self.directory, exist_ok=True)
        self.file = os.path.join(self.directory, "mailpolld.yaml")
        self.state_dir = os.path.join(self.directory, "state")
        os.makedirs(self.state_dir, exist_ok=True)
        # a path to a socket has at most 107 characters
        self.socket_dir = tempfile.mkdtemp(prefix="mailpolld-test.", dir="/tmp")
        self.socket = os.path.join(self.socket_dir, "control")
        self.secret_file = os.path.join(self.directory, "secret")
        self.write_secret(simulator.secret if simulator else "x")
        self.process = None
        self.prefix = []                # of its command line
        self.notified = []
        self.lines = []
        self.changed = threading.Condition()

    def write_secret(self, secret):
        with open(self.secret_file, "w") as f:
            f.write(secret + "\n")
        os.chmod(self.secret_file, 0o600)

    def maildir(self, address, folder=None):
        return os.path.join(self.directory, "mail", address, *([folder] if folder else []))

    def config(self, mailboxes, defaults=None, top=None, admission=None, credentials=None):
        """mailboxes: addresses, or dicts. credentials: of those beside contoso, what they have otherwise. JSON is YAML."""
        sim = self.simulator
        data = {
            "state_dir": self.state_dir, "control_socket": self.socket, "log_level": "debug", "min_free": "1M", **(top or {}),
            "credentials": {"contoso": {"token_url": sim.token_url, "scope": "https://outlook.office365.com/.default", "client_id": sim.client_id,
                                        "client_secret_file": self.secret_file, "ca_file": sim.ca_file,
                                        "admission": {"sessions_per_second": "off", "starting_at_once": 50, **(admission or {})}}},
            "defaults": {"credential": "contoso", "host": "localhost", "port": sim.imap_port, "ca_file": sim.ca_file,
                         "deliver": {"maildir": os.path.join(self.directory, "mail", "%{address}")}, **(defaults or {})},
            "mailboxes": mailboxes,
        }
        for name, more in (credentials or {}).items():
            data["credentials"][name] = {**data["credentials"]["contoso"], **more}
        os.makedirs(os.path.join(self.directory, "mail"), exist_ok=True)
        with open(self.file, "w") as f:
            json.dump(data, f, indent=1)

    def in_namespace(self, source, target):
        """Runs it where target is source (a mount namespace of its own; needs root)."""
        script = '[ -d "$1" ] && mkdir -p "$2"; mount --bind "$1" "$2" && shift 2 && exec "$@"'
        self.prefix = ["unshare", "-m", "sh", "-c", script, "sh", str(source), target]

    # --- life ---

    def start(self, ready=True, env=None, stderr=None):
        lateness.most_s = 0.0
        self.lines = []
        self.notified = []
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = os.path.join(self.socket_dir, "notify")
        if os.path.exists(path):
            os.unlink(path)
        notify.bind(path)
        self.notify_socket = notify
        self.process = subprocess.Popen([*self.prefix, os.path.join(BUILD, self.program), "-c", self.file], stdin=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE if stderr is None else stderr,
                                        env={**os.environ, "NOTIFY_SOCKET": path, **(env or {})})
        self.listener = threading.Thread(target=self.read_notifications, args=(notify,), daemon=True)
        self.listener.start()
        if stderr is None:
            self.reader = threading.Thread(target=self.read_lines, args=(self.process.stderr,), daemon=True)
            self.reader.start()
        if ready:
            self.wait_notified("READY=1")
        return self

    def start_as_nobody(self, before=""):
        """Without a privilege, and its files where it may make them; before: a command of sh first, for the directory $MAIL. Needs root."""
        for path in (self.state_dir, self.directory + "/mail", self.secret_file, self.socket_dir):
            shutil.chown(path, "nobody")
        parent = self.directory
        while parent != "/":
            os.chmod(parent, os.stat(parent).st_mode | 0o11)
            parent = os.path.dirname(parent)
        program = shutil.copy(os.path.join(BUILD, self.program), self.directory)
        script = '%sshift; exec setpriv --reuid nobody --regid nogroup --clear-groups --bounding-set -all "%s" "$@"' % (before, program)
        self.prefix = ["env", "MAIL=%s/mail" % self.directory, "unshare", "-m", "sh", "-c", script, "sh"]
        self.start(ready=False)         # which it may not tell us
        self.wait_line("event=started")

    def read_notifications(self, notify):
        while (data := notify.recv(4096)) != b"the end":
            with self.changed:
                self.notified += [(time.monotonic(), line) for line in data.decode().split("\n")]
                self.changed.notify_all()

    def read_lines(self, stream):
        for line in stream:
            with self.changed:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def wait_notified(self, what, timeout=30, since=0.0):
        self.wait_changed(lambda: any(line.startswith(what) and at >= since for at, line in self.notified), timeout, what)

    def wait_line(self, pattern, timeout=30):
        """A line of the log that has come or comes."""
        self.wait_changed(lambda: any(re.search(pattern, line) for line in self.lines), timeout, pattern)
        return next(line for line in self.lines if re.search(pattern, line))

    def wait_changed(self, condition, timeout, what):
        until = time.monotonic() + timeout
        with self.changed:
            while not condition():
                left = until - time.monotonic()
                dead = self.process.poll() is not None
                assert left > 0 and not dead, "%s: no %s\n%s" % ("it ended" if dead else "timeout", what, "\n".join(self.lines[-60:]))
                self.changed.wait(min(left, 0.5))

    def has_line(self, pattern):
        return any(re.search(pattern, line) for line in self.lines)

    def kill9(self):
        self.process.kill()
        self.finish()

    def stop(self, timeout=15):
        self.process.send_signal(signal.SIGTERM)
        return self.finish(timeout)

    def finish(self, timeout=15):
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError("it does not end: %s\n%s" % (self.threads(), "\n".join(self.lines[-40:])))
        if self.process.stderr:
            self.reader.join(5)
            self.process.stderr.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:      # what it sent has been read before this
            last.sendto(b"the end", self.notify_socket.getsockname())
        self.listener.join(5)
        self.notify_socket.close()
        return code

    def threads(self):
        """What each thread is called and waits for."""
        told, base = [], "/proc/%d/task" % self.process.pid
        for task in os.listdir(base):
            parts = []
            for name in ("comm", "wchan", "syscall"):
                with open(os.path.join(base, task, name)) as f:
                    parts.append(f.read().strip())
            told.append(" ".join(parts))
        return "; ".join(told)

    def cleanup(self):
        if self.process and self.process.poll() is None:
            try:
                # In fast time 9 s are soon over; what is given up then, LeakSanitizer sees.
                given_up = self.program == "mailpolld-scaled" and "/asan" in BUILD
                code = self.stop()
                assert code == 0 or (given_up and self.has_line("did not stop in time")), "\n".join(self.lines[-60:])
            finally:
                if self.process.poll() is None:
                    self.process.kill()
                    self.process.wait()
        shutil.rmtree(self.socket_dir, ignore_errors=True)      # a test may have done it

    # --- control ---

    def tries(self, again_is_the_same):
        """In the scaled build a client has as much less time to say what it wants: a busy machine may need another try."""
        return 10 if self.program == "mailpolld-scaled" and again_is_the_same else 1

    def request(self, method, path, timeout=20):
        for left in range(self.tries(method == "GET" or path.rpartition("/")[2] in ("poll", "pause", "resume", "reload")) - 1, -1, -1):
            try:
                return self.request_once(method, path, timeout)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                if left == 0 or self.process.poll() is not None:
                    raise

    def request_once(self, method, path, timeout):
        connection = UnixConnection(self.socket, timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def status(self, query=""):
        code, body = self.request("GET", "/status" + query)
        assert code == 200
        return body

    @staticmethod
    def only(address):
        """The query for a status of this mailbox alone."""
        return "?match=" + urllib.parse.quote(address)

    def of(self, address):
        return next(m for m in self.status(self.only(address))["mailboxes"] if m["address"] == address)

    def poll(self, address):
        assert self.request("POST", "/mailboxes/%s/poll" % address)[0] == 200

    def ctl(self, *args):
        for left in range(self.tries(args[:1] in [(verb,) for verb in ("status", "poll", "pause", "resume", "resync", "reload")]) - 1, -1, -1):
            done = subprocess.run([os.path.join(BUILD, "mailpollctl"), "-s", self.socket, *args], capture_output=True, text=True, timeout=30)
            if done.returncode != 69 or left == 0 or self.process.poll() is not None:
                return done

    def wait(self, condition, timeout=60, what="condition", query=""):
        """Until condition(status) is true; the daemon says so itself."""
        until = time.monotonic() + timeout
        while True:
            told = self.told()
            status = self.status(query)
            if condition(status):
                return status
            assert time.monotonic() < until, "%s: not within %d s: %s\n%s" % (what, timeout, json.dumps(status)[:6000], "\n".join(self.lines[-40:]))
            assert self.process.poll() is None, "it ended\n" + "\n".join(self.lines[-60:])
            self.wait_told(told)

    def told(self):
        return len(self.lines) + len(self.notified)

    def wait_told(self, before):
        """Before it is asked again: until it has told more than this. Most of what changes has a line, not all."""
        threading.Event().wait(0.02)            # what comes by the dozen is one change
        with self.changed:
            self.changed.wait_for(lambda: self.told() > before, 0.18)

    def wait_state(self, address, *states, timeout=60):
        return self.wait(lambda s: any(m["address"] == address and m["state"] in states for m in s["mailboxes"]), timeout, "%s %s" % (address, states),
                         self.only(address))

    def wait_delivered(self, address, n, timeout=120):
        self.wait(lambda s: sum(f["delivered"] for m in s["mailboxes"] if m["address"] == address for f in m["folders"]) >= n, timeout,
                  "%d delivered to %s" % (n, address), self.only(address))

    def wait_total(self, n, timeout=240):
        self.wait(lambda s: sum(f["delivered"] for m in s["mailboxes"] for f in m["folders"]) >= n, timeout, "%d delivered" % n)

    def lag_ms(self):
        """The loop's greatest lag since it was last asked, and how much it may be."""
        return self.status("?summary=1")["loop"]["lag_max_ms"], LAG_MOST_MS + 1000 * lateness.most_s

    # --- memory ---

    def memory_kib(self, name):
        with open("/proc/%d/status" % self.process.pid) as f:
            return int(next(line for line in f if line.startswith(name + ":")).split()[1])
