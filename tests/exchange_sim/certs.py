"""A certificate authority and server certificates, made with openssl(1): the right one, one for another host, one by a stranger."""
import os
import ssl
import subprocess


def _openssl(*args):
    subprocess.run(["openssl", *args], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _authority(directory, name):
    key, cert = os.path.join(directory, name + ".key"), os.path.join(directory, name + ".pem")
    if not os.path.exists(cert):
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert, "-days", "30",
                 "-subj", "/CN=mailpolld test authority " + name, "-addext", "basicConstraints=critical,CA:TRUE",
                 "-addext", "keyUsage=critical,keyCertSign")
    return key, cert


def _server(directory, name, authority, names, days=30):
    key, cert = os.path.join(directory, name + ".key"), os.path.join(directory, name + ".pem")
    if not os.path.exists(cert):
        request, extensions = os.path.join(directory, name + ".csr"), os.path.join(directory, name + ".ext")
        with open(extensions, "w") as f:
            f.write("subjectAltName=%s\nextendedKeyUsage=serverAuth\n" % names)
        _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=" + name)
        _openssl("x509", "-req", "-in", request, "-CA", authority[1], "-CAkey", authority[0], "-CAcreateserial", "-days", str(days),
                 "-extfile", extensions, "-out", cert)
    return key, cert


class Certificates:
    """contexts: "good", "wrong-host", "stranger", "expired", "ending" (in three days). ca_file is what clients are to trust."""

    def __init__(self, directory):
        os.makedirs(directory, exist_ok=True)
        ca, stranger = _authority(directory, "ca"), _authority(directory, "stranger-ca")
        here = "DNS:localhost,IP:127.0.0.1,IP:::1," + ",".join("DNS:" + name for name in (
            "login.microsoftonline.com", "outlook.office365.com", "login.microsoftonline.us", "outlook.office365.us", "outlook-dod.office365.us",
            "login.partner.microsoftonline.cn", "partner.outlook.cn"))
        self.ca_file = ca[1]
        self.files = {"good": _server(directory, "localhost", ca, here), "wrong-host": _server(directory, "elsewhere", ca, "DNS:elsewhere.example"),
                      "stranger": _server(directory, "stranger", stranger, here), "expired": _server(directory, "expired", ca, here, -1),
                      "ending": _server(directory, "ending", ca, here, 3)}

    def context(self):
        """One context whose certificate can be changed while it serves: choose(name)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.files["good"][1], self.files["good"][0])
        return context

    def choose(self, context, name):
        key, cert = self.files[name]
        context.load_cert_chain(cert, key)
