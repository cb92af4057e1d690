"""Deterministic checks of commands: malformed ones, error codes, limits, renewal (sections 3 and 5)."""

import asyncio
import json
import time

from patterns import Grant, matches, pick_pattern
from session import Session
from tokens import claims
from ws import Socket

SUB = {"op": "subscribe", "channel": "ticker", "symbols": ["SIM:NONE-SUCH"]}


def _with(**members):
    return {**SUB, **members}


# (what is sent: text or an object without id, the code that must come back)
MALFORMED = [
    ("{", "bad_message"), ("[]", "bad_message"), ('"ping"', "bad_message"), ("17", "bad_message"), ("", "bad_message"),
    ("null", "bad_message"), ({}, "bad_message"), ({"op": 5}, "bad_message"), ({"op": None}, "bad_message"),
    ({"op": "Subscribe"}, "unknown_op"), ({"op": "publish", "x": 1}, "unknown_op"),
    ({"op": "ping", "extra": 1}, "bad_message"), ({"op": "ping", "symbols": ["*"]}, "bad_message"),
    ({"op": "auth"}, "bad_message"), ({"op": "auth", "token": 7}, "bad_message"),
    ({"op": "auth", "token": "x", "user": "y"}, "bad_message"),
    ({"op": "subscribe", "symbols": ["*"]}, "bad_message"), ({"op": "subscribe", "channel": "ticker"}, "bad_message"),
    (_with(channel=3), "bad_message"), (_with(channel=["ticker"]), "bad_message"),
    (_with(channel="tickers"), "unknown_channel"), (_with(channel="Ticker"), "unknown_channel"),
    (_with(channel=""), "unknown_channel"), (_with(symbols="*"), "bad_message"), (_with(symbols=[1]), "bad_message"),
    (_with(symbols=[["*"]]), "bad_message"), (_with(symbols={"a": 1}), "bad_message"), (_with(symbol=["*"]), "bad_message"),
    (_with(mode="fast"), "bad_message"), (_with(mode=1), "bad_message"), (_with(mode="Latest"), "bad_message"),
    (_with(max_rate="10"), "bad_message"), (_with(max_rate=-1), "bad_message"), (_with(max_rate=0), "bad_message"),
    (_with(max_rate=[1]), "bad_message"), (_with(mode="every", max_rate=10), "bad_message"),
    (_with(depth=10), "bad_message"), (_with(channel="trade", depth=1), "bad_message"),
    (_with(channel="trade", max_rate=1), "bad_message"), (_with(channel="trade", mode="latest"), "bad_message"),
    (_with(channel="status", mode="latest"), "bad_message"), (_with(channel="status", max_rate=1), "bad_message"),
    (_with(channel="status", depth=1), "bad_message"),
    (_with(channel="book", depth=5), "bad_message"), (_with(channel="book", depth="10"), "bad_message"),
    (_with(channel="book", depth=-1), "bad_message"), (_with(channel="book", max_rate=5), "bad_message"),
    (_with(channel="book", mode="latest", overflow="gap"), "bad_message"),
    (_with(snapshot="yes"), "bad_message"), (_with(snapshot=1), "bad_message"),
    (_with(overflow="gap"), "bad_message"), (_with(mode="every", overflow="drop"), "bad_message"),
    (_with(mode="every", overflow=True), "bad_message"), (_with(backlog=5), "bad_message"),
    (_with(mode="every", backlog=0), "bad_message"), (_with(mode="every", backlog="5"), "bad_message"),
    (_with(channel="status", mode="every", backlog=5), "bad_message"),
    (_with(resume={"epoch": "e", "seq": {}}), "bad_message"),
    (_with(mode="every", resume=5), "bad_message"), (_with(mode="every", resume={"seq": 5}), "bad_message"),
    (_with(mode="every", resume={"epoch": 1, "seq": {}}), "bad_message"),
    (_with(mode="every", resume={"epoch": "e", "seq": {"SIM:A": "5"}}), "bad_message"),
    (_with(mode="every", resume={"epoch": "e", "seq": {"SIM:A": -5}}), "bad_message"),
    (_with(mode="every", resume={"epoch": "e", "seq": {}, "more": 1}), "bad_message"),
    (_with(delivery="datagram", mode="every"), "bad_message"),
    ({"op": "unsubscribe", "channel": "ticker"}, "bad_message"),
    ({"op": "unsubscribe", "symbols": ["*"]}, "bad_message"),
    ({"op": "unsubscribe", "channel": "ticker", "symbols": ["*"], "mode": "latest"}, "bad_message"),
    ({"op": "unsubscribe", "channel": "tickers", "symbols": ["*"]}, "unknown_channel"),
    ({"op": "ping", "id": 1.5}, "bad_message"), ({"op": "ping", "id": True}, "bad_message"),
    ({"op": "ping", "id": [1]}, "bad_message"), ({"op": "ping", "id": {"a": 1}}, "bad_message"),
    ({"op": "ping", "id": "x" * 65}, "bad_message"), ({"op": "ping", "id": "é" * 33}, "bad_message"),
]
# these are said by the protocol to be right, so they must not be refused as malformed
WELL_FORMED = [
    ({"op": "ping", "id": "x" * 64}, "pong"), ({"op": "ping", "id": 0}, "pong"), ({"op": "ping", "id": -7}, "pong"),
    ({"op": "ping", "id": ""}, "pong"), ({"op": "ping"}, "pong"),
    (_with(channel="trade", mode="every"), "subscribed"), (_with(channel="trade", snapshot=False), "subscribed"),
    (_with(channel="trade", overflow="disconnect"), "subscribed"), (_with(channel="book", depth=0), "subscribed"),
    (_with(channel="book", mode="latest", max_rate=3, depth=50), "subscribed"),
    (_with(channel="book", overflow="gap"), "subscribed"), (_with(mode="every", backlog=5), "subscribed"), (_with(mode="every", overflow="gap"), "subscribed"),
    (_with(channel="status"), "subscribed"), (_with(max_rate=1), "subscribed"),
    (_with(channel="trade", resume={"epoch": "e", "seq": {}}), "subscribed"),
    ({"op": "unsubscribe", "channel": "quote", "symbols": ["SIM:NONE-SUCH", "*"]}, "unsubscribed"),
    ({"op": " ping".strip(), "id": 9007199254740991}, "pong"),
]
BAD_SYMBOLS = ["sim:aaa-usd", "SIM", "SIM:", ":AAA-USD", "SIM:A*B", "S*:AAA", "SIM:**", "SIM:" + "A" * 41,
               "V" * 17 + ":AAA", "SIM:A B", "SIM:A:B", "", "SIM-:AAA", "SIM:é"]


class Raw:
    """A session seen message by message, without a model: for commands that no model should have to follow."""

    def __init__(self, world, label, token=None):
        self.session = Session(world, label, token, exempt=True)
        self.world = world
        self.controls = []

    async def open(self, **how):
        keep = self

        def receive(raw, is_text):
            keep.session.tail.append((time.monotonic(), "<", raw))
            try:
                msg = json.loads(raw)
            except ValueError:
                return
            if msg.get("op") != "gap" and "op" in msg:
                keep.controls.append(msg)
        self.session._receive = receive
        how.setdefault("how", "header")
        wait = how["how"] in ("header", "query", "subprotocol")
        credential = how.pop("how")
        world = self.world
        self.session.model = None
        headers = [("Authorization", f"Bearer {self.session.token}")] if credential == "header" else []
        self.session.socket = await Socket.connect(world.ws_url, headers, (), receive, **how)
        if wait:
            await self.wait_for(lambda m: m.get("op") == "welcome")
        return self

    @property
    def socket(self):
        return self.session.socket

    async def wait_for(self, wanted, wait=None):
        """The first unread control message that is `wanted`; None if the connection ends or time runs out."""
        end = time.monotonic() + (wait or self.world.timing.answer)
        while True:
            for i, msg in enumerate(self.controls):
                if wanted(msg):
                    del self.controls[i]
                    return msg
            if time.monotonic() > end or not self.socket.alive:
                return None
            await asyncio.sleep(0.005)

    def send(self, what):
        text = what if isinstance(what, str) else json.dumps(what)
        self.session.tail.append((time.monotonic(), ">", text[:300]))
        self.socket.send_text(text)

    async def ask(self, what):
        """Send and return the next answer, whatever its id."""
        self.controls.clear()
        self.send(what)
        return await self.wait_for(lambda m: m.get("op") in ("error", "ok", "pong", "subscribed", "unsubscribed"))

    async def closed(self, wait):
        await asyncio.wait([self.socket.closed], timeout=wait)
        return self.socket.close_code if self.socket.closed.done() else "open"

    async def close(self):
        await self.socket.close()


async def malformed(world):
    report = world.report
    raw, used = None, 0
    for number, (what, code) in enumerate(MALFORMED):
        if raw is None or used >= 8 or not raw.socket.alive:
            if raw:
                await raw.close()
            raw, used = await Raw(world, "malformed").open(), 0
        used += code in ("bad_message", "unknown_op")
        good_id = isinstance(what, dict) and "id" not in what and isinstance(what.get("op"), str)
        sent = {**what, "id": f"m{number}"} if good_id else what
        answer = await raw.ask(sent)
        if not report.check("answered", answer is not None, lambda: f"no answer to {sent!r}", raw.session):
            raw = None
            continue
        report.check("malformed", answer.get("op") == "error" and answer.get("code") == code,
                     lambda: f"{sent!r} must be {code}, the answer is {str(answer)[:300]}", raw.session)
        report.check("answer_shape", answer.get("op") != "error" or isinstance(answer.get("message"), str),
                     lambda: f"{answer}", raw.session)
        if good_id:
            report.check("answered", answer.get("id") == f"m{number}", lambda: f"id not echoed: {sent!r}: {answer}", raw.session)
        await asyncio.sleep(0.02)
    if raw:
        await raw.close()
    raw = await Raw(world, "well-formed").open()
    for what, kind in WELL_FORMED:
        answer = await raw.ask(what)
        report.check("malformed", answer is not None and answer.get("op") == kind,
                     lambda: f"{what!r} must be answered by {kind}, not {str(answer)[:300]}", raw.session)
        if answer and "id" in what:
            report.check("answered", answer.get("id") == what["id"] and type(answer.get("id")) is type(what["id"]),
                         lambda: f"id not echoed: {what!r}: {answer}", raw.session)
        await asyncio.sleep(0.02)
    await raw.close()


async def symbols(world):
    """Faults of single symbols, mixed with good ones."""
    report = world.report
    raw = await Raw(world, "symbols").open()
    good = sorted(world.universe)[0]
    names = [good] + BAD_SYMBOLS[:7] + ["SIM:NONE-SUCH"] + BAD_SYMBOLS[7:]
    answer = await raw.ask({"op": "subscribe", "id": 1, "channel": "trade", "symbols": names}) or {}
    rejected = {r.get("symbol"): r.get("code") for r in answer.get("rejected", [])}
    for name in BAD_SYMBOLS:
        report.check("rejected_exact", rejected.get(name) == "bad_symbol",
                     lambda: f"{name!r} must be bad_symbol, is {rejected.get(name)}", raw.session)
    allowed = world.grant is None or world.grant.allows("SIM:NONE-SUCH")
    want = "unknown_symbol" if allowed else "not_entitled"
    report.check("rejected_exact", rejected.get("SIM:NONE-SUCH") == want,
                 lambda: f"SIM:NONE-SUCH must be {want}: {rejected.get('SIM:NONE-SUCH')}", raw.session)
    accepted = [a.get("symbol") for a in answer.get("accepted", [])]
    report.check("accepted_exact", accepted == [good], lambda: f"accepted {accepted}, not [{good}]", raw.session)
    answer = await raw.ask({"op": "subscribe", "channel": "quote", "symbols": ["SIM:QQQQ*", "NOVENUE:*"]}) or {}
    report.check("answer_kind", answer.get("op") == "subscribed" and answer.get("accepted") == []
                 and not (allowed and answer.get("rejected")),
                 lambda: f"a pattern that matches nothing yet is accepted with nothing listed: {answer}", raw.session)
    answer = await raw.ask({"op": "unsubscribe", "channel": "trade", "symbols": ["*", good, "SIM:NONE-SUCH"]}) or {}
    rejected = {r.get("symbol"): r.get("code") for r in answer.get("rejected", [])}
    report.check("unsubscribed_exact", answer.get("symbols") == [good] and rejected.get("*") == "not_subscribed"
                 and rejected.get("SIM:NONE-SUCH") == "not_subscribed", lambda: f"{answer}", raw.session)
    await raw.close()


async def ten_bad(world):
    for what, kind in (("{", "bad_message"), ({"op": "nothing"}, "unknown_op")):
        raw = await Raw(world, "ten " + kind).open()
        for i in range(9):
            await raw.ask(what)
        await asyncio.sleep(0.1)
        world.report.check("ten_bad", raw.socket.alive, lambda: f"closed {raw.socket.close_code} after nine {kind}", raw.session)
        raw.send(what)
        code = await raw.closed(world.timing.answer)
        world.report.check("ten_bad", code == 4500, lambda: f"ten {kind}: {code}, not 4500", raw.session)
        await raw.close()
    raw = await Raw(world, "twelve others").open()
    for i in range(12):
        await raw.ask({"op": "subscribe", "channel": "nothing", "symbols": ["*"]})
        await raw.ask({"op": "unsubscribe", "channel": "trade", "symbols": ["SIM:NONE-SUCH"]})
        await asyncio.sleep(0.03)
    await asyncio.sleep(0.1)
    world.report.check("others_count_not", raw.socket.alive, lambda: f"unknown_channel closed it: {raw.socket.close_code}",
                       raw.session)
    await raw.close()


async def ten_rate_limited(world):
    raw = Raw(world, "flood")
    await raw.open(how="none")
    raw.send({"op": "auth", "id": 1, "token": raw.session.token})
    welcome = await raw.wait_for(lambda m: m.get("op") == "welcome") or {}
    most = welcome.get("limits", {}).get("commands_per_second")
    if not most:
        world.report.note("no limits.commands_per_second: flood not tried")
        return await raw.close()
    for _ in range(5):
        for i in range(int(most) * 2 + 20):
            raw.send({"op": "ping", "id": i})
        if await raw.closed(0.8) != "open":
            break
    limited = sum(1 for m in raw.controls if m.get("code") == "rate_limited")
    code = await raw.closed(2)
    world.report.check("ten_rate", code == 4003 and limited >= 9,
                       lambda: f"{limited} rate_limited answers, then {code} (commands_per_second {most})", raw.session)
    return await raw.close()


async def frames(world):
    """What RFC 6455 has codes for."""
    report = world.report

    async def case(name, act, codes):
        raw = await Raw(world, name).open()
        act(raw.socket, raw)
        code = await raw.closed(world.timing.answer)
        report.check("ws_frames", code in codes, lambda: f"{name}: {code}, not {codes}", raw.session)
        await raw.close()
    await case("an unmasked frame", lambda s, r: s.send_frame(1, b'{"op":"ping"}', masked=False), (1002,))
    await case("a reserved bit", lambda s, r: s.send_frame(1, b'{"op":"ping"}', rsv=0x40), (1002,))
    await case("a reserved opcode", lambda s, r: s.send_frame(3, b"x"), (1002,))
    await case("text that is no UTF-8", lambda s, r: s.send_frame(1, b'{"op":"\xff\xfe"}'), (1007,))
    await case("a ping of 126 bytes", lambda s, r: s.send_frame(9, b"x" * 126), (1002,))
    raw = await Raw(world, "a large message").open(how="none")
    raw.send({"op": "auth", "token": raw.session.token})
    welcome = await raw.wait_for(lambda m: m.get("op") == "welcome") or {}
    most = welcome.get("limits", {}).get("message_bytes") or 65536
    raw.send('{"op":"ping","id":"' + "x" * (most + 10) + '"}')
    code = await raw.closed(world.timing.answer)
    report.check("ws_frames", code == 1009, lambda: f"{most + 30} bytes, message_bytes is {most}: {code}, not 1009", raw.session)
    await raw.close()
    raw = await Raw(world, "a binary message").open()
    raw.socket.send_frame(2, b'{"op":"ping","id":1}')
    answer = await raw.wait_for(lambda m: True, 1.0)
    if raw.socket.alive and answer and answer.get("op") == "pong":
        report.check("malformed", False, "a command in a binary message is executed: commands are `always JSON text`",
                     raw.session)
    else:
        report.check("malformed", True)
    await raw.close()
    raw = await Raw(world, "fragments").open()
    payload = json.dumps({"op": "ping", "id": "frag"}).encode()
    for i in range(len(payload)):
        raw.socket.send_frame(1 if i == 0 else 0, payload[i:i + 1], fin=i == len(payload) - 1)
        if i == 3:
            raw.socket.ping(b"between")
    answer = await raw.wait_for(lambda m: m.get("id") == "frag")
    report.check("ws_frames", answer is not None and raw.socket.pongs == [b"between"],
                 lambda: f"a command in single-byte fragments with a ping between: {answer}, {raw.socket.pongs}", raw.session)
    await raw.close()
    raw = await Raw(world, "a close").open()
    await raw.socket.close(1000)
    report.check("ws_frames", raw.socket.close_code in (1000, 1005),
                 lambda: f"our close 1000 is echoed as {raw.socket.close_code}", raw.session)


async def renewal(world, mint):
    report = world.report
    raw = await Raw(world, "renewal").open()
    answer = await raw.ask({"op": "auth", "id": 5, "token": raw.session.token}) or {}
    report.check("renewal", answer.get("op") == "ok" and answer.get("id") == 5 and "token_expires" in answer,
                 lambda: f"the same token again: {answer}", raw.session)
    answer = await raw.ask({"op": "auth", "id": 6, "token": "a.b.c"}) or {}
    report.check("renewal", answer.get("op") == "error" and answer.get("id") == 6
                 and answer.get("code") in ("invalid_token", "unauthenticated"), lambda: f"a bad one: {answer}", raw.session)
    await asyncio.sleep(0.2)
    answer = await raw.ask({"op": "ping", "id": 7}) or {}
    report.check("renewal", answer.get("op") == "pong", lambda: f"the session does not go on: {answer}", raw.session)
    await raw.close()
    pattern = pick_pattern(world.universe)
    narrow = pattern and mint.token(symbols=pattern)
    if not narrow:
        report.note("renewal with a narrower or other token not tried", mint.error or "")
        return
    same = claims(narrow).get("sub") == claims(world.token).get("sub")
    ids = sorted(world.universe)
    out = [s for s in ids if not matches(pattern, s)]
    inside = [s for s in ids if matches(pattern, s)]
    wide = pattern.partition(":")[0] + ":*"
    session = await Session(world, "renewal to less").open()
    keep = (out[:1] + inside[:1]) or ids[:1]
    await session.command({"op": "subscribe", "channel": "ticker", "symbols": keep, "mode": "latest"})
    await session.command({"op": "subscribe", "channel": "trade", "symbols": [wide]})
    other = mint.token(subject="somebody-else")
    if other and claims(other).get("sub") != claims(world.token).get("sub"):
        answered = await session.command({"op": "auth", "token": other}, bad=("invalid_token", "not_entitled", "unauthenticated"))
        report.check("renewal_sub", answered and session.socket.alive, "a renewal with another sub ends the session", session)
    if not same:
        report.note("renewal to less not tried: the minted token has another sub")
        return await session.close()
    await session.command({"op": "auth", "token": narrow})
    lost = {("trade", s) for s in out if matches(wide, s)} | {("ticker", s) for s in keep if s in out}

    def told():
        return {(m.get("channel"), s) for m in session.model.taken_away for s in m.get("symbols", [])}
    await session.until(lambda: told() >= lost, world.timing.answer)
    report.check("grant_renewal", told() == lost,
                 lambda: f"taken away {sorted(told())[:6]}, should be {sorted(lost)[:6]}", session)
    session.model.grant = Grant([pattern])
    await asyncio.sleep(1.0)
    return await session.close()


async def expiry(world, mint):
    token = mint.token(ttl="6s")
    if not token:
        world.report.note("expiry (4004) not tried", mint.error or "")
        return
    left = claims(token).get("exp", 0) - time.time()
    if not 0 < left < 120:
        world.report.note("expiry (4004) not tried: the minted token lives too long", f"{left:.0f}s")
        return
    raw = await Raw(world, "expiry", token).open()
    code = await raw.closed(left + 40)
    world.report.check("expiry", code == 4004, lambda: f"token of {left:.0f}s: {code}, not 4004", raw.session)
    await raw.close()


async def quiet_close(world):
    """A session that answers no ping and sends nothing: 4002 after 45 s."""
    raw = Raw(world, "no pong")
    await raw.open(auto_pong=False)
    began = time.monotonic()
    code = await raw.closed(world.timing.heartbeat * 1.6)
    took = time.monotonic() - began
    world.report.check("heartbeat", code == 4002 and took > world.timing.heartbeat * 0.9,
                       lambda: f"no sign of life: {code} after {took:.1f}s, not 4002 after {world.timing.heartbeat:.0f}s",
                       raw.session)
    await raw.close()


async def run(world, mint):
    for part in (malformed(world), symbols(world), ten_bad(world), ten_rate_limited(world), frames(world),
                 renewal(world, mint)):
        try:
            await part
        except (OSError, asyncio.TimeoutError, ConnectionError, Exception) as error:
            world.report.fail("answered", f"{part.__name__}: {error!r}")
