"""The other programs, each in its fastest setting that still makes every message durable. make(users) gives a function that runs the
program once and returns a Sample; what it keeps between two runs stays below its directory."""
import os
import shutil
import subprocess

from place import measure, tool
from server import dovecot

TRIES = 5


class GivenUp(Exception):
    pass


class Peer:
    """directory: on the disk that is measured."""

    def __init__(self, place, server):
        self.server, self.directory = server, os.path.join(place.disk, self.name)

    def mail(self, user):
        return os.path.join(self.directory, user)

    def write(self, name, text):
        os.makedirs(self.directory, exist_ok=True)
        path = os.path.join(self.directory, name)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o600)
        return path

    def delivered(self, users):
        return sum(len(os.listdir(os.path.join(self.mail(user), "new"))) for user in users)

    def run(self, users, n):
        """n new messages are there, over all users."""
        before = self.delivered(users) if os.path.isdir(self.mail(users[-1])) else 0
        sample, _ = measure(self.command(users), n, self.environment(), self.good, self.limit_s)
        got = self.delivered(users) - before
        assert got == n, "%s delivered %d of %d" % (self.name, got, n)
        return sample

    good, limit_s = (0,), 300

    def environment(self):
        return {}

    def make_maildirs(self, users):
        for user in users:
            for sub in ("cur", "new", "tmp"):
                os.makedirs(os.path.join(self.mail(user), sub), exist_ok=True)


class Mbsync(Peer):
    """Pipelined FETCHes, FSync on (its default). XOAUTH2 through Cyrus SASL's plugin of libsasl2-modules-kdexoauth2."""
    name = "mbsync"

    def command(self, users):
        text = "FSync yes\n"
        os.makedirs(self.directory, exist_ok=True)
        for user in users:
            text += ("IMAPAccount {u}\nHost localhost\nPort {port}\nUser {u}\nPassCmd \"cat {token}\"\nSSLType IMAPS\nCertificateFile {ca}\nAuthMechs XOAUTH2\n\n"
                     "IMAPStore {u}-far\nAccount {u}\n\nMaildirStore {u}-near\nInbox {mail}\n\n"
                     "Channel {u}\nFar :{u}-far:\nNear :{u}-near:\nSync PullNew\nCreate Near\nSyncState *\n\n").format(
                         u=user, port=self.server.port, token=self.server.token_file, ca=self.server.ca_file, mail=self.mail(user))
        return ["mbsync", "-q", "-c", self.write("mbsyncrc", text), "-a"]


class Fetchmail(Peer):
    """It has no XOAUTH2 in Debian 12: PLAIN. Each message is handed to take_message, which flushes file and directory."""
    name = "fetchmail"
    good = (0, 1)                   # 1: there was nothing

    def command(self, users):
        # what it has fetched is \\Seen on the server, also for a run that begins anew
        everything = "" if os.path.isdir(self.mail(users[0])) else "fetchall"
        self.make_maildirs(users)
        text = "set no bouncemail\npoll localhost protocol imap port %d auth password\n" % self.server.port
        for user in users:
            text += ' user "%s" password "%s" ssl sslcertck sslcertfile "%s" keep %s mda "%s %s"\n' % (
                user, dovecot.PASSWORD, self.server.ca_file, everything, tool("take_message"), self.mail(user))
        return ["fetchmail", "-f", self.write("fetchmailrc", text), "--nodetach", "--silent"]

    def environment(self):
        return {"FETCHMAILHOME": self.directory}


class Getmail(Peer):
    """Its Maildir destination flushes each file. XOAUTH2. It refuses to deliver as root. It forks for each message and now and then
    misses the end of that child (baseclasses.py, _wait_for_child): then it gives up after `timeout`, and the run is made again."""
    name = "getmail6"

    def run(self, users, n):
        for _ in range(TRIES):
            try:
                return super().run(users, n)
            except RuntimeError as e:
                if "timed out" not in str(e) and "exit status 137" not in str(e):
                    raise
                shutil.rmtree(self.directory)
        raise GivenUp("getmail6 has lost its child %d times" % TRIES)

    limit_s = 60

    def command(self, users):
        self.make_maildirs(users)
        command = self.arguments(users)
        if os.getuid() != 0:
            return command
        subprocess.run(["chown", "-R", "nobody:nogroup", self.directory], check=True)
        return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]

    def arguments(self, users):
        command = ["getmail", "--quiet", "--getmaildir", self.directory]
        for user in users:
            command += ["--rcfile", self.write("getmail-" + user, (
                "[retriever]\ntype = SimpleIMAPSSLRetriever\nserver = localhost\nport = {port}\nusername = {u}\nuse_xoauth2 = True\ntimeout = 10\n"
                "password_command = (\"/bin/cat\", \"{token}\")\nca_certs = {ca}\nmailboxes = (\"INBOX\",)\n\n"
                "[destination]\ntype = Maildir\npath = {mail}/\n\n"
                "[options]\nread_all = false\ndelete = false\ndelivered_to = false\nreceived = false\nverbose = 0\n").format(
                    port=self.server.port, u=user, token=self.server.token_file, ca=self.server.ca_file, mail=self.mail(user)))]
        return command


ALL = (Mbsync, Fetchmail, Getmail)
installed = [peer for peer in ALL if shutil.which({"getmail6": "getmail"}.get(peer.name, peer.name))]
