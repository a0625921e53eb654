"""HTTP/1.1 for the token endpoint and the control port: one request after the other on a connection.

An answer may come in an odd way, how:
    single      each byte in a record of TLS of its own
    cut_after   the connection ends after so many bytes of the answer, its head included (hang_after: no more of them, and it stays)
    raw         it ends, when all has been said, without close_notify; so does what cut_after ends
    length      what Content-Length says; None: there is none, the answer ends with the connection
"""
import asyncio
import json
import urllib.parse

import wire


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


async def give(writer, answer, how):
    """Can there be another request after it?"""
    limit = how.get("cut_after", how.get("hang_after"))
    if how.get("single"):
        writer = wire.Cutting(writer, single=True)
    writer.write(answer[:limit])
    await writer.drain()
    if "hang_after" in how:
        await asyncio.sleep(3600)
    if how.get("raw"):
        writer.transport.abort()
    return limit is None and not how.get("raw") and how.get("length", 0) is not None


def serve(handle):
    """handle(request) gives (status, headers, body bytes or an object for JSON), and perhaps how."""
    async def connection(reader, writer):
        try:
            while True:
                request = await read_request(reader)
                status, headers, body, *odd = await handle(request)
                how = odd[0] if odd else {}
                if not isinstance(body, bytes):
                    body = json.dumps(body).encode()
                    headers = {"Content-Type": "application/json", **headers}
                head = "HTTP/1.1 %d X\r\n" % status + "".join("%s: %s\r\n" % h for h in headers.items())
                length = how.get("length", len(body))
                head += "" if length is None else "Content-Length: %d\r\n" % length
                if not await give(writer, head.encode() + b"\r\n" + body, how):
                    return
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError, OSError):
            pass
        finally:
            writer.close()
    return connection
