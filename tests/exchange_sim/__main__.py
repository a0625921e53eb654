import argparse
import asyncio
import json
import os
import resource
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
    print(json.dumps({"imap_port": port(imap_server), "token_port": port(token_server), "control_port": port(control_server),
                      "ca_file": certificates.ca_file, "token_url": "https://localhost:%d/tenant/oauth2/v2.0/token" % port(token_server),
                      "client_id": known.client_id, "secret": known.secret}), flush=True)
    await asyncio.Event().wait()


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


main()
