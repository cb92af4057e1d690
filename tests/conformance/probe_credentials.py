"""Where a credential may stand and what a bad one does (section 2)."""

import asyncio
import time

from probe_commands import Raw
from probe_http import check_envelope
from rest import Answer
from ws import Refused, Socket

JUNK = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.AAAA"


async def _attempt(world, headers=(), subprotocols=(), query="", path=None):
    """(socket or None, refusal or None)"""
    url = world.ws_url + ("?" + query if query else "")
    try:
        return await Socket.connect(url, headers, subprotocols, path=path), None
    except Refused as refused:
        return None, refused


async def refused(world, rule, status, what, **how):
    sock, refusal = await _attempt(world, **how)
    have = refusal.status if refusal else 101
    wanted = status if isinstance(status, tuple) else (status,)
    world.report.check(rule, have in wanted, f"{what}: {have}, not {status}")
    if refusal and have in wanted:
        check_envelope(world.report, Answer(have, refusal.headers.items(), refusal.body), what)
    if sock:
        await sock.close()


async def closed(world, rule, code, what, **how):
    sock, refusal = await _attempt(world, **how)
    if refusal:
        return world.report.check(rule, False, f"{what}: refused with {refusal.status}, not closed with {code}")
    await asyncio.wait([sock.closed], timeout=1.5)
    have = sock.close_code if sock.closed.done() else "open"
    world.report.check(rule, have == code, f"{what}: {have}, not {code}")
    if how.get("subprotocols"):
        world.report.check("cred_echo", sock.subprotocol == "tickhub.v1.json", f"{what}: echoed {sock.subprotocol}")
    return await sock.close()


async def welcomed(world, rule, what, **how):
    got = []
    url = world.ws_url + ("?" + how.pop("query") if "query" in how else "")
    try:
        sock = await Socket.connect(url, how.get("headers", ()), how.get("subprotocols", ()), lambda p, t: got.append(p))
    except Refused as refusal:
        return world.report.check(rule, False, f"{what}: refused with {refusal.status}")
    end = time.monotonic() + world.timing.answer
    while not got and sock.alive and time.monotonic() < end:
        await asyncio.sleep(0.01)
    ok = bool(got) and b'"welcome"' in got[0]
    world.report.check(rule, ok, f"{what}: {got[:1] or sock.close_code}")
    await sock.close()
    return sock


def bearer(token):
    return [("Authorization", f"Bearer {token}")]


async def table(world):
    good = world.token
    await refused(world, "cred_header", 401, "a bad bearer header", headers=bearer(JUNK))
    await refused(world, "cred_header", 401, "a bearer header that is no JWT", headers=bearer("xyz"))
    await refused(world, "cred_header", 401, "a bad X-API-Key", headers=[("X-API-Key", "nobody's key")])
    await refused(world, "cred_order", 401, "bad header, good query", headers=bearer(JUNK), query=f"token={good}")
    await refused(world, "cred_order", 401, "bad header, good subprotocol", headers=bearer(JUNK),
                  subprotocols=["tickhub.v1.json", f"bearer.{good}"])
    await closed(world, "cred_order", 4501, "bad subprotocol, good query", query=f"token={good}",
                 subprotocols=["tickhub.v1.json", f"bearer.{JUNK}"])
    await refused(world, "cred_order", 401, "bad X-API-Key, good query", headers=[("X-API-Key", "x")], query=f"token={good}")
    await welcomed(world, "cred_order", "good header, bad query", headers=bearer(good), query=f"token={JUNK}")
    await welcomed(world, "cred_scheme", "Basic header, good query", headers=[("Authorization", "Basic eDp5")],
                   query=f"token={good}")
    await welcomed(world, "cred_good", "`authorization: bearer` in lower case", headers=[("authorization", f"bearer {good}")])
    await closed(world, "cred_late", 4501, "a bad token in the query", query=f"token={JUNK}")
    await closed(world, "cred_late", 4501, "a bad token in the subprotocol",
                 subprotocols=["tickhub.v1.json", f"bearer.{JUNK}"])
    await refused(world, "cred_bearer_alone", 400, "only a bearer. entry, good", subprotocols=[f"bearer.{good}"])
    await refused(world, "cred_bearer_alone", 400, "only a bearer. entry, bad", subprotocols=[f"bearer.{JUNK}"])
    sock = await welcomed(world, "cred_good", "bearer. entry first, tickhub second",
                          subprotocols=[f"bearer.{good}", "tickhub.v1.json"])
    if isinstance(sock, Socket):
        world.report.check("cred_echo", sock.subprotocol == "tickhub.v1.json", f"echoed {sock.subprotocol}")
    if "binary" in world.without:
        return
    sock = await welcomed(world, "cred_good", "offered tickhub.v1.bin", headers=bearer(good), subprotocols=["tickhub.v1.bin"])
    if isinstance(sock, Socket):
        world.report.check("cred_echo", sock.subprotocol == "tickhub.v1.bin", f"echoed {sock.subprotocol}")


async def before_auth(world):
    report = world.report
    raw = await Raw(world, "before auth").open(how="none")
    commands = [{"op": "subscribe", "channel": "ticker", "symbols": ["*"]}, {"op": "ping"},
                {"op": "unsubscribe", "channel": "ticker", "symbols": ["*"]}] * 4
    for i, command in enumerate(commands):
        answer = await raw.ask({**command, "id": i}) or {}
        report.check("cred_unauth", answer.get("code") == "unauthenticated" and answer.get("id") == i,
                     lambda: f"{command}: {answer or raw.socket.close_code}", raw.session)
        await asyncio.sleep(0.02)
    report.check("others_count_not", raw.socket.alive, lambda: f"twelve `unauthenticated` closed it: {raw.socket.close_code}",
                 raw.session)
    raw.send({"op": "auth", "id": "a", "token": raw.session.token})
    ok = await raw.wait_for(lambda m: m.get("op") == "ok")
    welcome = await raw.wait_for(lambda m: m.get("op") == "welcome")
    report.check("cred_good", bool(ok and welcome and ok.get("id") == "a"), lambda: f"auth in time: {ok}, {welcome}", raw.session)
    await raw.close()
    raw = await Raw(world, "bad first auth").open(how="none")
    raw.send({"op": "auth", "id": 1, "token": JUNK})
    answer = await raw.wait_for(lambda m: m.get("op") == "error") or {}
    code = await raw.closed(world.timing.answer)
    report.check("cred_bad_auth", answer.get("id") == 1 and answer.get("code") in ("invalid_token", "unauthenticated"),
                 lambda: f"answered with {answer}", raw.session)
    report.check("cred_bad_auth", code == 4501, lambda: f"{code}, not 4501", raw.session)


async def timeout(world):
    raw = await Raw(world, "no auth").open(how="none")
    began = time.monotonic()
    code = await raw.closed(world.timing.auth_timeout + 3)
    took = time.monotonic() - began
    ok = code == 4503 and world.timing.auth_timeout * 0.8 < took < world.timing.auth_timeout + 2
    world.report.check("cred_timeout", ok, lambda: f"{code} after {took:.2f}s", raw.session)


async def run(world):
    for part in (table(world), before_auth(world), timeout(world)):
        try:
            await part
        except Exception as error:
            world.report.fail("cred_good", f"{part.__name__}: {error!r}")
