"""Lines: extra ports that pass bytes to and from the IMAP server or the token endpoint, below TLS, and do what networks do. A test gives a
mailbox a line's port, so that its troubles are that mailbox's alone.

    mode        ok, refuse (nobody listens), hang-tcp (connects and is never accepted), hang-tls (accepted, nothing passes), reset
    cut_after   ends each connection after so many bytes from the server (hang_after: passes no more, and stays)
    chunk       passes so many bytes at a time, chunk_delay_s apart
"""
import asyncio
import socket


class Cutting:
    """A writer that gives a record of TLS for each byte (single), or ends the connection after so many (after) and tells: what is above TLS, cut."""

    def __init__(self, writer, single=False, after=None, tell=None):
        self.writer, self.single, self.left, self.tell = writer, single, after, tell

    def __getattr__(self, name):
        return getattr(self.writer, name)

    def write(self, data):
        if self.left is not None:
            data, self.left = data[:self.left], self.left - len(data)
        for part in (data[i:i + 1] for i in range(len(data))) if self.single else [data]:
            self.writer.write(part)
        if self.left is not None and self.left <= 0:
            self.left = 0
            self.writer.close()             # after what has been written
            if self.tell:
                self.tell()
                self.tell = None
            raise ConnectionAbortedError


class Line:
    def __init__(self, target_port, line_of):
        self.target_port, self.conf, self.server, self.plugs = target_port, {"mode": "ok"}, None, []
        self.line_of = line_of                  # the port each connection goes on from, for the IMAP server to know it by
        self.faults = []                        # for who comes by this line, from the greeting on
        self.writers = set()
        self.holder = socket.socket()           # the port is the line's also while nobody listens there
        self.holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.holder.bind(("127.0.0.1", 0))
        self.port = self.holder.getsockname()[1]

    async def set(self, conf):
        self.conf = {"mode": "ok", **conf}
        await self.close_listener()
        if conf.get("end"):
            for writer in list(self.writers):
                writer.transport.abort()
        if self.conf["mode"] == "refuse":
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        if self.conf["mode"] == "hang-tcp":     # a queue that is full: the kernel answers no SYN any more
            listener.listen(0)
            self.plugs = [listener]
            for _ in range(4):
                plug = socket.socket()
                plug.setblocking(False)
                plug.connect_ex(("127.0.0.1", self.port))
                self.plugs.append(plug)
        else:
            self.server = await asyncio.start_server(self.connection, sock=listener, limit=65536)

    async def close_listener(self):
        for plug in self.plugs:
            plug.close()
        self.plugs = []
        if self.server:
            self.server.close()
            self.server = None

    async def connection(self, reader, writer):
        self.writers.add(writer)
        try:
            if self.conf["mode"] == "reset":
                writer.transport.abort()
                return
            if self.conf["mode"] == "hang-tls":
                await asyncio.sleep(3600)
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            self.writers.add(up_writer)
            from_port = up_writer.get_extra_info("sockname")[1]
            self.line_of[from_port] = self      # before the first byte of TLS
            try:
                up = asyncio.ensure_future(self.pass_on(reader, up_writer, {}))
                down = asyncio.ensure_future(self.pass_on(up_reader, writer, self.conf))
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
                up.cancel(), down.cancel()
            finally:
                self.line_of.pop(from_port, None)
                self.writers.discard(up_writer)
                up_writer.transport.abort()
        except OSError:
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def pass_on(self, reader, writer, conf):
        passed = 0
        while data := await reader.read(conf.get("chunk", 65536)):
            for limit in ("cut_after", "hang_after"):
                if limit in conf and passed + len(data) > conf[limit]:
                    writer.write(data[:conf[limit] - passed])
                    await writer.drain()
                    if limit == "hang_after":
                        await asyncio.sleep(3600)
                    return
            writer.write(data)
            passed += len(data)
            await writer.drain()
            if "chunk_delay_s" in conf:
                await asyncio.sleep(conf["chunk_delay_s"])
