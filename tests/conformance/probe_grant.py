"""Guarantee 6: sessions with a narrowed token ask for everything they must not get."""

import asyncio
import json
from urllib.parse import quote

from patterns import Grant, pick_pattern
from rest import Rest
from session import Session
from tokens import claims


def narrowed(world, mint, given=None):
    """(token, grant), or (None, None) with a note."""
    if given:
        return given, Grant(claims(given).get("symbols"))
    pattern = pick_pattern(world.universe)
    if pattern is None:
        world.report.note("no narrowed token: the hub has one instrument only")
        return None, None
    token = mint.token(symbols=pattern)
    if token is None:
        world.report.note("no narrowed token", mint.error or "")
        return None, None
    claimed = claims(token).get("symbols")
    if claimed != [pattern]:
        world.report.note("the minted token has other symbols than asked for", f"{claimed}, not {[pattern]}")
    return token, Grant(claimed or [pattern])


async def ask_for_everything(world, token, grant):
    """A session that subscribes to all there is by every name; it stays open and the model watches it."""
    session = await Session(world, "narrowed", token, grant).open()
    outside = [s for s in sorted(world.universe) if not grant.allows(s)][:3]
    inside = [s for s in sorted(world.universe) if grant.allows(s)][:2]
    venue = grant.symbols[0].partition(":")[0]
    other = sorted({o.partition(":")[2][:1] for o in outside})
    names = ["*", f"{venue}:*", "*:*", f"{venue}:NONE-SUCH", "ELSEWHERE:*", "ELSEWHERE:AAA"] + outside + inside
    names += [f"{venue}:{letter}*" for letter in other]
    quick = (session.model.limits.get("commands_per_second") or 50)
    for channel in ("ticker", "quote", "trade", "book", "status"):
        for n in (names, names[:3], outside + ["*"]):
            msg = {"op": "subscribe", "channel": channel, "symbols": n}
            if channel == "book" and n is names:
                msg["depth"] = 1
            await session.command(msg)
            await asyncio.sleep(2 / quick)
    for sym in outside[:1]:
        await session.command({"op": "subscribe", "channel": "trade", "symbols": [sym],
                               "resume": {"epoch": next(iter(session.model.epochs.values()), "e"), "seq": {sym: 1}}})
    await session.settled()
    held = {s for _, s in session.model.streams}
    world.report.check("grant_accepted", held <= {s for s in held if grant.allows(s)}, f"{held}", session)
    return session


async def rest(world, base, token, grant):
    report, client = world.report, Rest(base, token)
    listed, _ = await client.instruments(limit=7)
    report.check("grant_rest", all(grant.allows(i) for i in listed), f"grant {grant.symbols} lists {listed[:8]}")
    wanted = {i for i in world.universe if grant.allows(i)}
    report.check("grant_rest", wanted <= set(listed), f"grant {grant.symbols} misses {sorted(wanted - set(listed))[:5]}")
    for iid in [i for i in sorted(world.universe) if not grant.allows(i)][:3] + ["SIM:NONE-SUCH"]:
        answers = []
        for tail in ("", "/ticker"):
            answer = await client.call(f"/api/v1/instruments/{quote(iid, safe='')}{tail}")
            answers.append(answer.status)
            report.check("grant_rest", answer.status in (403, 404), f"{iid}{tail} outside the grant: {answer.status}")
            text = json.dumps(answer.json or {})
            report.check("grant_rest", '"iid"' not in text, f"{iid}{tail}: {text[:200]}")
    if "admin" in world.without:
        return
    admin = await client.call("/api/v1/admin/connections")
    report.check("role", admin.status == 403, f"a viewer's /admin/connections: {admin.status}")
