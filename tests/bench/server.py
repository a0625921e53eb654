"""The IMAP servers: a private Dovecot for all, set up for thousands of sessions, and the light server."""
import os
import pwd
import subprocess
import sys

from place import HERE, started, tool

sys.path.insert(0, os.path.join(HERE, "..", "integration"))
from lib import dovecot  # noqa: E402
from lib.ports import free_port  # noqa: E402,F401
from lib.simulator import Simulator  # noqa: E402,F401

ANY_TOKEN = """
passdb {{
  driver = static
  mechanisms = xoauth2 oauthbearer
  args = nopassword=y
}}
"""
MANY = """
service imap-login {
  client_limit = 20000
  process_limit = 1
  vsz_limit = 8G
}
service imap {
  process_limit = 12000
  unix_listener imap-master {
    user = $default_internal_user
  }
}
service imap-hibernate {
  client_limit = 30000
  process_limit = 1
  vsz_limit = 8G
  unix_listener imap-hibernate {
    mode = 0666
  }
}
service auth {
  client_limit = 60000
}
service anvil {
  client_limit = 60000
}
service stats {
  client_limit = 60000
}
imap_hibernate_timeout = 2s
default_client_limit = 20000
default_process_limit = 12000
namespace inbox {
  mailbox Processed {
    auto = no
  }
}
"""
TOKEN = "b.e.n.c.h" * 200           # any opens any mailbox: what a token server costs is not what is measured here


def message(n, size):
    """Lines of 76 characters, as base64 has; no two messages are the same."""
    head = ("Message-ID: <%d@bench.test>\r\nFrom: sender@bench.test\r\nTo: you@bench.test\r\nSubject: number %d\r\nDate: Fri, 9 Jan 2026 02:02:12 +0000\r\n"
            "MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n" % (n, n)).encode()
    line = (b"%020d" % n * 4)[:76] + b"\r\n"
    body = line * ((size - len(head)) // len(line) + 1)
    return head + body[:size - len(head) - 2] + b"\r\n"


class Dovecot(dovecot.Dovecot):
    def __init__(self, place, simulator):
        super().__init__(place.path("server", "dovecot"), simulator, tokens=ANY_TOKEN, more=MANY)
        self.serial = 0
        user = pwd.getpwnam("nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name)
        self.uid, self.gid = user.pw_uid, user.pw_gid
        self.token_file = place.path("server", "token")
        with open(self.token_file, "w") as f:
            f.write(TOKEN + "\n")

    def maildir(self, user):
        path = os.path.join(self.base, "home", user, "Maildir")
        if not os.path.isdir(path):
            for sub in ("cur", "new", "tmp"):
                os.makedirs(os.path.join(path, sub))
            for made in (os.path.dirname(path), path, *(os.path.join(path, sub) for sub in ("cur", "new", "tmp"))):
                os.chown(made, self.uid, self.gid)
        return path

    def put(self, user, n, size, link_to=None):
        """n messages, directly into the Maildir: size and line ends are as they will be served. link_to: the paths of files to be
        the messages. Gives their paths."""
        path, made = self.maildir(user), []
        for i in range(n):
            self.serial += 1
            name = os.path.join(path, "new", "%d.M%dP1.bench,S=%d,W=%d" % (1767924132 + self.serial, self.serial, size, size))
            if link_to:
                os.link(link_to[i], name)
            else:
                tmp = os.path.join(path, "tmp", str(self.serial))
                with open(tmp, "wb") as f:
                    f.write(message(self.serial, size))
                os.chown(tmp, self.uid, self.gid)
                os.rename(tmp, name)
            made.append(name)
        return made

    def warm(self, user):
        """Once, so that nobody pays for the server's index."""
        client = self.login(user)
        client.select("INBOX")
        client.fetch("1:*", "(UID FLAGS INTERNALDATE RFC822.SIZE)")
        client.logout()


class Light:
    def __init__(self, simulator):
        directory = os.path.dirname(simulator.ca_file)
        self.ca_file = simulator.ca_file
        self.process = subprocess.Popen([tool("light"), os.path.join(directory, "localhost.pem"), os.path.join(directory, "localhost.key")],
                                        stdout=subprocess.PIPE, text=True)
        started.append(self.process)
        self.port = int(self.process.stdout.readline())

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
