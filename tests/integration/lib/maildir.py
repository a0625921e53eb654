"""What was delivered into a Maildir."""
import collections
import hashlib
import os
import re
import urllib.parse

NAME = re.compile(r"^(\d+)\.([0-9a-f]{24})\.mailpolld,S=(\d+)(:2,[A-Z]*)?$")


def key_digest(mailbox_id, folder, uidvalidity, uid):
    key = urllib.parse.quote("%s/%s/%d/%d" % (mailbox_id, folder, uidvalidity, uid), safe="@._+-")
    key = key.replace("~", "%7E")
    return hashlib.sha256(key.encode()).hexdigest()[:24]


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class Maildir:
    def __init__(self, path):
        self.path = str(path)

    def files(self, *folders):
        for sub in folders or ("new", "cur"):
            directory = os.path.join(self.path, sub)
            if os.path.isdir(directory):
                for name in sorted(os.listdir(directory)):
                    yield os.path.join(directory, name)

    def __len__(self):
        return sum(1 for _ in self.files())

    def sums(self):
        """SHA-256 of each message: how often it is there."""
        return collections.Counter(sha256_of(path) for path in self.files())

    def digests(self):
        return collections.Counter(NAME.match(os.path.basename(path)).group(2) for path in self.files())

    def tmp(self):
        return [os.path.basename(p) for p in self.files("tmp")]
