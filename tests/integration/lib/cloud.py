"""Exchange Online by its own names and ports, with the simulator behind them: what a configuration of tenant, client_id and secret reaches.
Needs root: a hosts file in a mount namespace, and ports below 1024 on an address of loopback that nobody else uses."""
import json
import os
import socket
import threading

ADDRESS = "127.77.%d.%d" % (os.getpid() >> 8 & 255, os.getpid() & 255)
HOSTS = {"worldwide": ("login.microsoftonline.com", "outlook.office365.com"), "usgov": ("login.microsoftonline.us", "outlook.office365.us"),
         "dod": ("login.microsoftonline.us", "outlook-dod.office365.us"), "china": ("login.partner.microsoftonline.cn", "partner.outlook.cn")}
TENANT = "3f2a0c1e-0000-4000-8000-00000000c0de"


class Forward:
    """ADDRESS:port leads to 127.0.0.1:to."""

    def __init__(self, port, to):
        self.to, self.listener = to, socket.create_server((ADDRESS, port), backlog=64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.to))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=ends, daemon=True).start()

    @staticmethod
    def pump(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            source.close(), target.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Cloud:
    """For daemon.config() that has been called: leaves out all that a user of Exchange Online need not write."""

    def __init__(self, simulator, daemon, cloud="worldwide"):
        self.forwards = [Forward(443, simulator.token_port), Forward(993, simulator.imap_port)]
        hosts = os.path.join(daemon.directory, "hosts")
        with open(hosts, "w") as f:
            f.write("127.0.0.1 localhost\n%s %s\n" % (ADDRESS, " ".join(HOSTS[cloud])))
        daemon.in_namespace(hosts, "/etc/hosts")
        with open(daemon.file) as f:
            conf = json.load(f)
        credential = conf["credentials"]["contoso"]
        del credential["token_url"], credential["scope"], conf["defaults"]["host"], conf["defaults"]["port"]
        credential.update(tenant=TENANT, **({} if cloud == "worldwide" else {"cloud": cloud}))
        with open(daemon.file, "w") as f:
            json.dump(conf, f)
        simulator.post("/token", claims={"tid": TENANT})

    def close(self):
        for forward in self.forwards:
            forward.close()
