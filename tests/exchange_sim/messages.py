"""Message bodies as specifications, so that a mailbox of a hundred thousand costs nothing until one is fetched.

A specification is {"data": base64}, {"seed": n, "size": bytes} (awkward bytes, the same for the same seed),
{"text": "..."} or {"big": bytes} (streamed, never whole in memory)."""
import base64
import hashlib
import random

CHUNK = 256 * 1024
AWKWARD = [
    b"* BYE this is no answer\r\n", b")\r\nA1 OK FETCH completed.\r\n", b"A5 NO [UNAVAILABLE] nor is this\r\n", b"+ go ahead\r\n",
    b"{5}\r\n", b".\r\n", b"From the beginning\r\n", b"bare\nline\nfeeds\n", b"bare\rcarriage returns\r", b"nul \0 nul \0\0\r\n",
    b"\xff\xfe 8 bit \x80\x81\r\n", b"x" * 10240 + b"\r\n", b"\r\n\r\n", b" \t \r\n",
]


def header(message_id, subject, date="Fri, 09 Jan 2026 02:02:12 +0000"):
    return (b"Message-ID: <" + message_id + b">\r\nDate: " + date.encode() + b"\r\nFrom: sender@example.org\r\nTo: shared@contoso.example\r\n"
            b"Subject: " + subject + b"\r\nX-8bit: Gr\xfc\xdfe\r\nMIME-Version: 1.0\r\n\r\n")


def awkward(seed, size):
    """size bytes, at least a header."""
    rng = random.Random(seed)
    made = bytearray(header(b"seed-%d@sim.example" % seed, b"message %d" % seed))
    while len(made) < size:
        if rng.random() < 0.3:
            made += rng.choice(AWKWARD)
        elif rng.random() < 0.5:
            made += rng.randbytes(min(4096, size - len(made)))
        else:
            made += b"An ordinary line of text, as most of them are, number %d.\r\n" % rng.randrange(10**6) * rng.randrange(1, 40)
    return bytes(made[:max(size, 200)])


def big_chunks(size):
    first = header(b"big-%d@sim.example" % size, b"a big one")
    yield first
    left = size - len(first)
    block = (b"0123456789abcdef" * 5 + b"\r\n") * 4096
    while left > 0:
        yield block[:left]
        left -= len(block)


def chunks(spec):
    if "big" in spec:
        yield from big_chunks(spec["big"])
    else:
        whole = body(spec)
        for i in range(0, len(whole), CHUNK):
            yield whole[i:i + CHUNK]


def body(spec):
    if "data" in spec:
        return base64.b64decode(spec["data"])
    if "text" in spec:
        return spec["text"].encode()
    if "seed" in spec:
        return awkward(spec["seed"], spec["size"])
    return b"".join(big_chunks(spec["big"]))


def size(spec):
    if "big" in spec:
        return max(spec["big"], len(next(big_chunks(spec["big"]))))
    if "seed" in spec:
        return max(spec["size"], 200)
    return len(body(spec))


def sha256(spec):
    digest = hashlib.sha256()
    for chunk in chunks(spec):
        digest.update(chunk)
    return digest.hexdigest()
