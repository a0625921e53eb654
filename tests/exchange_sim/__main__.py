import argparse
import asyncio
import ctypes
import gc
import json
import os
import resource
import signal
import ssl
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import certs        # noqa: E402
import clock        # noqa: E402
import control      # noqa: E402
import entra        # noqa: E402
import imap         # noqa: E402
import state        # noqa: E402
import web          # noqa: E402


async def run(args):
    known = state.State()
    certificates = certs.Certificates(args.dir)
    context = certificates.context()
    entra_context = certificates.context()
    limit = 2 ** 20
    token_server = await asyncio.start_server(web.serve(entra.handler(known)), "127.0.0.1", args.token_port, ssl=entra_context, limit=limit)
    imap_server = await asyncio.start_server(imap.serve(known), "127.0.0.1", args.imap_port, ssl=context, limit=65536, backlog=4096)
    handler = control.Control(known, certificates, context, entra_context)
    handler.token_server, handler.loop_token = token_server, (web.serve(entra.handler(known)), entra_context, limit)
    control_server = await asyncio.start_server(web.serve(handler.handle), "127.0.0.1", args.control_port, limit=2 ** 26)

    def port(server):
        return server.sockets[0].getsockname()[1]

    handler.token_port, handler.imap_port = port(token_server), port(imap_server)
    print(json.dumps({"pid": os.getpid(), "imap_port": port(imap_server), "token_port": port(token_server), "control_port": port(control_server),
                      "ca_file": certificates.ca_file, "token_url": "https://localhost:%d/tenant/oauth2/v2.0/token" % port(token_server),
                      "client_id": known.client_id, "secret": known.secret}), flush=True)
    await asyncio.Event().wait()


def factory():
    """A simulator for each line of standard input, {"argv", "stdout", "stderr"}, by fork: most of a start is loading Python's modules."""
    asyncio.run(asyncio.sleep(0))                           # these two make what is made once, before all of them would
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    gc.freeze()                                             # what they share, none of them writes into
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        wanted = json.loads(line)
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)      # PR_SET_PDEATHSIG: it goes with the factory
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(os.open(wanted["stdout"], os.O_WRONLY), 1)
            os.dup2(os.open(wanted["stderr"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), 2)
            sys.argv[1:] = wanted["argv"]
            main()
            return


def main():
    parser = argparse.ArgumentParser(prog="exchange_sim")
    parser.add_argument("--dir", required=True, help="for certificates")
    for name in ("imap", "token", "control"):
        parser.add_argument("--%s-port" % name, type=int, default=0)
    parser.add_argument("--clock-rate", type=float, default=1.0, help="so many seconds pass in each real one")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        args = parser.parse_args()
        clock.RATE = args.clock_rate
        asyncio.run(run(args))
    except KeyboardInterrupt:
        pass


factory() if sys.argv[1:] == ["--factory"] else main()
