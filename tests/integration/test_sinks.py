"""The command's hygiene, quarantine, held mailboxes, Maildir permissions."""
import collections
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import threading
import time

import pytest

from lib.daemon import BUILD
from lib.disk import fill, small_disk
from lib.gate import Gate
from lib.maildir import Maildir, sha256_of

ADDRESS = "invoices@contoso.example"


def script(daemon, text):
    path = os.path.join(daemon.directory, "take")
    with open(path, "w") as f:
        f.write("#!/bin/sh\nout=%s/out\nmkdir -p $out\n%s\n" % (daemon.directory, text))
    os.chmod(path, 0o755)
    return path


def out(daemon):
    path = os.path.join(daemon.directory, "out")
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def test_command(simulator, daemon):
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 3000 + i, "internaldate": 1767924132} for i in range(20)])
    path = script(daemon, 'cat > "$out/$MAILPOLLD_UID"; env > "$out/env"; echo "$@" > "$out/args"; ls /proc/self/fd > "$out/fds"')
    daemon.config([{"address": ADDRESS, "id": "invoices", "deliver": {"command": [path, "%{folder}", "%{id}"], "timeout": "10s", "at_once": 2}}])
    daemon.start()
    daemon.wait_delivered(ADDRESS, 20)
    sums = simulator.sums(ADDRESS)
    assert {uid: sha256_of(os.path.join(daemon.directory, "out", uid)) for uid in sums} == sums
    with open(os.path.join(daemon.directory, "out", "env")) as f:
        env = dict(line.rstrip("\n").split("=", 1) for line in f)
    for name in ("PWD", "SHLVL", "_", "OLDPWD"):	# the shell's own
        env.pop(name, None)
    assert set(env) == {"PATH", "LANG", "MAILPOLLD_ADDRESS", "MAILPOLLD_ID", "MAILPOLLD_FOLDER", "MAILPOLLD_UID", "MAILPOLLD_UIDVALIDITY",
                        "MAILPOLLD_KEY", "MAILPOLLD_SIZE", "MAILPOLLD_INTERNALDATE"}
    assert env["MAILPOLLD_ADDRESS"] == ADDRESS and env["MAILPOLLD_ID"] == "invoices" and env["MAILPOLLD_INTERNALDATE"] == "2026-01-09T02:02:12Z"
    assert env["MAILPOLLD_KEY"] == "invoices%2FINBOX%2F14%2F" + env["MAILPOLLD_UID"]
    assert open(os.path.join(daemon.directory, "out", "args")).read().split() == ["INBOX", "invoices"]
    fds = open(os.path.join(daemon.directory, "out", "fds")).read().split()
    assert set(fds) <= {"0", "1", "2", "3"}			# 3 is ls's own
    assert os.listdir(os.path.join(daemon.state_dir, "spool")) == []


def test_refused_message_goes_to_quarantine(simulator, daemon):
    simulator.mailbox(ADDRESS, ["INBOX", "Done"])
    simulator.add(ADDRESS, [{"seed": i, "size": 2000} for i in range(6)])
    path = script(daemon, '[ "$MAILPOLLD_UID" = 3 -o "$MAILPOLLD_UID" = 7 ] && { echo "no invoice in it" >&2; exit 65; }; cat > "$out/$MAILPOLLD_UID"')
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path]}, "after": {"move": "Done"}}])
    daemon.start()
    daemon.wait_delivered(ADDRESS, 5)
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["quarantined"] == 1 and s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    key = "invoices@contoso.example%2FINBOX%2F14%2F3"
    directory = os.path.join(daemon.state_dir, "quarantine")
    assert sha256_of(os.path.join(directory, key + ".eml")) == simulator.sums(ADDRESS)["3"]
    with open(os.path.join(directory, key + ".json")) as f:
        why = json.load(f)
    assert why["sink"] == "command" and "65" in json.dumps(why) and "no invoice in it" in why["reason"]
    assert list(simulator.folder(ADDRESS)["messages"]) == ["3"]		# `after` is not done for it
    assert daemon.wait_line("event=quarantined")
    simulator.add(ADDRESS, [{"seed": 9, "size": 2000}])
    status = daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["quarantined"] == 2)
    assert status["health"] == "ok" and status["sinks"][0]["refused"] == 2      # it is the messages' fault, not the sink's


def test_sink_that_failed_and_refuses_then(simulator, daemon):
    """Who says no works: it does not count as failing any more"""
    other = "other@contoso.example"
    for address in (ADDRESS, other):
        simulator.mailbox(address)
        simulator.add(address, [{"seed": 1, "size": 1500}])
    path = script(daemon, '[ -e "$out/$MAILPOLLD_ADDRESS" ] || exit 75; exit 65')
    os.mkdir(os.path.join(daemon.directory, "out"))

    def refuse(address):
        with open(os.path.join(daemon.directory, "out", address), "w"):
            pass

    def is_well(status):
        return status["health"] == "ok" and status["reasons"] == [] and status["sinks"][0]["error"] is None

    def wait_failing(address):
        status = daemon.wait(lambda s: s["sinks"][0]["error"] is not None and any(m["address"] == address and m["state"] == "held" for m in s["mailboxes"]))
        assert any(r["what"] == "sink" for r in status["reasons"])
    daemon.config([ADDRESS], {"deliver": {"command": [path]}})
    daemon.start()
    wait_failing(ADDRESS)
    refuse(ADDRESS)
    daemon.poll(ADDRESS)
    assert is_well(daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["quarantined"] == 1))
    key = daemon.ctl("quarantine", "list").stdout.split()[0]
    daemon.config([ADDRESS, other], {"deliver": {"command": [path]}})
    assert daemon.ctl("reload").returncode == 0
    wait_failing(other)
    daemon.config([ADDRESS], {"deliver": {"command": [path]}})
    assert daemon.ctl("reload").returncode == 0
    daemon.wait(lambda s: s["sinks"][0]["running"] == 0 and simulator.state(other)["sessions"] == 0)
    assert daemon.ctl("quarantine", "retry", key).returncode == 1       # on an operator's word
    assert is_well(daemon.status())


def test_after_a_reload(simulator, daemon):
    """Nothing of the old configuration is needed any more: neither to quarantine nor for a command that is new"""
    for address in (ADDRESS, "new@contoso.example"):
        simulator.mailbox(address)
        simulator.add(address, [{"seed": 1, "size": 1500}])
    refusing = {"address": ADDRESS, "deliver": {"command": [script(daemon, '[ -e "$out/go" ] || exit 75; exit 65')]}}
    daemon.config([refusing])
    daemon.start()
    daemon.wait_state(ADDRESS, "held")
    os.makedirs(daemon.directory + "/out", exist_ok=True)
    with open(daemon.directory + "/out/go", "w"):
        pass
    daemon.config([refusing, {"address": "new@contoso.example", "deliver": {"command": ["/bin/cat"]}}])
    assert daemon.ctl("reload").returncode == 0
    daemon.wait_delivered("new@contoso.example", 1)
    daemon.poll(ADDRESS)
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["quarantined"] == 1)
    assert len(os.listdir(daemon.state_dir + "/quarantine")) == 2


def test_five_refusals_in_a_row_are_the_sinks_fault(simulator, daemon):
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 2000} for i in range(12)])
    path = script(daemon, '[ -e "$out/mended" ] || exit 65; cat > "$out/$MAILPOLLD_UID"')
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path]}}])
    daemon.start()
    status = daemon.wait(lambda s: s["mailboxes"][0]["state"] == "held" and s["sinks"][0]["failing"])
    assert status["mailboxes"][0]["folders"][0]["quarantined"] <= 5 and any(r["what"] == "sink" for r in status["reasons"])
    open(os.path.join(daemon.directory, "out", "mended"), "w").close()
    daemon.poll(ADDRESS)
    status = daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["delivered"] + s["mailboxes"][0]["folders"][0]["quarantined"] == 12)
    assert status["mailboxes"][0]["folders"][0]["quarantined"] <= 5


@pytest.mark.parametrize("how", ["exit 1", "exit 75", "kill -SEGV $$", "exec sleep 600"])
def test_temporary_failures_hold_the_mailbox(simulator, daemon, how):
    """The mail stays on the server; other mailboxes go on; the same key comes again."""
    other = "support@contoso.example"
    for address in (ADDRESS, other):
        simulator.mailbox(address)
        simulator.add(address, [{"seed": i, "size": 2000} for i in range(3)])
    path = script(daemon, 'echo "$MAILPOLLD_KEY" >> "$out/keys"; [ -e "$out/mended" ] && { cat > "$out/$MAILPOLLD_UID"; exit 0; }; %s' % how)
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path], "timeout": "1s" if "sleep" in how else "1m"}}, other])
    daemon.start()
    status = daemon.wait(lambda s: any(m["state"] == "held" and m["address"] == ADDRESS for m in s["mailboxes"]))
    assert next(m for m in status["mailboxes"] if m["address"] == ADDRESS)["error"]
    daemon.wait_delivered(other, 3)
    daemon.poll(ADDRESS)                    # in vain, and not told once more
    daemon.wait(lambda s: sum(sink["temporary"] for sink in s["sinks"]) >= 2 and s["totals"]["held"] == 1)
    open(os.path.join(daemon.directory, "out", "mended"), "w").close()
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 3)
    held = [line for line in daemon.lines if "event=held" in line]
    assert len(held) == 1 and "mailbox=%s" % ADDRESS in held[0] and "sink=command" in held[0] and "failure=command" in held[0], held
    daemon.wait_line("event=mailbox-recovered mailbox=%s .*sink=command .*after [0-9]+ failures" % ADDRESS)
    with open(os.path.join(daemon.directory, "out", "keys")) as f:
        keys = collections.Counter(f.read().split())
    assert len(keys) == 3 and keys["invoices%40contoso.example".replace("%40", "@") + "%2FINBOX%2F14%2F1"] >= 2
    assert [n for n in out(daemon) if n.isdigit()] == ["1", "2", "3"]


def test_command_that_reads_nothing(simulator, daemon):
    """EPIPE is no failure: the exit status counts."""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"big": 3 * 1024 * 1024}])
    daemon.config([{"address": ADDRESS, "deliver": {"command": ["/bin/true"]}}])
    daemon.start()
    daemon.wait_delivered(ADDRESS, 1)


def test_started_by_who_ignores_children(simulator, daemon):
    """Their exit status is still the daemon's to know"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(2)])
    daemon.config([{"address": ADDRESS, "deliver": {"command": [script(daemon, 'cat > "$out/$MAILPOLLD_UID"')]}}])
    daemon.prefix = ["env", "--ignore-signal=CHLD"]
    daemon.start()
    daemon.wait_delivered(ADDRESS, 2, timeout=30)
    assert out(daemon) == ["1", "2"] and not daemon.has_line("event=held")


def test_what_a_command_says(simulator, daemon):
    """Its output can be opened by name, as scripts do; the first of it is in the error; a flood of it hinders nobody; a child that it
    leaves behind holds nobody up"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    path = script(daemon, '[ -e "$out/mended" ] && { sleep 600 & echo $! > "$out/left"; exit 0; }\n'
                          'echo "no invoice" > /dev/stderr && echo "in it" > /dev/stdout && head -c 3000000 /dev/zero >&2 && exit 75')
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path]}}])
    daemon.start()
    daemon.wait_line("event=held .*exit status 75: no invoice.?.?.?.?in it")
    open(os.path.join(daemon.directory, "out", "mended"), "w").close()
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 1)
    with open(os.path.join(daemon.directory, "out", "left"), encoding="ascii") as f:
        os.kill(int(f.read()), signal.SIGKILL)


def test_spooled_file_that_is_gone(simulator, daemon):
    """Somebody has cleaned up: the message is fetched again, without a restart"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    path = script(daemon, '[ -e "$out/mended" ] || exit 75; cat > "$out/$MAILPOLLD_UID"')
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path]}}])
    daemon.start()
    daemon.wait_state(ADDRESS, "held")
    spool = os.path.join(daemon.state_dir, "spool")
    for name in os.listdir(spool):
        os.unlink(os.path.join(spool, name))
    open(os.path.join(daemon.directory, "out", "mended"), "w").close()
    daemon.wait_line("event=held .*failure=disk .*cannot open .*/spool/.*No such file")
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 1)
    sums = simulator.sums(ADDRESS)
    assert {uid: sha256_of(os.path.join(daemon.directory, "out", uid)) for uid in sums} == sums
    assert simulator.counts("bodies") == 2 and daemon.status()["store"]["spool_bytes"] == 0 and os.listdir(spool) == []


@pytest.mark.parametrize("polite", [True, False])
def test_stop_ends_a_command_that_hangs(simulator, daemon, polite):
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 2000}])
    path = script(daemon, '%s echo $$ > "$out/pid"; sleep 600 & wait' % ("" if polite else "trap '' TERM;"))
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path], "timeout": "10m"}}])
    daemon.start()
    daemon.wait(lambda s: s["sinks"][0]["running"] == 1)
    daemon.wait_changed(lambda: out(daemon) == ["pid"], 10, "the child's pid")
    assert daemon.stop(10) == 0 and not daemon.has_line("did not stop in time")
    pid = int(open(os.path.join(daemon.directory, "out", "pid")).read())
    for _ in range(200):			# it and its children have been told to end
        if subprocess_is_gone(pid):
            return
        threading.Event().wait(0.02)
    raise AssertionError("the command still runs")


def test_stop_while_commands_run_and_wait(simulator, daemon):
    """One that ends well though it is told to end has delivered; one that waits for its turn is not begun"""
    addresses = [ADDRESS, "other@contoso.example"]
    for address in addresses:
        simulator.mailbox(address)
        simulator.add(address, [{"seed": 1, "size": 2000}])
    path = script(daemon, 'echo "$MAILPOLLD_ADDRESS" >> "$out/begun"; [ -e "$out/go" ] || { trap "exit 0" TERM; sleep 600 & wait; }')
    daemon.config(addresses, {"deliver": {"command": [path], "timeout": "10m", "at_once": 1}})

    def begun():
        with open(os.path.join(daemon.directory, "out", "begun"), encoding="utf-8") as f:
            return f.read().split()
    daemon.start()
    daemon.wait(lambda s: (s["sinks"][0]["running"], s["sinks"][0]["waiting"], out(daemon)) == (1, 1, ["begun"]))
    assert daemon.stop(10) == 0 and not daemon.has_line("did not stop in time")
    assert len(begun()) == 1
    open(os.path.join(daemon.directory, "out", "go"), "w").close()
    daemon.start()
    daemon.wait_total(2)
    assert sorted(begun()) == sorted(addresses)


def subprocess_is_gone(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_maildir_permissions_and_folders(simulator, daemon):
    simulator.mailbox(ADDRESS, ["INBOX", "A/B"])
    for folder in ("INBOX", "A/B"):
        simulator.add(ADDRESS, [{"seed": 1, "size": 2000, "internaldate": 1767924132}], folder)
    daemon.config([ADDRESS], {"folders": ["INBOX", "A/B"], "deliver": {"maildir": daemon.directory + "/mail/%{local}/%{folder}", "mode": "0640",
                                                                     "group": "mail"}})
    daemon.start()
    daemon.wait_delivered(ADDRESS, 2)
    maildir = Maildir(daemon.directory + "/mail/invoices/A.B")
    path = next(maildir.files("new"))
    assert os.path.basename(path).startswith("1767924132.") and os.path.basename(path).endswith(".mailpolld,S=2000")
    import grp
    st = os.stat(path)
    assert stat.S_IMODE(st.st_mode) == 0o640 and st.st_gid == grp.getgrnam("mail").gr_gid
    for sub in ("", "/new", "/cur", "/tmp"):
        st = os.stat(maildir.path + sub)
        assert stat.S_IMODE(st.st_mode) == 0o770 and st.st_gid == grp.getgrnam("mail").gr_gid


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_group_without_chown(simulator, daemon):
    """Who may not give files away gives the group its rights all the same"""
    simulator.mailbox(ADDRESS)
    uids = simulator.add(ADDRESS, [{"seed": i, "size": 2000} for i in range(2)])
    daemon.config([ADDRESS], {"deliver": {"maildir": daemon.directory + "/mail/%{local}", "mode": "0640", "group": "mail"}})
    daemon.start_as_nobody()
    daemon.wait_delivered(ADDRESS, 2)
    maildir = Maildir(daemon.directory + "/mail/invoices")
    path, other = maildir.files("new")
    assert pwd.getpwuid(os.stat(path).st_uid).pw_name == "nobody" and stat.S_IMODE(os.stat(path).st_mode) == 0o640

    def does(group, *command):
        return subprocess.run(["setpriv", "--reuid", "daemon", "--regid", group, "--clear-groups", *command], capture_output=True).returncode == 0
    moved = path.replace("/new/", "/cur/") + ":2,S"
    for stranger in ("daemon", "nogroup"):      # nogroup is the group that the files are of
        assert not does(stranger, "cat", path) and not does(stranger, "mv", path, moved) and not does(stranger, "ls", maildir.path)
    assert does("mail", "cat", path) and not does("mail", "sh", "-c", 'echo >> "$0"', path)
    assert does("mail", "mv", path, moved) and does("mail", "rm", moved) and list(maildir.files()) == [other]
    assert set(maildir.sums()) <= set(simulator.sums(ADDRESS).values()) and len(uids) == 2


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_group_that_cannot_be_given(simulator, daemon):
    """Neither chown nor access control lists: held, never readable for fewer or more than was asked for"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 2000}])
    daemon.config([ADDRESS], {"deliver": {"maildir": daemon.directory + "/mail/%{local}", "mode": "0640", "group": "mail"}})
    daemon.start_as_nobody('mount -t ramfs none "$MAIL" && chown nobody "$MAIL" && ')
    daemon.wait_state(ADDRESS, "held")
    mailbox = daemon.of(ADDRESS)
    assert "Operation not supported" in mailbox["error"] and "access control lists" in mailbox["hint"] and "Group= and SupplementaryGroups=mailpolld)" in mailbox["hint"]
    assert simulator.counts("bodies") == 0


def test_maildir_that_cannot_be_written(simulator, daemon):
    """A file stands where the Maildir should be: held, with the reason; mended without a restart."""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 2000}])
    daemon.config([ADDRESS])
    with open(daemon.maildir(ADDRESS), "w"):
        pass
    daemon.start()
    status = daemon.wait(lambda s: s["mailboxes"][0]["state"] == "held")
    assert daemon.maildir(ADDRESS) in status["mailboxes"][0]["error"] and status["mailboxes"][0]["hint"]
    os.unlink(daemon.maildir(ADDRESS))
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 1)


def test_too_little_room(simulator, daemon):
    """Below min_free, or above spool_limit, nothing is fetched; the session stays."""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 2000}])
    daemon.config([ADDRESS], top={"min_free": "1000T"})
    daemon.start()
    status = daemon.wait(lambda s: s["mailboxes"][0]["state"] == "held")
    assert "min_free" in status["mailboxes"][0]["hint"] and simulator.counts("bodies") == 0 and simulator.state(ADDRESS)["sessions"] == 1
    daemon.config([ADDRESS], top={"min_free": "1M"})
    assert daemon.ctl("reload").returncode == 0
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 1)
    assert simulator.state(ADDRESS)["logins"] == 1


def test_too_little_room_for_a_large_message(simulator, daemon, tmp_path):
    """It says itself how large it is: nothing of it stays, and it is not asked for again before there is room"""
    simulator.mailbox(ADDRESS)
    with small_disk(daemon, tmp_path, "50m") as mount:
        daemon.config([{"address": ADDRESS, "deliver": {"maildir": mount + "/m"}}], top={"min_free": "8M"})
        daemon.start()
        daemon.wait_state(ADDRESS, "watching")
        uid, = simulator.add(ADDRESS, [{"big": 43 << 20}])      # alone: no size is asked for
        status = daemon.wait(lambda s: s["mailboxes"][0]["state"] == "held")
        assert status["mailboxes"][0]["error"].startswith("no room for %d bytes" % (43 << 20)) and "min_free" in status["mailboxes"][0]["hint"]
        simulator.wait("logins", 2, ADDRESS)
        simulator.add(ADDRESS, [{"seed": 1, "size": 2000}])
        daemon.poll(ADDRESS)
        simulator.wait("command:UID FETCH", 2)      # for the sizes of both
        daemon.wait(lambda s: s["mailboxes"][0]["state"] == "held")
        assert simulator.folder(ADDRESS)["fetched"] == {str(uid): 1} and simulator.state(ADDRESS)["logins"] == 2
        assert Maildir(mount + "/m").tmp() == [] and not daemon.has_line("event=owed")
        subprocess.run(["mount", "-o", "remount,size=100m", mount], check=True)
        daemon.poll(ADDRESS)
        daemon.wait_delivered(ADDRESS, 2, timeout=20)
        assert Maildir(mount + "/m").sums() == collections.Counter(simulator.sums(ADDRESS).values())


def test_room_for_commands(simulator, daemon, tmp_path):
    """min_free of state_dir's file system, where nothing but what a command reads is written: looked at anew by who waits for it"""
    simulator.mailbox(ADDRESS)
    with small_disk(daemon, tmp_path, "4m") as mount:
        def fill_some():
            with open(mount + "/full", "wb") as f:
                f.write(bytes(3 << 20))

        def wait_held():
            status = daemon.wait(lambda s: s["mailboxes"][0]["state"] == "held")
            assert "min_free" in status["mailboxes"][0]["hint"] and status["mailboxes"][0]["error"].endswith(mount + "/spool: its file system is at min_free")

        daemon.config([{"address": ADDRESS, "deliver": {"command": ["/bin/cat"]}}], top={"state_dir": mount, "min_free": "2M"})
        fill_some()
        simulator.add(ADDRESS, [{"seed": 1, "size": 2000}])
        daemon.start()                      # it was so before
        wait_held()
        os.unlink(mount + "/full")
        daemon.poll(ADDRESS)
        daemon.wait_delivered(ADDRESS, 1, timeout=20)
        fill_some()
        simulator.add(ADDRESS, [{"seed": 2, "size": 2000}])
        daemon.wait_delivered(ADDRESS, 2)   # written where there was room once, and seen that there is none
        simulator.add(ADDRESS, [{"seed": 3, "size": 2000}])
        wait_held()
        os.unlink(mount + "/full")
        daemon.poll(ADDRESS)
        daemon.wait_delivered(ADDRESS, 3, timeout=20)


def test_room_for_the_state(simulator, make_daemon, tmp_path):
    """min_free of state_dir's file system holds for Maildirs on others, too: it is looked at without any delivery there"""
    simulator.mailbox(ADDRESS)
    daemon = make_daemon(program="mailpolld-scaled")
    with small_disk(daemon, tmp_path, "4m") as mount:
        daemon.config([ADDRESS], top={"state_dir": mount, "min_free": "2M"})
        daemon.start(env={"MAILPOLLD_CLOCK_RATE": "10"})
        daemon.wait_state(ADDRESS, "watching")
        with open(mount + "/full", "wb") as f:
            f.write(bytes(3 << 20))

        def is_held(status):
            if status["mailboxes"][0]["state"] == "watching":     # till that is seen, messages are delivered
                simulator.add(ADDRESS, [{"seed": len(simulator.sums(ADDRESS)) + 1, "size": 500}])
            return status["mailboxes"][0]["state"] == "held"

        status = daemon.wait(is_held, timeout=20)
        assert status["mailboxes"][0]["error"].endswith(": the file system of state_dir is at min_free") and "min_free" in status["mailboxes"][0]["hint"]
        assert len(Maildir(daemon.maildir(ADDRESS))) < len(simulator.sums(ADDRESS)) and simulator.state(ADDRESS)["sessions"] == 1
        os.unlink(mount + "/full")
        daemon.wait_delivered(ADDRESS, len(simulator.sums(ADDRESS)), timeout=20)
        assert daemon.of(ADDRESS)["error"] is None


def test_too_little_room_for_an_owed_message(simulator, make_daemon):
    """The same for one that is owed, when nothing else is to be fetched"""
    simulator.mailbox(ADDRESS)
    uids = simulator.add(ADDRESS, [{"seed": 1, "size": 2000}])
    simulator.fault("fetch-no", ADDRESS, uids=uids)
    daemon = make_daemon(program="mailpolld-scaled")
    daemon.config([ADDRESS])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "10"})
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["owed"] == 1)
    simulator.clear(ADDRESS)
    daemon.config([ADDRESS], top={"min_free": "1000T"})
    assert daemon.ctl("reload").returncode == 0
    status = daemon.wait(lambda s: s["mailboxes"][0]["state"] == "held")
    assert "min_free" in status["mailboxes"][0]["hint"] and simulator.counts("bodies") == 0
    daemon.config([ADDRESS], top={"min_free": "1M"})
    assert daemon.ctl("reload").returncode == 0
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 1)


def test_held_mailbox_keeps_nobodys_turn(simulator, daemon):
    """fetching_at_once: who waits for a turn and is held meanwhile gives it back"""
    other = "other@contoso.example"
    for address in (ADDRESS, other):
        simulator.mailbox(address)
    path = script(daemon, '[ "$MAILPOLLD_UID" -gt 1 ] || exit 0; while [ ! -e "$out/fail" ]; do sleep 0.05; done; exit 75')
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path]}}, other], admission={"fetching_at_once": 1})
    daemon.start()
    simulator.add(ADDRESS, [{"seed": 0, "size": 1500}])
    daemon.wait_delivered(ADDRESS, 1)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.wait(lambda s: any(sink["running"] == 1 for sink in s["sinks"]) and s["totals"]["watching"] == 2)
    simulator.fault("delay-fetch", other, seconds=6, count=1)
    simulator.add(other, [{"seed": 2, "size": 1500}])
    simulator.wait("fault-delay-fetch", 1)                  # it has the only turn
    simulator.add(ADDRESS, [{"seed": 3, "size": 1500}])
    daemon.wait(lambda s: any(m["address"] == ADDRESS and m["folders"][0]["backlog"] == 2 for m in s["mailboxes"]))
    open(os.path.join(daemon.directory, "out", "fail"), "w").close()
    daemon.wait_state(ADDRESS, "held")
    daemon.wait_delivered(other, 1)
    simulator.add(other, [{"seed": 4, "size": 1500}])
    daemon.wait_delivered(other, 2, timeout=20)


def test_polled_mailbox_that_was_held(simulator, make_daemon):
    """Between two polls, when its command goes again, it sleeps as any other"""
    daemon = make_daemon(program="mailpolld-scaled")
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    path = script(daemon, 'while [ ! -e "$out/go" ]; do sleep 0.05; done; [ -e "$out/mended" ] || exit 75')
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path], "timeout": "10h"}, "watch": "poll", "interval": "24h"}])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "30"})
    daemon.wait_state(ADDRESS, "sleeping")      # its message is still on its way
    open(os.path.join(daemon.directory, "out", "go"), "w").close()
    daemon.wait_state(ADDRESS, "held")
    open(os.path.join(daemon.directory, "out", "mended"), "w").close()
    daemon.wait_delivered(ADDRESS, 1)
    daemon.wait_state(ADDRESS, "sleeping", timeout=10)
    assert simulator.counts("logins") == 1


def test_held_mailbox_asks_for_nothing(simulator, make_daemon):
    """Also when it owes a message that is due: it comes after the hold"""
    simulator.mailbox(ADDRESS)
    uids = simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(2)])
    simulator.fault("fetch-no", ADDRESS, uids=uids[:1])
    daemon = make_daemon(program="mailpolld-scaled")
    path = script(daemon, '[ -e "$out/mended" ] || exit 75; cat > "$out/$MAILPOLLD_UID"')
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path]}}])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "1"})
    daemon.wait_line("event=owed")
    daemon.wait_state(ADDRESS, "held")
    daemon.stop()
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "60"})
    daemon.wait_state(ADDRESS, "held")
    before, began = simulator.state()["commands"]["UID SEARCH"], time.monotonic()
    daemon.wait(lambda s: time.monotonic() - began > 3)     # three minutes of its own
    assert simulator.state()["commands"]["UID SEARCH"] - before <= 20
    simulator.clear(ADDRESS)
    open(os.path.join(daemon.directory, "out", "mended"), "w").close()
    daemon.poll(ADDRESS)
    daemon.wait_delivered(ADDRESS, 2)


def test_spool_limit(simulator, daemon):
    """A sink that is slow does not make mailpolld hoard: no more is fetched than the limit, until it takes some"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 40000} for i in range(6)])
    path = script(daemon, 'cat > "$out/$MAILPOLLD_UID"; [ "$MAILPOLLD_UID" = 1 ] || while [ ! -e "$out/go" ]; do sleep 0.05; done')
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path]}}], top={"spool_limit": "100K"})
    daemon.start()
    daemon.wait(lambda s: len(out(daemon)) == 2)
    status = daemon.wait(lambda s: s["mailboxes"][0]["state"] == "held")
    assert "raise spool_limit" in status["mailboxes"][0]["hint"] and 1 < simulator.counts("bodies") <= 3
    open(os.path.join(daemon.directory, "out", "go"), "w").close()
    daemon.wait_delivered(ADDRESS, 6)
    assert len(out(daemon)) == 7 and simulator.counts("bodies") == 6


def test_held_mailboxes_leave_room(simulator, daemon):
    """Many whose command fails do not fill the spool for others: each keeps one message. Afterwards the rest is fetched, in order, once"""
    held, good = ["held%d@contoso.example" % i for i in range(4)], "good@contoso.example"
    for address in [*held, good]:
        simulator.mailbox(address)
    for address in held:
        simulator.add(address, [{"seed": i, "size": 30000} for i in range(12)])
    path = script(daemon, '[ -e "$out/mended" ] || exit 75; echo "$MAILPOLLD_UID" >> "$out/$MAILPOLLD_ADDRESS"')
    daemon.config([*({"address": address, "deliver": {"command": [path]}} for address in held), good], top={"spool_limit": "300K"})
    daemon.start()

    def all_held(status, failure=None):
        return all(m["state"] == "held" and failure in (None, m["failure"]) for m in status["mailboxes"] if m["address"] in held)
    daemon.wait(all_held)
    simulator.add(good, [{"seed": i, "size": 30000} for i in range(3)])
    daemon.wait_delivered(good, 3, timeout=30)
    daemon.wait(lambda s: all_held(s, "command") and s["store"]["spool_bytes"] == len(held) * 30000)
    bodies, temporary = simulator.counts("bodies"), sum(sink["temporary"] for sink in daemon.status()["sinks"])
    daemon.poll(held[0])                    # in vain: what was given back is not fetched for that
    daemon.wait(lambda s: sum(sink["temporary"] for sink in s["sinks"]) > temporary and all_held(s, "command"))
    assert simulator.counts("bodies") == bodies
    open(os.path.join(daemon.directory, "out", "mended"), "w").close()
    for address in held:
        daemon.poll(address)
    for address in held:
        daemon.wait_delivered(address, 12)
        with open(os.path.join(daemon.directory, "out", address), encoding="utf-8") as f:
            assert f.read().split() == [str(uid) for uid in range(1, 13)]
    status = daemon.status()
    assert status["store"]["spool_bytes"] == 0 and all(f["owed"] == 0 and f["backlog"] == 0 for m in status["mailboxes"] for f in m["folders"])


def test_mailboxes_of_a_sink_that_fails(simulator, daemon):
    """Who waits for its turn at one that has failed for another mailbox fetches one message, not all that it may"""
    other = "other@contoso.example"
    for address in (ADDRESS, other):
        simulator.mailbox(address)
    path = script(daemon, '[ "$MAILPOLLD_ADDRESS" = %s ] && exit 75; while [ ! -e "$out/go" ]; do sleep 0.05; done' % ADDRESS)
    os.mkdir(os.path.join(daemon.directory, "out"))
    daemon.config([ADDRESS, other], {"deliver": {"command": [path]}})
    daemon.start()
    daemon.wait(lambda s: s["totals"]["watching"] == 2)
    simulator.add(ADDRESS, [{"seed": 0, "size": 1500}])
    daemon.wait_state(ADDRESS, "held")
    simulator.add(other, [{"seed": i, "size": 1500} for i in range(5)])
    daemon.wait(lambda s: any(m["address"] == other and m["state"] == "watching" and m["folders"][0]["backlog"] == 5 for m in s["mailboxes"]))
    assert simulator.counts("bodies") == 2
    open(os.path.join(daemon.directory, "out", "go"), "w").close()
    daemon.wait_delivered(other, 5)


def test_owed_message_that_is_given_back(simulator, make_daemon):
    """It stays owed and is fetched as such, alone and in parts: the sink's failure is not the message's. (After IDLE a look would tell, too)"""
    simulator.post("/options", without=["IDLE"])
    simulator.mailbox(ADDRESS)
    simulator.fault("fetch-whole-empty", ADDRESS, uids=simulator.add(ADDRESS, [{"seed": 0, "size": 1500}]))
    daemon = make_daemon(program="mailpolld-scaled")
    path = script(daemon, '[ -e "$out/mended" ] && exit 0; while [ ! -e "$out/fail" ]; do sleep 0.05; done; exit 75')
    os.mkdir(os.path.join(daemon.directory, "out"))
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path], "timeout": "1h"}}])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20"})
    daemon.wait_line("event=owed")
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    daemon.poll(ADDRESS)
    daemon.wait(lambda s: s["store"]["spool_bytes"] == 3000)   # the one at the sink, and the owed one
    open(os.path.join(daemon.directory, "out", "fail"), "w").close()
    daemon.wait(lambda s: s["store"]["spool_bytes"] == 1500 and s["totals"]["held"] == 1)
    open(os.path.join(daemon.directory, "out", "mended"), "w").close()
    daemon.wait_delivered(ADDRESS, 2)
    assert sum("event=owed" in line for line in daemon.lines) == 1


def test_commands_at_once(simulator, daemon):
    """deliver.at_once: so many of one sink's commands, whatever mailbox they are for"""
    addresses = ["at%d@contoso.example" % i for i in range(4)]
    for address in addresses:
        simulator.mailbox(address)
        simulator.add(address, [{"seed": 1, "size": 1500}])
    path = script(daemon, ': > "$out/$MAILPOLLD_ADDRESS"; cat > /dev/null; while [ ! -e "$out/go" ]; do sleep 0.05; done')
    daemon.config(addresses, {"deliver": {"command": [path], "at_once": 2}})
    daemon.start()
    daemon.wait(lambda s: (s["sinks"][0]["running"], s["sinks"][0]["waiting"], len(out(daemon))) == (2, 2, 2))
    daemon.status()
    assert len(out(daemon)) == 2
    open(os.path.join(daemon.directory, "out", "go"), "w").close()
    daemon.wait_total(4)
    assert sorted(out(daemon)) == [*addresses, "go"]


def test_full_disk(simulator, daemon, tmp_path):
    """A small file system fills up: held, nothing lost; room is made: all arrive, once."""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 400000} for i in range(12)])
    with small_disk(daemon, tmp_path, "3m") as mount:
        daemon.config([{"address": ADDRESS, "deliver": {"maildir": mount + "/m"}}], top={"min_free": "0K"})
        daemon.start()
        daemon.wait(lambda s: s["mailboxes"][0]["state"] == "held")
        subprocess.run(["mount", "-o", "remount,size=20m", mount], check=True)
        daemon.poll(ADDRESS)
        daemon.wait_delivered(ADDRESS, 12)
        assert Maildir(mount + "/m").sums() == collections.Counter(simulator.sums(ADDRESS).values())
        assert Maildir(mount + "/m").tmp() == []


def test_full_state_dir(simulator, daemon, tmp_path):
    """What cannot be written down is not delivered; when there is room again, it goes on where it was"""
    simulator.mailbox(ADDRESS)
    with small_disk(daemon, tmp_path, "2m") as mount:
        daemon.config([ADDRESS], top={"state_dir": mount, "min_free": "0K"})
        daemon.start()
        simulator.wait("idling", 1)
        fill(mount + "/full")
        simulator.add(ADDRESS, [{"seed": i, "size": 2000} for i in range(3)])
        line = daemon.wait_line("event=store-failed failure=store hint=")
        assert "cannot write the state in %s" % mount in line and "Make room on the file system of state_dir" in line
        assert len(Maildir(daemon.maildir(ADDRESS))) == 0
        os.unlink(mount + "/full")
        daemon.wait_line("event=store-recovered")
        daemon.wait_delivered(ADDRESS, 3)
        assert Maildir(daemon.maildir(ADDRESS)).sums() == collections.Counter(simulator.sums(ADDRESS).values()) and simulator.counts("bodies") == 3


def test_quarantine_for_operators(simulator, daemon):
    """mailpollctl quarantine: list, show, retry (through the sink, `after` too), drop"""
    simulator.mailbox(ADDRESS)
    path = script(daemon, '[ "$MAILPOLLD_UID" -gt 2 ] && [ ! -e "$out/mended" ] && { echo "no invoice in it" >&2; exit 65; }; cat > "$out/$MAILPOLLD_UID"')
    simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(5)])
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path]}, "after": "delete"}])
    daemon.start()
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["quarantined"] == 3)
    listed = daemon.ctl("quarantine", "list")
    assert listed.returncode == 0 and "3 messages in quarantine" in listed.stdout and " ".join(listed.stdout.split()).count("no invoice in it") == 3
    keys = [line for line in listed.stdout.splitlines() if line.startswith(ADDRESS)]
    assert [key.rpartition("%2F")[2] for key in keys] == ["3", "4", "5"]       # the oldest first
    shown = json.loads(daemon.ctl("quarantine", "show", keys[0]).stdout)
    assert shown["key"] == keys[0] and shown["address"] == ADDRESS and shown["attempts"] == 1
    refused = daemon.ctl("quarantine", "retry", keys[0])
    assert refused.returncode == 1 and refused.stderr.startswith("mailpollctl: %s: The sink refused it again" % keys[0])
    assert daemon.of(ADDRESS)["folders"][0]["quarantined"] == 3 and daemon.status()["sinks"][0]["refused"] == 3
    again = json.loads(daemon.ctl("quarantine", "show", keys[0]).stdout)
    assert again["attempts"] == 2 and again["quarantined_at"] == shown["quarantined_at"] <= again["refused_at"]
    open(os.path.join(daemon.directory, "out", "mended"), "w").close()
    done = daemon.ctl("quarantine", "retry", keys[0], keys[1])
    assert done.returncode == 0 and done.stdout.count("is delivered") == 2
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["quarantined"] == 1 and s["mailboxes"][0]["folders"][0]["after_owed"] == 0)
    assert len(simulator.folder(ADDRESS)["messages"]) == 1            # `after` was done for those that were taken
    assert daemon.ctl("quarantine", "drop", "--older-than", "1h").stdout == "nothing in quarantine is that old\n"
    assert daemon.ctl("quarantine", "drop", keys[2]).stdout == "%s is dropped\n" % keys[2]
    assert os.listdir(os.path.join(daemon.state_dir, "quarantine")) == [] and os.listdir(os.path.join(daemon.state_dir, "spool")) == []
    alone = os.path.join(daemon.state_dir, "quarantine", keys[2] + ".json")         # as a crash may leave it
    with open(alone, "w") as f:
        json.dump(shown, f)
    assert daemon.ctl("quarantine", "drop", keys[2]).returncode == 0 and not os.path.exists(alone)
    assert daemon.of(ADDRESS)["folders"][0]["quarantined"] == 0
    for key, code, text in ((keys[2], 67, "no such message"), ("../../etc/passwd", 64, "not the KEY")):
        gone = daemon.ctl("quarantine", "retry", key)
        assert gone.returncode == code and text in gone.stderr
    assert daemon.ctl("quarantine", "list").stdout == "0 messages in quarantine\n"
    assert json.loads(daemon.ctl("quarantine", "list", "--json").stdout) == {"messages": []}
    assert daemon.ctl("quarantine", "burn").returncode == 64


def test_quarantine_drop_of_what_is_old(simulator, daemon):
    """--older-than, by the time of the first refusal: both files go, and what is younger stays"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(5)])
    daemon.config([{"address": ADDRESS, "deliver": {"command": [script(daemon, "exit 65")]}}])
    daemon.start()
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["quarantined"] == 5)
    messages = json.loads(daemon.ctl("quarantine", "list", "--json").stdout)["messages"]
    keys, directory = [m["key"] for m in messages], os.path.join(daemon.state_dir, "quarantine")
    for message, age_s in zip(messages, (49 * 3600, 3 * 3600, 100 * 60, 1200)):
        message["quarantined_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age_s))
        with open(os.path.join(directory, message["key"] + ".json"), "w") as f:
            json.dump(message, f)
    for n, (age, too_high) in enumerate((("2d", "3d"), ("2h", "4h"), ("90m", "110m"), ("900s", "1h"))):
        assert daemon.ctl("quarantine", "drop", "--older-than", too_high).stdout == "nothing in quarantine is that old\n"
        done = daemon.ctl("quarantine", "drop", "--older-than", age)
        assert (done.returncode, done.stdout) == (0, "%s is dropped\n" % keys[n]), age
        assert sorted(os.listdir(directory)) == sorted(key + end for key in keys[n + 1:] for end in (".eml", ".json"))
    assert daemon.of(ADDRESS)["folders"][0]["quarantined"] == 1
    for wrong in ("900", "2w", "h", "-1h", "1.5h"):
        refused = daemon.ctl("quarantine", "drop", "--older-than", wrong)
        assert refused.returncode == 64 and len(os.listdir(directory)) == 2, wrong


def test_retry_while_the_disk_hangs(simulator, daemon, tmp_path):
    """The loop waits for none of its steps"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    path = script(daemon, '[ -e "$out/mended" ] || exit 65')
    gate = Gate(tmp_path / "gate", daemon.state_dir)
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path]}}])
    daemon.start(env=gate.env)
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["quarantined"] == 1)
    open(os.path.join(daemon.directory, "out", "mended"), "w").close()
    key = daemon.ctl("quarantine", "list").stdout.split()[0]
    daemon.status()
    gate.shut()
    retry = subprocess.Popen([os.path.join(BUILD, "mailpollctl"), "-s", daemon.socket, "quarantine", "retry", key])
    try:
        gate.wait_stalled()
        lag_ms, most_ms = daemon.lag_ms()
        assert lag_ms < most_ms
    finally:
        gate.open()
        assert retry.wait(30) == 0


def test_retry_for_a_mailbox_that_goes(simulator, daemon):
    """Its sink has no other user when the answer comes (the sanitizers look on)"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"seed": 1, "size": 1500}])
    path = script(daemon, '[ -e "$out/again" ] || exit 65; : > "$out/begun"; while [ ! -e "$out/go" ]; do sleep 0.05; done; exit 75')
    box = {"address": ADDRESS, "deliver": {"command": [path]}}
    daemon.config([box, "other@contoso.example"])
    daemon.start()
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["quarantined"] == 1)
    key = json.loads(daemon.ctl("quarantine", "list", "--json").stdout)["messages"][0]["key"]
    open(os.path.join(daemon.directory, "out", "again"), "w").close()
    retry = subprocess.Popen([os.path.join(BUILD, "mailpollctl"), "-s", daemon.socket, "quarantine", "retry", key], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    daemon.wait(lambda s: "begun" in out(daemon))
    daemon.config(["other@contoso.example"])
    assert daemon.ctl("reload").returncode == 0
    daemon.wait(lambda s: simulator.state(ADDRESS)["sessions"] == 0)
    open(os.path.join(daemon.directory, "out", "go"), "w").close()
    retry.communicate(timeout=20)
    assert retry.returncode == 75 and daemon.status()["totals"]["mailboxes"] == 1


def test_retried_message_counts_as_delivered(simulator, daemon):
    """A line in the audit, and a hash: after a move of the mailbox (exchange-online 5.12) it does not come again"""
    simulator.mailbox(ADDRESS)
    path = script(daemon, '[ "$MAILPOLLD_UID" = 2 ] && [ ! -e "$out/mended" ] && exit 65; cat > "$out/$MAILPOLLD_UIDVALIDITY.$MAILPOLLD_UID"')
    simulator.add(ADDRESS, [{"seed": i, "size": 1500} for i in range(3)])
    daemon.config([{"address": ADDRESS, "deliver": {"command": [path]}}])
    daemon.start()
    daemon.wait(lambda s: s["mailboxes"][0]["folders"][0]["quarantined"] == 1 and s["mailboxes"][0]["folders"][0]["delivered"] == 2)
    key = json.loads(daemon.ctl("quarantine", "list", "--json").stdout)["messages"][0]["key"]
    open(os.path.join(daemon.directory, "out", "mended"), "w").close()
    assert daemon.ctl("quarantine", "retry", key).returncode == 0
    daemon.wait_line("event=delivered mailbox=%s .*uid=2 size=1500 key=%s " % (ADDRESS, re.escape(key)))
    status = daemon.status()
    assert status["totals"]["delivered"] == 3 and status["mailboxes"][0]["folders"][0]["delivered"] == 3
    simulator.fault("silent-idle", ADDRESS)
    simulator.post("/folder", address=ADDRESS, uidvalidity=77)
    simulator.post("/drop", address=ADDRESS)
    daemon.poll(ADDRESS)
    daemon.wait(lambda s: (s["mailboxes"][0]["folders"][0]["rebuilt"] or {}).get("known") == 3)
    assert not [name for name in os.listdir(os.path.join(daemon.directory, "out")) if name.startswith("77.")]
