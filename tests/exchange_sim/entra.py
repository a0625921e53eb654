"""The token endpoint (exchange-online 2 and 3), and introspection (RFC 7662) for an IMAP server that asks about a token."""
import asyncio
import email.utils

import clock

DESCRIPTIONS = {7000215: "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value.",
                7000222: "The provided client secret keys for app are expired.", 700016: "Application was not found in the directory.",
                90002: "Tenant not found.", 900144: "The request body must contain the following parameter.", 1002012: "The provided value for scope is not valid."}


def refusal(status, error, code, headers=None):
    text = "AADSTS%d: %s\r\nTrace ID: 0000aaaa-11bb-cccc-dd33-eeeeee333333\r\nCorrelation ID: aaaa0000-bb11-2222-33cc-444444dddddd\r\n" \
           "Timestamp: 2026-01-09 02:02:12Z" % (code, DESCRIPTIONS.get(code, "Something is wrong."))
    return status, headers or {}, {"error": error, "error_description": text, "error_codes": [code], "timestamp": "2026-01-09 02:02:12Z",
                                   "trace_id": "0000aaaa-11bb-cccc-dd33-eeeeee333333", "correlation_id": "aaaa0000-bb11-2222-33cc-444444dddddd",
                                   "error_uri": "https://login.microsoftonline.com/error?code=%d" % code}


def token_answer(state, request, fail):
    """fail: what is said instead; None: what is right."""
    form, conf = request.form(), state.token_conf
    if fail and "status" in fail:
        headers = {"Retry-After": str(fail["retry_after"])} if "retry_after" in fail else {}
        if "code" in fail:
            return refusal(fail["status"], fail.get("error", "invalid_client"), fail["code"], headers)
        return fail["status"], headers, fail.get("body", "<html>Service Unavailable</html>").encode()
    for name in ("grant_type", "client_id", "client_secret", "scope"):
        if name not in form:
            return refusal(400, "invalid_request", 900144)
    if form["grant_type"] != "client_credentials":
        return refusal(400, "unsupported_grant_type", 70003)
    if form["client_id"] != state.client_id:
        return refusal(400, "unauthorized_client", 700016)
    if not form["scope"].endswith("/.default"):
        return refusal(400, "invalid_scope", 1002012)
    if form["client_secret"] != state.secret:
        return refusal(401, "invalid_client", 7000215)
    token = state.same_token() if conf.get("same_end") else state.make_token()

    def number(n):
        return str(n) if conf["strings"] else n

    life_s = round(token.expires - clock.now())
    answer = {"token_type": "Bearer", "expires_in": number(life_s), "ext_expires_in": number(life_s), "access_token": token.text}
    if "expires_in" in conf:                # what it says, whatever the token's life
        answer["expires_in"] = conf["expires_in"]
        if conf["expires_in"] is None:
            del answer["expires_in"], answer["ext_expires_in"]
    if conf["refresh_in"]:
        answer["refresh_in"] = number(conf["refresh_in"])
    return 200, {"Cache-Control": "no-store, no-cache"}, answer


def handler(state):
    async def handle(request):
        date = {"Date": email.utils.formatdate(clock.wall() + state.token_conf.get("date_offset_s", 0), usegmt=True)}
        if request.method == "POST" and request.path.endswith("/oauth2/v2.0/token"):
            state.counts["token_requests"] += 1
            state.note("token request for %s" % request.form().get("scope"))
            if state.token_conf["hang"]:
                await asyncio.sleep(3600)
            conf = state.token_conf
            fail = conf["script"].pop(0) if conf["script"] else conf["fail"]
            status, headers, body = token_answer(state, request, fail)
            if fail and "delay_s" in fail:
                await asyncio.sleep(fail["delay_s"])
            return status, {**date, **headers}, body, fail.get("how", {}) if fail else {}
        if request.method == "POST" and request.path == "/introspect":
            token = state.good_token(request.form().get("token", ""))
            return 200, date, {"active": bool(token), "client_id": "app", "username": "app",
                               **({"exp": int(clock.wall() + token.expires - clock.now())} if token else {})}
        return 404, date, b"not found"
    return handle
