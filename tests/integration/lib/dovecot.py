"""A private Dovecot: an IMAP server that nobody of this project wrote. Tokens are checked by asking the simulator about them."""
import imaplib
import os
import pwd
import signal
import socket
import ssl
import subprocess
import time

from lib.ports import free_port

PASSWORD = "only-for-looking"
CONF = """
base_dir = {base}/run
state_dir = {base}/run
log_path = {base}/log
protocols = imap
listen = 127.0.0.1
ssl = required
ssl_cert = <{cert}
ssl_key = <{key}
ssl_min_protocol = TLSv1.2
auth_mechanisms = xoauth2 oauthbearer plain
auth_failure_delay = 0
mail_location = maildir:~/Maildir
first_valid_uid = 1
mail_max_userip_connections = 0
default_internal_user = dovecot
default_login_user = dovenull
mail_fsync = never
{tokens}
passdb {{
  driver = static
  mechanisms = plain
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={base}/home/%u allow_all_users=yes
}}
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {port}
    ssl = yes
  }}
  service_count = 0
  process_min_avail = 1
}}
service imap {{
  process_limit = 500
}}
namespace inbox {{
  inbox = yes
  separator = /
  mailbox Processed {{
    auto = create
  }}
}}
"""
TOKENS = """
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {base}/oauth2.conf
}}
"""


class Dovecot:
    """tokens: the passdb for them; more: settings that come last."""

    def __init__(self, base, simulator, tokens=TOKENS, more=""):
        self.base, self.port, self.ca_file = str(base), free_port(), simulator.ca_file
        os.makedirs(os.path.join(self.base, "home"))
        for directory in (self.base, os.path.join(self.base, "home")):
            os.chmod(directory, 0o777)
        parent = os.path.dirname(self.base)
        while parent != "/" and os.stat(parent).st_uid == os.getuid():	# pytest's directories are its user's alone
            os.chmod(parent, os.stat(parent).st_mode | 0o711)
            parent = os.path.dirname(parent)
        user = pwd.getpwnam("nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name)
        sim = os.path.dirname(simulator.ca_file)
        with open(os.path.join(self.base, "oauth2.conf"), "w") as f:
            # any good token opens any mailbox, as FullAccess does: the constant makes token and user always agree
            f.write("introspection_mode = post\nintrospection_url = https://id:secret@localhost:%d/introspect\ntls_ca_cert_file = %s\n"
                    "active_attribute = active\nactive_value = true\nusername_attribute = client_id\nusername_format = app\n"
                    % (simulator.token_port, simulator.ca_file))
        conf = os.path.join(self.base, "dovecot.conf")
        with open(conf, "w") as f:
            f.write(CONF.format(base=self.base, tokens=tokens.format(base=self.base), cert=os.path.join(sim, "localhost.pem"), key=os.path.join(sim, "localhost.key"), port=self.port,
                                uid=user.pw_uid, gid=user.pw_gid, password=PASSWORD) + more)
        self.process = subprocess.Popen(["dovecot", "-F", "-c", conf], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert time.monotonic() < until and self.process.poll() is None, self.log()
                time.sleep(0.05)		# the server's start has no other sign

    def log(self):
        try:
            with open(os.path.join(self.base, "log")) as f:
                return f.read()[-4000:]
        except FileNotFoundError:
            return "no log"

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)

    def login(self, user):
        client = imaplib.IMAP4_SSL("localhost", self.port, ssl_context=ssl.create_default_context(cafile=self.ca_file))
        client.login(user, PASSWORD)
        return client

    def append(self, user, bodies, folder="INBOX"):
        client = self.login(user)
        for body in bodies:
            answer = client.append(folder, None, None, body)
            assert answer[0] == "OK", answer
        client.logout()

    def flags(self, user, folder="INBOX"):
        client = self.login(user)
        client.select(folder, readonly=True)
        answer = client.uid("FETCH", "1:*", "(FLAGS)")[1]
        client.logout()
        return [line.decode() for line in answer if line]
