#!/usr/bin/python3
"""./run demo: what mailpolld does, in 15 seconds, against a simulator of Exchange Online on this machine."""
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
from lib.simulator import Simulator  # noqa: E402

BUILD, HERE = os.path.join(ROOT, "build"), os.path.join(ROOT, "build", "demo")
GOOD, BROKEN = ["support@contoso.example", "invoices@contoso.example"], "dmarc-reports@contoso.example"
SUBJECTS = ["Printer on fire", "Re: Printer on fire", "Invoice 2026-0815", "Order 4711 has not arrived", "Out of office", "Report domain: contoso.example"]
CONFIG = """# what ./run demo runs with
state_dir: {here}/state
control_socket: {here}/control
audit: journal
min_free: 1M
credentials:
  contoso:
    token_url: {token_url}
    scope: https://outlook.office365.com/.default
    client_id: {client_id}
    client_secret_file: {here}/secret
    ca_file: {ca_file}
defaults:
  host: localhost
  port: {imap_port}
  ca_file: {ca_file}
  deliver: {{maildir: "{here}/mail/%{{address}}"}}
mailboxes:
  - support@contoso.example
  - invoices@contoso.example
  - dmarc-reports@contoso.example
"""


def say(text=""):
    print(text, flush=True)


def field(line, name):
    """Of a log line, key=value."""
    _, _, rest = line.partition(" %s=" % name)
    return rest[1:].split('"')[0] if rest.startswith('"') else rest.split(" ")[0]


def show(stream):
    """One line per delivery, and what the daemon says of failures."""
    for raw in stream:
        line = raw.decode(errors="replace").rstrip("\n")
        if " event=delivered " in line:
            say("  delivered  %-26s %6s bytes  key %s" % (field(line, "mailbox"), field(line, "size"), field(line, "key")))
        elif " level=error " in line or " level=warning " in line:
            say("  failed     %-26s %s" % (field(line, "mailbox"), field(line, "msg")))


def arrive(simulator, stop):
    n = 0
    while not stop.wait(1.0):
        address, subject = GOOD[n % len(GOOD)], SUBJECTS[n % len(SUBJECTS)]
        n += 1
        text = "From: someone@example.org\r\nTo: %s\r\nSubject: %s\r\nMessage-ID: <%d@demo.example>\r\n\r\nHello, this is message %d.\r\n" % (
            address, subject, n, n)
        say("  arrived    %-26s \"%s\"" % (address, subject))
        simulator.add(address, [{"text": text}])


def status(title):
    say()
    say(title)
    say("$ mailpollctl status")
    say(subprocess.run([os.path.join(BUILD, "mailpollctl"), "-s", os.path.join(HERE, "control"), "status"], capture_output=True, text=True).stdout.rstrip())
    say()


def main():
    seconds, started = int(os.environ.get("DEMO_SECONDS", "30")), time.monotonic()
    shutil.rmtree(HERE, ignore_errors=True)
    os.makedirs(os.path.join(HERE, "mail"))
    os.makedirs(os.path.join(HERE, "state"))
    os.makedirs(os.path.join(HERE, "sim"))
    os.chdir(HERE)
    simulator = Simulator(os.path.join(HERE, "sim"))
    with open(os.open("secret", os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
        f.write(simulator.secret + "\n")
    with open("mailpolld.yaml", "w") as f:
        f.write(CONFIG.format(here=HERE, token_url=simulator.token_url, client_id=simulator.client_id, ca_file=simulator.ca_file,
                              imap_port=simulator.imap_port))
    for address in GOOD + [BROKEN]:
        simulator.mailbox(address)
        simulator.add(address, [{"text": "From: old@example.org\r\nSubject: was there before\r\nMessage-ID: <before-%s>\r\n\r\nHello.\r\n" % address}])
    simulator.fault("no-permission", BROKEN)
    say("Three shared mailboxes in a simulated Exchange Online; new messages arrive every second.")
    say("mailpolld signs in as an application and takes them out, into Maildirs below build/demo/mail.")
    say("The administrator forgot to give it permission for %s." % BROKEN)
    say()
    daemon = subprocess.Popen([os.path.join(BUILD, "mailpolld"), "-c", os.path.join(HERE, "mailpolld.yaml")], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                              start_new_session=True)      # Ctrl-C is ours
    stop, reader = threading.Event(), threading.Thread(target=show, args=(daemon.stderr,), daemon=True)
    reader.start()
    arriving = threading.Thread(target=arrive, args=(simulator, stop), daemon=True)
    arriving.start()

    def end(*_):
        stop.set()
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    try:
        if not stop.wait(min(8, seconds)):
            status("How is it doing?")
        if daemon.poll() is None:
            stop.wait(max(0.0, seconds - (time.monotonic() - started)))
        stop.set()
        arriving.join()
        if daemon.poll() is None:
            status("At the end:")
    finally:
        daemon.terminate()
        code = daemon.wait(15)
        reader.join(5)
        simulator.stop()
    n = sum(len(files) for path, _, files in os.walk(os.path.join(HERE, "mail")) if path.endswith("/new"))
    say("%d messages lie in build/demo/mail; the configuration is build/demo/mailpolld.yaml." % n)
    return 0 if code == 0 and n > 0 else 1


sys.exit(main())
