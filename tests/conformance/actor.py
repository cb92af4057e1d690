"""Random sessions: everything a client may do, drawn from a seed, within a budget of events a second."""

import asyncio
import random
import time

import patterns
from model import MODES
from session import Session
from ws import Refused

CHANNELS = ("ticker", "quote", "trade", "book", "status")
BAD_NAMES = ("sim:aaa", "SIM", "SIM:", ":AAA", "SIM:A*B", "S*M:AAA", "SIM:" + "A" * 41, "SIM:A B", "**")
UNKNOWN = ("SIM:NOPE-NOPE", "NOWHERE:AAA-USD", "SIM:ZZZZ")
BAD_COMMANDS = (
    ({"op": "subscribe", "channel": "ticker", "symbols": ["*"], "mod": "latest"}, "bad_message"),
    ({"op": "subscribe", "channel": "trade", "symbols": ["*"], "mode": "latest"}, "bad_message"),
    ({"op": "subscribe", "channel": "quote", "symbols": ["*"], "mode": "every", "max_rate": 5}, "bad_message"),
    ({"op": "subscribe", "channel": "quote", "symbols": ["*"], "depth": 10}, "bad_message"),
    ({"op": "subscribe", "channel": "nothing", "symbols": ["*"]}, "unknown_channel"),
    ({"op": "subscribe", "channel": "book", "symbols": ["*"], "depth": 7}, "bad_message"),
    ({"op": "dance"}, "unknown_op"),
)


class Actor:
    """One random client over several connections."""

    def __init__(self, world, index, seed, budget, token=None, grant=None, pauses=False):
        self.world, self.index, self.budget, self.pauses = world, index, budget, pauses
        self.rng = random.Random(f"{seed}:{index}")
        self.token, self.grant = token, grant
        self.session = None
        self.remembered = {}       # (channel, depth) -> {sym: (epoch, seq)} of the last connection
        self.books = {}            # (sym, depth, seq) -> the book at that number
        self.ids = sorted(world.universe)
        self.star = self.rng.choice(("*", "*:*"))
        self.stop = None

    # -- the life of the actor ----------------------------------------------------------------------------------------
    async def run(self, until):
        self.stop = until
        rng = self.rng
        await asyncio.sleep(rng.random() * min(3.0, max(0.1, (until - time.monotonic()) / 10)))
        while time.monotonic() < until:
            if not await self._connect():
                await asyncio.sleep(0.5)
                continue
            for (channel, depth), numbers in self.remembered.items():
                await self._resume(channel, depth, numbers)
            await self._live(until)
            if time.monotonic() < until:    # the last connection stays open for the checks at the end
                self._remember()
                await self.session.close()
                await asyncio.sleep(rng.random() * 1.5)

    async def _connect(self):
        rng, report = self.rng, self.world.report
        self.session = Session(self.world, f"#{self.index}", self.token, self.grant)
        how = rng.choice(("header", "header", "query", "subprotocol", "auth", "auth"))
        url = ()
        if rng.random() < 0.15 and how != "auth":
            channels = rng.sample(("ticker", "quote", "trade"), rng.randint(1, 2))
            names = [n for n in rng.sample(self.ids, min(2, len(self.ids))) if not self.grant or self.grant.allows(n)]
            if names and all(self._cost(c, [n]) < self.budget for c in channels for n in names):
                url = (channels, names)
        try:
            await self.session.open(how, url_channels=url)
            self.session.model.books = self.books
            return True
        except Refused as refused:
            if refused.status in (429, 503):
                report.note(f"the upgrade was refused with {refused.status}", str(refused))
            else:
                report.fail("cred_good", f"credential by {how}: {refused}", self.session)
        except (OSError, asyncio.TimeoutError) as error:
            report.fail("healthy_not_closed", f"no connection (credential by {how}): {error!r}", self.session)
        return False

    async def _live(self, until):
        session, rng = self.session, self.rng
        pace = max(0.05, 2.0 / (session.model.limits.get("commands_per_second") or 100))
        actions = [(self._subscribe, 36), (self._again, 20), (self._unsubscribe, 14), (self._burst, 8), (self._ping, 6),
                   (self._bad, 4), (self._renew, 3), (self._leave, 6), (self._pause, 5 if self.pauses else 0)]
        names, weights = zip(*actions)
        while time.monotonic() < until and session.socket.alive:
            action = rng.choices(names, weights)[0]
            if await action() == "leave":
                return
            await session.settled()
            await asyncio.sleep(min(pace + rng.expovariate(1.6), max(0.0, until - time.monotonic())))
        if not session.socket.alive:
            session.judge_close()

    def _remember(self):
        """What a resume on the next connection may go on from."""
        model = self.session.model
        self.remembered, self.books = {}, {}
        for (channel, sym), s in model.streams.items():
            if channel != "status" and s.mode == "every" and s.last and not s.due and s.book_gap is None \
                    and s.origin in ("live", "snapshot", "resume"):
                epoch = model.epochs.get((channel, sym))
                self.remembered.setdefault((channel, s.depth), {})[sym] = (epoch, s.last)
                if s.book is not None:
                    self.books[sym, s.depth, s.last] = s.book

    async def _resume(self, channel, depth, numbers):
        rng = self.rng
        session = self.session
        syms = [s for s in sorted(numbers) if (channel, s) not in session.model.streams][:12]
        if not syms:
            return
        values = {s: numbers[s] for s in syms}
        way = rng.random()
        epoch = values[syms[0]][0]
        if way < 0.1:
            epoch = "no-such-epoch"
            seq = {s: n for s, (_, n) in values.items()}
        elif way < 0.2:
            seq = {s: n + 1_000_000 for s, (e, n) in values.items() if e == epoch}
        elif way < 0.4:
            seq = {s: {"epoch": e, "seq": n} for s, (e, n) in values.items()}
        else:
            seq = {s: n for s, (e, n) in values.items() if e == epoch}
        if len(seq) > 1 and rng.random() < 0.25:
            seq.pop(syms[-1], None)    # an unlisted instrument starts as if new
        msg = {"op": "subscribe", "channel": channel, "symbols": syms, "resume": {"epoch": epoch, "seq": seq}}
        if MODES[channel][0] != "every" or rng.random() < 0.3:
            msg["mode"] = "every"
        if depth is not None:
            msg["depth"] = depth
        await session.command(msg)
        if rng.random() < 0.2 and session.socket.alive and session.model.bad_count < 6:
            await session.command(dict(msg))   # now it reaches the session: bad_message

    # -- single actions -----------------------------------------------------------------------------------------------
    def _cost(self, channel, names, mode="every", rate=None):
        """Messages a second that these names would bring, from what was measured at the start."""
        cost = 0.0
        for name in names:
            flow, count = self.world.flow(channel, name)
            cost += min(flow, count * rate) if rate and mode == "latest" else flow
        return cost

    def _spent(self):
        rates, total = self.world.rates, 0.0
        for (channel, sym), s in self.session.model.streams.items():
            flow = rates.get((channel, sym), 0.0)
            total += min(flow, s.max_rate) if s.max_rate else flow
        return total

    def _names(self):
        rng = self.rng
        names = set()
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            one = rng.choice(self.ids)
            venue, _, symbol = one.partition(":")
            names.add(rng.choice((
                one, one, one, f"{venue}:{symbol[:1]}*", f"{venue}:{symbol[:2]}*", f"{venue}:{symbol[:-1]}*",
                f"*:{symbol}", f"*:{symbol[:2]}*", f"{venue}:*", self.star)))
        if rng.random() < 0.08:
            names.add(rng.choice(BAD_NAMES))
        if rng.random() < 0.08:
            names.add(rng.choice(UNKNOWN))
        return sorted(names)

    def _options(self, channel):
        rng, options = self.rng, {}
        mode = rng.choice(MODES[channel])
        if channel == "status":
            return options
        if mode != MODES[channel][0] or rng.random() < 0.3:
            options["mode"] = mode
        if mode == "latest" and rng.random() < 0.6:
            options["max_rate"] = rng.choice((1, 2, 5, 10, 25))
        if channel == "book" and rng.random() < 0.8:
            options["depth"] = rng.choice((1, 10, 10, 50, 0))
        if mode == "every" and rng.random() < 0.3:
            options["overflow"] = "gap"
        snapshot = rng.choice((None, None, True, False))
        if snapshot is not None:
            options["snapshot"] = snapshot
        return options

    def _affordable(self, names=None, channel=None):
        """A subscribe that fits the budget, or None."""
        for _ in range(8):
            c = channel or self.rng.choices(CHANNELS, (25, 25, 20, 25, 5))[0]
            n = names or self._names()
            options = self._options(c)
            mode = options.get("mode", MODES[c][0])
            if self._spent() + self._cost(c, n, mode, options.get("max_rate")) <= self.budget:
                return {"op": "subscribe", "channel": c, "symbols": n, **options}
        return None

    def _may_add(self):
        most = self.session.model.limits.get("subscriptions") or 100
        return len(self.session.model.entries) + 12 < most

    async def _subscribe(self):
        msg = self._affordable() if self._may_add() else None
        if msg:
            await self.session.command(msg, fragments=self.rng.choice((1, 1, 1, 2, 3)))
        else:
            await self._unsubscribe()

    async def _again(self):
        held = sorted(self.session.model.entries)
        if not held:
            return await self._subscribe()
        channel, name = self.rng.choice(held)
        msg = self._affordable([name], channel)
        if msg:
            await self.session.command(msg)
        return None

    def _unsubscribe_command(self):
        held = sorted(self.session.model.entries)
        rng = self.rng
        if not held or rng.random() < 0.15:
            return {"op": "unsubscribe", "channel": rng.choice(CHANNELS), "symbols": self._names()}
        channel, name = rng.choice(held)
        names = [n for c, n in held if c == channel and (n == name or rng.random() < 0.3)]
        if rng.random() < 0.1:
            names.append("SIM:NOT-HELD")
        return {"op": "unsubscribe", "channel": channel, "symbols": names}

    async def _unsubscribe(self):
        await self.session.command(self._unsubscribe_command())

    async def _burst(self):
        """Several commands without waiting for answers."""
        for _ in range(self.rng.randint(2, 4)):
            what = self.rng.random()
            if what < 0.6 and self._may_add():
                msg = self._affordable()
                if msg:
                    self.session.send(msg)
            elif what < 0.85:
                self.session.send(self._unsubscribe_command())
            else:
                self.session.send({"op": "ping"})

    async def _ping(self):
        if self.rng.random() < 0.5:
            await self.session.command({"op": "ping"}, with_id=self.rng.random() < 0.7)
            return
        payload = bytes(self.rng.randrange(256) for _ in range(self.rng.choice((0, 5, 125))))
        self.session.socket.ping(payload)
        ok = await self.session.until(lambda: payload in self.session.socket.pongs, 0) or await self._pong(payload)
        if self.session.socket.alive:
            self.world.report.check("pong", ok, lambda: f"no pong with {payload!r}", self.session)

    async def _pong(self, payload):
        end = time.monotonic() + self.world.timing.answer
        while time.monotonic() < end and self.session.socket.alive:
            if payload in self.session.socket.pongs:
                return True
            await asyncio.sleep(0.02)
        return False

    async def _bad(self):
        if self.session.model.bad_count < 6:
            msg, code = self.rng.choice(BAD_COMMANDS)
            await self.session.command(dict(msg), bad=code)

    async def _renew(self):
        await self.session.command({"op": "auth", "token": self.session.token})

    async def _leave(self):
        return "leave"

    async def _pause(self):
        """Stop reading for a few seconds: gaps are right now, silence about them is not."""
        session = self.session
        length = self.rng.uniform(0.5, 4.0)
        session.model.slack_until = time.monotonic() + length + 15
        session.socket.pause()
        await asyncio.sleep(length)
        session.socket.resume()
