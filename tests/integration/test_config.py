"""Bad configuration: every error with its position, all in one run; and which of several values of a key is in force."""
import grp
import json
import os
import re
import shutil
import stat
import subprocess

import pytest

from lib.daemon import BUILD
from lib.maildir import Maildir

GOOD = """state_dir: /tmp/nowhere
control_socket: /tmp/nowhere/control
credentials:
  contoso: {tenant: contoso.onmicrosoft.com, client_id: a, client_secret_file: secret}
defaults:
  deliver: {maildir: "/srv/mail/%{address}"}
mailboxes:
  - support@contoso.com
"""


def check(tmp_path, text, *args, **files):
    path = tmp_path / "mailpolld.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    secret = tmp_path / "secret"
    secret.write_text("s\n")
    secret.chmod(0o600)
    for name, content in files.items():
        (tmp_path / (name + ".yaml")).write_text(content)
    done = subprocess.run([os.path.join(BUILD, "mailpolld"), "-c", str(path), "check", *args], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr.replace(str(tmp_path) + "/", ""), done.stdout


def test_good(tmp_path):
    code, err, out = check(tmp_path, GOOD, "--strict")
    assert (code, err) == (0, ""), err
    assert "1 mailboxes, 1 credentials" in out
    assert "credential contoso: a restart reaches the last mailbox after about 0 s" in out


def test_sample_is_good(tmp_path):
    sample = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "conf", "mailpolld.yaml")
    done = subprocess.run([os.path.join(BUILD, "mailpolld"), "-c", sample, "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def more(lines):
    return GOOD + lines


BAD = [
    ("empty", "", "mailpolld.yaml:1:1: the file is empty"),
    ("comment", "# nothing\n", "mailpolld.yaml:1:1: the file is empty"),
    ("tab", GOOD.replace("  - support", "\t- support"), "mailpolld.yaml:8:1: a tab"),
    ("utf-8", GOOD.encode().replace(b"support", b"supp\xffrt"), "mailpolld.yaml:8:9: this is not UTF-8"),
    ("control", GOOD.encode().replace(b"support", b"supp\x01rt"), "mailpolld.yaml:8:9: control characters"),
    ("list", "- a\n- b\n", "mailpolld.yaml:1:1: must be a mapping"),
    ("no YAML", "a: [\n", "mailpolld.yaml:2:1: "),
    ("two documents", GOOD + "---\na: b\n", "mailpolld.yaml:9:1: a second document"),
    ("duplicate key", more("state_dir: /x\n"), "mailpolld.yaml:9:1: state_dir stands here a second time: the first is at line 1"),
    ("duplicate address", more("  - Support@Contoso.com\n"), "mailpolld.yaml:9:5: address Support@Contoso.com is already used at mailpolld.yaml:8:5"),
    ("duplicate id", more("  - {address: b@x.org, id: support@contoso.com}\n"), "mailpolld.yaml:9:28: id support@contoso.com is already used at"),
    ("unknown key", more("  - {address: b@x.org, folder: [INBOX]}\n"), "mailpolld.yaml:9:24: mailboxes[1]: there is no key folder; did you mean folders?"),
    ("unknown top key", more("log_levels: info\n"), "mailpolld.yaml:9:1: there is no key log_levels; did you mean log_level?"),
    ("wrong type", more("  - {address: b@x.org, folders: INBOX}\n"), "mailpolld.yaml:9:33: mailboxes[1].folders: must be a list, not a single value"),
    ("wrong type of a map", more("  - {address: b@x.org, deliver: x}\n"), "mailpolld.yaml:9:33: mailboxes[1].deliver: must be a mapping"),
    ("unknown credential", more("  - {address: b@x.org, credential: other}\n"), "mailpolld.yaml:9:36: mailboxes[1].credential: there is no credential other"),
    ("no unit", more("  - {address: b@x.org, interval: 45}\n"), "mailpolld.yaml:9:34: mailboxes[1].interval: 45 needs a unit (500ms 30s 5m 1h)"),
    ("wrong unit", more("  - {address: b@x.org, interval: 45x}\n"), "mailpolld.yaml:9:34: mailboxes[1].interval: 45x is not a duration"),
    ("negative duration", more("  - {address: b@x.org, interval: -5m}\n"), "mailpolld.yaml:9:34: mailboxes[1].interval: -5m is not a duration"),
    ("no time", more("  - {address: b@x.org, interval: 0s}\n"), "mailpolld.yaml:9:34: mailboxes[1].interval: must be more than nothing"),
    ("overflow", more("  - {address: b@x.org, interval: 99999999999999999999h}\n"), "mailpolld.yaml:9:34: mailboxes[1].interval: 99999999999999999999h is too large"),
    ("port", more("  - {address: b@x.org, port: 65536}\n"), "mailpolld.yaml:9:30: mailboxes[1].port: 65536 is not a number from 1 to 65535"),
    ("URL for a host", more("  - {address: b@x.org, host: \"https://imap.x.org\"}\n"), "mailpolld.yaml:9:30: mailboxes[1].host: https://imap.x.org is neither a host's name"),
    ("URL with a port for a host", more("  - {address: b@x.org, host: \"https://imap.x.org:993/\"}\n"), "mailboxes[1].host: https://imap.x.org:993/ is neither"),
    ("port in the host", more("  - {address: b@x.org, host: \"imap.x.org:993\"}\n"), "its port is in `port`"),
    ("port in the host's address", more("  - {address: b@x.org, host: \"[::1]:993\"}\n"), "mailboxes[1].host: [::1]:993 is neither"),
    ("space in the host", more("  - {address: b@x.org, host: \"imap x::y\"}\n"), "mailboxes[1].host: imap x::y is neither"),
    ("negative port", more("  - {address: b@x.org, port: -1}\n"), "mailpolld.yaml:9:30: mailboxes[1].port: -1 is not a number"),
    ("size", more("spool_limit: 1024\n"), "mailpolld.yaml:9:14: spool_limit: 1024 needs a unit"),
    ("size overflow", more("spool_limit: 99999999999999T\n"), "mailpolld.yaml:9:14: spool_limit: 99999999999999T is too large"),
    ("anchor", more("  - &x {address: b@x.org}\n"), "mailpolld.yaml:9:5: anchors"),
    ("alias", more("  - *x\n"), "mailpolld.yaml:9:5: aliases"),
    ("tag", more("  - !!str b@x.org\n"), "mailpolld.yaml:9:5: tags"),
    ("merge", more("  - {address: b@x.org, <<: {port: 5}}\n"), "mailpolld.yaml:9:24: merge keys"),
    ("unquoted template", more("  - {address: b@x.org, deliver: {maildir: /srv/%{local}}}\n"), "mailpolld.yaml:9:48: a value with %{ must be quoted"),
    ("unquoted template, block", more("  - address: b@x.org\n    deliver:\n      maildir: %{local}\n"), "mailpolld.yaml:11:16: a value with %{ must be quoted"),
    ("unknown template", more("  - {address: b@x.org, deliver: {maildir: \"/srv/%{user}\"}}\n"), "mailpolld.yaml:9:43: mailboxes[1].deliver: %{ must be one of"),
    ("slash in template", more("  - {address: b@x.org, id: ../etc, deliver: {maildir: \"/srv/%{id}\"}}\n"), "mailpolld.yaml:9:5: mailboxes[1]: /srv/%{id} cannot be filled in: it has a /"),
    ("slash in a command's argument", more("  - {address: b@x.org, id: a/b, deliver: {command: [/bin/true, \"%{id}\"]}}\n"), "%{id} cannot be filled in: it has a /"),
    ("dots in template", more("  - {address: b@x.org, id: .., deliver: {maildir: \"/srv/%{id}\"}}\n"), "cannot be filled in: it is . or .."),
    ("a folder twice", more("  - {address: b@x.org, folders: [Done, Done]}\n"), "mailpolld.yaml:9:40: mailboxes[1].folders: Done stands here twice"),
    ("INBOX twice", more("  - {address: b@x.org, folders: [INBOX, Inbox]}\n"), "mailpolld.yaml:9:41: mailboxes[1].folders: INBOX stands here twice"),
    ("move to a watched folder", more("  - {address: b@x.org, folders: [INBOX, Done], after: {move: Done}}\n"), "messages are moved to Done, which is also watched"),
    ("move to inbox", more("  - {address: b@x.org, after: {move: inbox}}\n"), "messages are moved to INBOX, which is also watched"),
    ("move nowhere", more("  - {address: b@x.org, after: move}\n"), "mailpolld.yaml:9:31: mailboxes[1].after: move needs a folder"),
    ("missing file", more("mailbox_files: [more.yaml]\n"), "mailpolld.yaml:9:17: mailbox_files: there is no file more.yaml"),
    ("lmtp", more("  - {address: b@x.org, deliver: {lmtp: x}}\n"), "mailpolld.yaml:9:33: mailboxes[1].deliver: lmtp is not there yet"),
    ("webhook", more("  - {address: b@x.org, deliver: {webhook: x}}\n"), "webhook is not there yet"),
    ("several sinks", more("  - {address: b@x.org, deliver: [{maildir: /x}]}\n"), "several sinks are not there yet"),
    ("certificate", GOOD.replace("client_secret_file: secret", "certificate_file: x"), "mailpolld.yaml:4:60: credentials.contoso: certificate_file is not there yet"),
    ("managed identity", GOOD.replace("client_secret_file: secret", "managed_identity: x"), "managed_identity is not there yet"),
    ("secret in the file", GOOD.replace("client_secret_file: secret", "client_secret: hunter2"), "put it into a file and name it with client_secret_file"),
    ("common", GOOD.replace("contoso.onmicrosoft.com", "common"), "use the tenant's own ID, not common"),
    ("http", GOOD.replace("tenant: contoso.onmicrosoft.com", "token_url: http://x, scope: y"), "token_url must begin with https://"),
    ("cloud", GOOD.replace("tenant:", "cloud: mars, tenant:"), "mars is none of worldwide, usgov, dod, china"),
    ("address", more("  - not-an-address\n"), "mailpolld.yaml:9:5: mailboxes[1]: not-an-address is not a mail address"),
    ("date", more("  - {address: b@x.org, start: 2026-02-30}\n"), "must be all, new or a date"),
    ("mode", more("  - {address: b@x.org, deliver: {maildir: /x, mode: 999}}\n"), "must be an octal file mode"),
    ("group", more("  - {address: b@x.org, deliver: {maildir: /x, group: no-such-group}}\n"), "there is no group no-such-group"),
    ("shell", more("  - {address: b@x.org, deliver: {command: take it}}\n"), "command must be a list"),
    ("program", more("  - {address: b@x.org, deliver: {command: [take]}}\n"), "the program must be an absolute path"),
    ("audit", more("audit: elsewhere\n"), "mailpolld.yaml:9:8: audit: must be journal, off or a path from /"),
    ("nothing to do", more("  - {address: b@x.org, deliver: {mode: 0640}}\n"), "must have either maildir or command"),
]


@pytest.mark.parametrize("text,expected", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad(tmp_path, text, expected):
    code, err, _ = check(tmp_path, text)
    assert code == 78 and expected in err, err
    assert "hunter2" not in err


def test_all_errors_in_one_run(tmp_path):
    text = more("  - {address: b, port: x}\n  - {address: c@x.org, watch: never, interval: 5}\nlog_level: loud\n").replace("client_id: a, ", "")
    code, err, _ = check(tmp_path, text)
    assert code == 78
    for part in ("9:15", "9:24", "10:31", "10:48", "11:12", "client_id is missing"):
        assert part in err, err


def test_an_error_in_defaults_is_told_once(tmp_path):
    text = GOOD.replace("defaults:\n", "defaults:\n  interval: 5\n") + "".join("  - b%d@x.org\n" % i for i in range(50))
    code, err, _ = check(tmp_path, text)
    assert code == 78 and err.count("needs a unit") == 1 and "mailpolld.yaml:6:13: defaults.interval" in err


def test_many_errors_are_counted(tmp_path):
    code, err, _ = check(tmp_path, more("".join("  - b%d\n" % i for i in range(500))))
    assert code == 78 and err.count("is not a mail address") <= 100 and "and 401 more" in err


def test_ten_thousand_mailboxes_in_several_files(tmp_path):
    files = {"m%d" % n: "defaults: {folders: [INBOX, Two]}\nmailboxes:\n" + "".join("  - {address: box%d-%d@x.org, after: seen}\n" % (n, i) for i in range(1000))
             for n in range(5)}
    files.update({"n%d" % n: "".join("- nox%d-%d@x.org\n" % (n, i) for i in range(1000)) for n in range(5)})
    code, err, out = check(tmp_path, more('mailbox_files: ["m[0-9].yaml", "n?.yaml"]\n'), **files)
    assert code == 0 and "10001 mailboxes" in out, err
    files["n3"] += "- box2-500@x.org\n"
    code, err, _ = check(tmp_path, more('mailbox_files: ["m[0-9].yaml", "n?.yaml"]\n'), **files)
    assert code == 78 and "n3.yaml:1001:3: address box2-500@x.org is already used at m2.yaml:503:5" in err


def test_what_is_missing_here_is_a_warning(tmp_path):
    text = more("  - {address: b@x.org, deliver: {command: [/no/such/program]}, ca_file: /no/such/ca.pem}\nmailbox_files: [\"none-*.yaml\"]\n")
    text = text.replace("client_secret_file: secret", "client_secret_file: no-secret")
    code, err, _ = check(tmp_path, text)
    assert code == 0
    for part in ("no-secret: No such file", "/no/such/program cannot be run", "no file matches",
                 "mailpolld.yaml:9:73: mailboxes[1].ca_file: /no/such/ca.pem cannot be read: No such file"):
        assert part in err, err
    assert check(tmp_path, text, "--strict")[0] == 78


def test_a_missing_authority_is_told_where_it_stands(tmp_path):
    text = GOOD.replace("client_id: a", "client_id: a, ca_file: /no/a.pem").replace("defaults:\n", "defaults:\n  ca_file: /no/b.pem\n")
    code, err, _ = check(tmp_path, text + "  - b@x.org\n  - {address: c@x.org, ca_file: /no/c.pem}\n")
    assert code == 0 and err.count("cannot be read") == 3, err
    for part in ("4:69: credentials.contoso.ca_file: /no/a.pem", "6:12: defaults.ca_file: /no/b.pem", "11:33: mailboxes[2].ca_file: /no/c.pem"):
        assert part in err, err


def test_hosts(tmp_path):
    for host in ("imap_1.x.org", "127.0.0.1", '"::1"', '"fe80::1:2"', "xn--bcher-kva.example"):
        code, err, _ = check(tmp_path, GOOD.replace("defaults:\n", "defaults:\n  host: %s\n" % host), "--strict")
        assert (code, err) == (0, ""), err


def test_secret_files(tmp_path):
    for content, mode, expected in (("x\n", 0o604, "can be read by others"), ("", 0o600, "it is empty"), ("a\0b\n", 0o600, "it has a NUL"),
                                    ("1b2c3d4e-0000-1111-2222-333344445555\n", 0o600, "that is the secret's ID")):
        code, err, _ = check(tmp_path, GOOD)
        path = tmp_path / "other"
        path.write_text(content)
        path.chmod(mode)
        code, err, _ = check(tmp_path, GOOD.replace("client_secret_file: secret", "client_secret_file: other"))
        assert code == 0 and expected in err, err


def test_secret_of_another_server_may_be_a_guid(tmp_path):
    """Only Entra's secrets have an ID that is one"""
    path = tmp_path / "other"
    path.write_text("1b2c3d4e-0000-1111-2222-333344445555\n")
    path.chmod(0o600)
    entra = GOOD.replace("client_secret_file: secret", "client_secret_file: other")
    other = entra.replace("tenant: contoso.onmicrosoft.com", "token_url: https://sso.example/token, scope: imap").replace("defaults:\n", "defaults:\n  host: h\n")
    for text, told in ((entra, True), (other, False), (other.replace("scope: imap", "scope: https://outlook.office365.com/.default"), True)):
        code, err, _ = check(tmp_path, text)
        assert code == 0 and ("that is the secret's ID" in err) == told, err


def test_polls_beyond_admission(tmp_path):
    text = GOOD.replace("client_id: a", "client_id: a, admission: {sessions_per_second: 1}").replace("defaults:\n", "defaults:\n  watch: poll\n  interval: 10s\n")
    code, err, _ = check(tmp_path, text + "".join("  - b%d@x.org\n" % i for i in range(99)))
    assert code == 0 and "ask for 10.0 sessions per second, 1 are allowed" in err and "after about 100 s" in err


def test_polls_more_often_than_each_minute(tmp_path):
    """exchange-online 6: a floor of 60 s. Told once where it stands, of IDLE never"""
    def told(defaults, *mailboxes):
        code, err, _ = check(tmp_path, GOOD.replace("defaults:\n", "defaults:\n  %s\n" % defaults) + "".join("  - %s\n" % m for m in mailboxes))
        assert code == 0
        return [line.split(": ")[1:3] for line in err.splitlines() if "each of these polls is a sign-in" in line]
    assert told("watch: poll\n  interval: 59s", "b@x.org") == [["mailpolld.yaml:7:13", "defaults.interval"]]
    assert told("interval: 30s", "{address: b@x.org, watch: poll}", "{address: c@x.org, watch: poll}") == [["mailpolld.yaml:6:13", "mailboxes[1].interval"]]
    assert told("interval: 30s") == told("watch: poll") == told("watch: poll\n  interval: 1m") == []


def test_re_logins_beyond_admission(tmp_path):
    """Mailboxes that share a token sign in anew between two tokens: so many cannot."""
    text = GOOD.replace("client_id: a", "client_id: a, admission: {sessions_per_second: 1}")
    code, err, _ = check(tmp_path, text + "".join("  - b%d@x.org\n" % i for i in range(1600)))
    assert code == 0 and "sign in anew within the 25 minutes between two tokens of an hour, which takes 2 sessions per second; 1 are allowed" in err
    assert "sign in anew" not in check(tmp_path, text + "".join("  - b%d@x.org\n" % i for i in range(1300)))[1]


def test_what_is_in_force(simulator, daemon):
    """A mailbox's own, then the defaults of its file, then the global ones; `deliver` as a whole"""
    addresses = ["global@x.example", "own@x.example", "file@x.example", "both@x.example"]
    for address in addresses:
        simulator.mailbox(address)
        simulator.add(address, [{"seed": 1, "size": 1500}])
    mail = {"maildir": os.path.join(daemon.directory, "mail", "%{address}")}
    daemon.config([addresses[0], {"address": addresses[1], "interval": "11m", "after": "seen"}],
                  {"watch": "poll", "interval": "12m", "deliver": {**mail, "mode": "0640", "group": "mail"}}, {"mailbox_files": ["more.yaml"]})
    with open(os.path.join(daemon.directory, "more.yaml"), "w") as f:
        json.dump({"defaults": {"interval": "13m", "after": "delete"},
                   "mailboxes": [addresses[2], {"address": addresses[3], "interval": "14m", "watch": "idle", "deliver": mail}]}, f)
    daemon.start()
    told = {}
    for address in addresses:
        daemon.wait_delivered(address, 1)
        settings = json.loads(daemon.ctl("status", address, "--json").stdout)["mailboxes"][0]["settings"]
        st = os.stat(next(Maildir(daemon.maildir(address)).files()))
        told[address.split("@")[0]] = (settings["watch"], settings["interval_s"] // 60, settings["after"], oct(stat.S_IMODE(st.st_mode)), st.st_gid)
        assert settings["deliver"] == mail
    group = grp.getgrnam("mail").gr_gid
    assert told == {"global": ("poll", 12, "keep", "0o640", group), "own": ("poll", 11, "seen", "0o640", group),
                    "file": ("poll", 13, "delete", "0o640", group), "both": ("idle", 14, "delete", "0o600", os.getgid())}


NO_GROUPS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <unistd.h>
typedef int function(const char *, struct group *, char *, size_t, struct group **);
int getgrnam_r(const char *name, struct group *group, char *room, size_t size, struct group **found)
{
	*found = NULL;
	return access(getenv("NO_GROUPS"), F_OK) == 0 ? ECONNREFUSED : ((function *)dlsym(RTLD_NEXT, "getgrnam_r"))(name, group, room, size, found);
}
"""


@pytest.mark.skipif("asan" in BUILD, reason="its library must be loaded first")
def test_directory_service_that_does_not_answer(simulator, daemon, tmp_path):
    """It tells nothing of the group: the start fails so that the unit tries again, a reload leaves what is in force; a group that is not there
    is an error of the file"""
    no_groups, library, address = tmp_path / "no-groups", str(tmp_path / "no-groups.so"), "support@contoso.example"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=NO_GROUPS, text=True, check=True)
    env, told = {"LD_PRELOAD": library, "NO_GROUPS": str(no_groups)}, "defaults.deliver: group mail cannot be looked up: Connection refused"
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "systemd", "mailpolld.service")) as f:
        for_good = re.search("^RestartPreventExitStatus=(.*)$", f.read(), re.M).group(1).split()

    def run(*args):
        return subprocess.run([os.path.join(BUILD, "mailpolld"), "-c", daemon.file, *args], capture_output=True, text=True, timeout=60, env={**os.environ, **env})

    def config(*addresses, group="mail"):
        daemon.config(list(addresses), {"deliver": {"maildir": os.path.join(daemon.directory, "mail", "%{address}"), "group": group}})
    simulator.mailbox(address)
    config(address, group="no-such-group")
    daemon.start(ready=False, env=env)
    assert daemon.finish() == 78 and "78" in for_good and daemon.has_line("event=start-failed .*there is no group no-such-group")
    config(address)
    no_groups.touch()
    daemon.start(ready=False, env=env)
    assert daemon.finish() == 71 and "71" not in for_good and daemon.has_line("event=start-failed .*" + told)
    checked, examined = run("check"), run("doctor")
    assert checked.returncode == 78 and told in checked.stderr and "there is no group" not in checked.stderr
    assert examined.returncode == 78 and told in examined.stdout and "getent group" in examined.stdout
    no_groups.unlink()
    daemon.start(env=env)
    daemon.wait_state(address, "watching")
    no_groups.touch()
    config(address, "new@contoso.example")
    refused = daemon.ctl("reload")
    assert refused.returncode == 1 and told in refused.stderr
    status = daemon.status()
    assert [m["state"] for m in status["mailboxes"]] == ["watching"] and told in status["config"]["error"]
    no_groups.unlink()
    assert daemon.ctl("reload").returncode == 0 and simulator.state(address)["logins"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_in_another_users_state(simulator, daemon):
    """Its files would be closed to the daemon's own user, for whom each start would fail then"""
    daemon.config(["support@contoso.example"])
    shutil.chown(daemon.state_dir, "nobody")
    daemon.start(ready=False)
    assert daemon.finish() == 71 and daemon.has_line("event=start-failed .*belongs to user nobody: start mailpolld as that user")
    assert os.listdir(daemon.state_dir) == []
