"""A port that nobody else gets: not of the system's own choice, which soon gives it to a simulator of another test."""
import itertools
import os
import re
import socket

PER_WORKER = 500
numbers = itertools.count()


def free_port():
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        end = int(f.read().split()[0])
    worker = int(re.sub("[^0-9]", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0)
    while True:
        port = end - 1 - PER_WORKER * (worker % 32) - next(numbers) % PER_WORKER
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
