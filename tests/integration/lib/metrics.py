"""What the daemon tells on its port for Prometheus."""
import contextlib
import http.client
import time


def get(port, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read().decode()
    finally:
        connection.close()


def numbers(text):
    """{'name{labels}': value}"""
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line and not line.startswith("#")}


def wait_numbers(daemon, port, timeout=60, **expected):
    """Until all of these are so at the same time; gives all numbers. Names without mailpolld_; a function in place of a value judges it."""
    until, n = time.monotonic() + timeout, None
    while True:
        told = daemon.told()
        with contextlib.suppress(ConnectionError, http.client.HTTPException):       # in fast time who asks has as much less time
            n = {name.partition("_")[2]: value for name, value in numbers(get(port, "/metrics")[2]).items()}
            if all(value(n[name]) if callable(value) else n.get(name) == value for name, value in expected.items()):
                return n
        assert time.monotonic() < until and daemon.process.poll() is None, "%r of %r\n%s" % (expected, n, "\n".join(daemon.lines[-40:]))
        daemon.wait_told(told)
