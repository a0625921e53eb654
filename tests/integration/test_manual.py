"""The commands that the manual gives do what it says."""
import base64
import json
import os
import re
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
M = "support@contoso.example"


def commands(page, first, last):
    """What a reader would paste: the lines of a rendered page from one to another."""
    shown = subprocess.run(["mandoc", "-Tutf8", "-Owidth=200", os.path.join(HERE, "..", "..", "man", page)], capture_output=True, text=True, check=True).stdout
    lines = [line.strip() for line in re.sub(".\b", "", shown).splitlines()]
    begin = next(i for i, line in enumerate(lines) if line.startswith(first))
    end = next(i for i, line in enumerate(lines) if i >= begin and line.startswith(last))
    return "\n".join(lines[begin:end + 1])


def test_token_by_hand(simulator, tmp_path):
    """mailpolld-exchange-setup(7), steps 2 and 5"""
    simulator.mailbox(M)
    secret = tmp_path / "secret"
    secret.write_text(simulator.secret + "\n")
    ask = commands("mailpolld-exchange-setup.7", "APPID=05cd6963", "grep -o")
    login = commands("mailpolld-exchange-setup.7", "SASL=", "base64 -w0)")
    script = ask + "\necho ---\n" + login + "\necho $SASL"
    for manual, here in (("/etc/mailpolld/secrets/contoso", str(secret)), ("https://login.microsoftonline.com/$TENANT/oauth2/v2.0/token", simulator.token_url),
                         ("support@contoso.com", M)):
        assert manual in script
        script = script.replace(manual, here)
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60, env={**os.environ, "CURL_CA_BUNDLE": simulator.ca_file})
    shown, response = done.stdout.split("---\n")
    assert done.returncode == 0 and sorted(shown.splitlines()) == ['"oid": "0a1b2c3d-0000-0000-0000-0000000000ff"', '"roles": ["IMAP.AccessAsApp"]'], done
    user, bearer = base64.b64decode(response).decode().split("\x01")[:2]
    assert user == "user=" + M and bearer.startswith("auth=Bearer eyJ")
    assert json.loads(base64.urlsafe_b64decode(bearer.split(".")[1] + "=="))["appid"] == simulator.client_id
