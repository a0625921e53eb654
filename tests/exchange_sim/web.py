"""HTTP/1.1 for the token endpoint and the control port: one request after the other on a connection."""
import asyncio
import json
import urllib.parse


class Request:
    def __init__(self, method, target, headers, body):
        url = urllib.parse.urlsplit(target)
        self.method, self.path, self.headers, self.body = method, url.path, headers, body
        self.query = {k: v[-1] for k, v in urllib.parse.parse_qs(url.query).items()}

    def json(self):
        return json.loads(self.body or b"{}")

    def form(self):
        return {k: v[-1] for k, v in urllib.parse.parse_qs(self.body.decode()).items()}


async def read_request(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = dict((k.strip().lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines[1:] if line))
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target, headers, body)


def serve(handle):
    """handle(request) gives (status, headers, body bytes or an object for JSON)."""
    async def connection(reader, writer):
        try:
            while True:
                request = await read_request(reader)
                status, headers, body = await handle(request)
                if not isinstance(body, bytes):
                    body = json.dumps(body).encode()
                    headers = {"Content-Type": "application/json", **headers}
                head = "HTTP/1.1 %d X\r\n" % status + "".join("%s: %s\r\n" % h for h in headers.items())
                writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError, OSError):
            pass
        finally:
            writer.close()
    return connection
