#!/usr/bin/python3
"""Does the tree keep what its documents say? Prints each thing that is not so and ends with 1.

- daemon/README.md's table of modules: a module includes only what stands in a row below its own; every file belongs to a module
  and every module has a file; a _private.h is included by its own module alone.
- No source file grows past what one can read in one sitting.
- Every key the configuration knows is in conf/mailpolld.yaml and in mailpolld.yaml(5); every event of log.c is in mailpolld(8), every failure
  in mailpolld-errors(7); mailpolld(8) tells of the metrics there are, and of no others;
  mailpollctl(8) of each member of a status.
- The manual pages pass mandoc's lint.
- debian/changelog begins with the Makefile's version.

check_tree.py [ROOT]
"""
import os
import re
import subprocess
import sys

ROOT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
LINES_MAX = 900
faults = []


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return f.read()


def fault(text):
    faults.append(text)


def modules():
    """Module: its row."""
    table = re.search(r"<!-- modules -->(.*?)<!-- /modules -->", read("daemon", "README.md"), re.S).group(1)
    return {name: row for row, line in enumerate(table.split("\n")) for name in line.split()}


def module_of(file, rows):
    """The longest module name that the file's name begins with: mailbox_work.c is mailbox's."""
    stem = file.rsplit(".", 1)[0]
    fits = [m for m in rows if stem == m or stem.startswith(m + "_")]
    return max(fits, key=len) if fits else None


def check_includes():
    rows = modules()
    files = sorted(f for f in os.listdir(os.path.join(ROOT, "daemon")) if re.search(r"\.[ch]$", f))
    for module in rows:
        if not any(module_of(f, rows) == module for f in files):
            fault("daemon/README.md: module %s has no file" % module)
    for file in files:
        own = module_of(file, rows)
        if own is None:
            fault("daemon/%s: of no module in daemon/README.md" % file)
            continue
        for number, line in enumerate(read("daemon", file).split("\n"), 1):
            included = re.match(r'#include "([^"]+)"', line)
            if not included:
                continue
            other = module_of(included.group(1), rows)
            if other == own:
                continue
            if other is None or rows[other] <= rows[own]:
                fault("daemon/%s:%d: %s must not include %s" % (file, number, own, included.group(1)))
            elif included.group(1).endswith("_private.h"):
                fault("daemon/%s:%d: %s is private to %s" % (file, number, included.group(1), other))
        if read("daemon", file).count("\n") > LINES_MAX:
            fault("daemon/%s: longer than %d lines" % (file, LINES_MAX))


def check_manual():
    pages = sorted(p for p in os.listdir(os.path.join(ROOT, "man")) if re.search(r"\.[578]$", p))
    for page in pages:
        lint = subprocess.run(["mandoc", "-Tlint", "-Wwarning", os.path.join(ROOT, "man", page)], capture_output=True, text=True)
        if lint.returncode != 0 or lint.stdout:
            fault(lint.stdout.strip())
    keys, sample, text = set(), read("conf", "mailpolld.yaml"), plain("mailpolld.yaml.5")
    for file in ("config.c", "config_sink.c"):
        for array in re.findall(r"\bkeys\[\] = \{(.*?)\}|_keys\[\] = \{(.*?)\}", read("daemon", file), re.S):
            keys.update(re.findall(r'"([a-z_]+)"', "".join(array)))
    if len(keys) < 30:
        fault("daemon/config.c: its keys are not found")
    for key in sorted(keys):
        if not re.search(r"\b%s:" % key, sample):
            fault("conf/mailpolld.yaml: does not show %s" % key)
        if not re.search(r"\b%s\b" % key, text):
            fault("man/mailpolld.yaml.5: does not tell of %s" % key)
    text = plain("mailpolld.8")
    for name, ident in re.findall(r'\[EVENT_\w+\] = \{ "([a-z-]+)", "([0-9a-f]{32})" \}', read("daemon", "log.c")):
        if name not in text or ident not in text:
            fault("man/mailpolld.8: does not tell of event %s %s" % (name, ident))


def check_metrics():
    """Names and labels; of a histogram not le."""
    there, told = {}, {}
    for file in ("metrics_text.c", "metrics_mailboxes.c"):
        source = read("daemon", file)
        for name in re.findall(r'\b(?:single|histogram|metrics_family)\(to, "([a-z_]+)"', source):
            there.setdefault(name, "")
        there.update((name, label) for name, label in re.findall(r'\blabelled\(to, "([a-z_]+)", "([a-z_]+)"', source))
        there.update((name, "mailbox") for name in re.findall(r'\{ "([a-z_]+)", "(?:gauge|counter)"', source))
    there["token_requests_total"] = "credential,outcome"
    for name, labels in re.findall(r"\bmailpolld_([a-z_]+)(?:\{([a-z,]+)\})?", plain("mailpolld.8")):
        told[name] = labels
    if len(there) < 40:
        fault("daemon/metrics_text.c: its metrics are not found")
    for name in sorted(set(there) | set(told)):
        if there.get(name) != told.get(name):
            fault("man/mailpolld.8: metric %s{%s} is told as %s" % (name, there.get(name, "not there"), told.get(name, "nothing")))


def check_status():
    members = set(re.findall(r'\bput\(\w+, "([a-z_]+)"', read("daemon", "status_json.c").split("/* --- answers of the verbs --- */")[0]))
    text = plain("mailpollctl.8").partition("STATUS AS JSON")[2]
    if len(members) < 50:
        fault("daemon/status_json.c: the members of a status are not found")
    for member in sorted(members):
        if not re.search(r"\b%s\b" % member, text):
            fault("man/mailpollctl.8: does not tell of a status's %s" % member)


def check_failures():
    """Rows of the table are compared by errors_page; these are failures that have none."""
    text, n = plain("mailpolld-errors.7"), 0
    for file in sorted(os.listdir(os.path.join(ROOT, "daemon"))):
        for name in re.findall(r'failure_set\([^"]*?SCHEDULE_\w+, "([a-z-]+)"', read("daemon", file)):
            n += 1
            if not re.search(r"(?m)^ *%s( |$)" % name, text):
                fault("man/mailpolld-errors.7: does not tell of %s (daemon/%s)" % (name, file))
    if n < 8:
        fault("daemon: calls of failure_set() are not found")


def plain(page):
    """What a reader sees."""
    text = subprocess.run(["mandoc", "-Tutf8", "-Owidth=200", os.path.join(ROOT, "man", page)], capture_output=True, text=True, check=True).stdout
    return re.sub(".\b", "", text)


def check_version():
    version = re.search(r"^VERSION := (\S+)$", read("Makefile"), re.M).group(1)
    if not read("debian", "changelog").startswith("mailpolld (%s) " % version):
        fault("debian/changelog: does not begin with version %s of the Makefile" % version)


check_includes()
check_manual()
check_metrics()
check_status()
check_failures()
check_version()
for text in faults:
    print(text, file=sys.stderr)
sys.exit(1 if faults else 0)
