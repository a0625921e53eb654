"""Entra ID's token endpoint and Exchange Online's IMAP in one program, for tests and the demonstration.

    /usr/bin/python3 tests/exchange_sim --dir DIR     (one line of JSON on standard output when it is ready)
    /usr/bin/python3 tests/exchange_sim --factory     (many, each asked for on standard input: __main__.py)

It speaks as the services have been seen to speak (exchange-online 2 to 5); mailboxes, messages and faults are set over a
control port (control.py says how). Everything listens on loopback, on ports the kernel chooses.

    messages.py   bodies, made when they are asked for
    state.py      mailboxes, folders, tokens, faults, counters
    imap.py       the IMAP server; fetch.py its FETCH
    faults.py     what it does instead of answering
    wire.py       networks that misbehave
    entra.py      the token endpoint, and token introspection for other IMAP servers
    control.py    the control port
    web.py        as much HTTP as these two need
    clock.py      seconds that pass faster
    certs.py      a certificate authority of its own
"""
