"""One session: a connection, its model, and the last messages for a report."""

import asyncio
import json
import re
import time
from collections import deque

import patterns
from model import Model
from ws import Socket

KNOWN_CLOSES = {1000, 1001, 1002, 1003, 1007, 1009, 1011, 4001, 4002, 4003, 4004, 4005, 4006,
                4500, 4501, 4502, 4503, 4504}


SHOWN, FOCUSED, REMEMBERED = 4, 24, 500
INSTRUMENT = re.compile(r"\b[A-Z0-9_]{1,16}:[A-Z0-9._=^/+-]{2,40}")


def _shorten(raw, name):
    """At most some 300 characters, those around `name` among them."""
    at = raw.find(name) if name else -1
    if len(raw) <= 300 or at < 240:
        return raw[:300]
    return raw[:140] + " ... " + raw[at - 20:at + 140]


class World:
    """What all sessions of a run share."""

    def __init__(self, ws_url, token, oracle, report, universe, lag, timing, grant=None):
        self.ws_url, self.token, self.oracle, self.report = ws_url, token, oracle, report
        self.universe, self.lag, self.timing, self.grant = universe, lag, timing, grant
        self.without = set()       # what the hub says that it does not make: see WITHOUT in guarantees.py
        self.rates = {}            # (channel, sym) -> events a second, measured at the start
        self.models = []           # every model of every connection, for the checks at the end
        self._flows = {}

    def flow(self, channel, name):
        """(events a second, instruments) that a name would bring on a channel; (0, 0) if it is malformed."""
        key = (channel, name)
        if key not in self._flows:
            found = [] if patterns.split(name) is None else [
                rate for (c, sym), rate in self.rates.items() if c == channel and patterns.matches(name, sym)]
            self._flows[key] = (sum(found), len(found))
        return self._flows[key]


class Session:
    def __init__(self, world, label, token=None, grant=None, exempt=False):
        self.world, self.label = world, label
        self.token = token or world.token
        self.grant = grant if grant is not None else world.grant
        self.exempt = exempt
        self.tail = deque(maxlen=REMEMBERED)
        self.socket, self.model = None, None
        self.next_id = 0
        self.binary = 0
        self.waiters = deque()
        self.messages = None        # a list when somebody wants to see everything

    def context(self, text=""):
        """The last messages, and before them those that concern the instrument that `text` names."""
        now = time.monotonic()
        named = INSTRUMENT.search(text)
        lines, last = [f"session {self.label}"], len(self.tail) - SHOWN
        for i, (at, direction, raw) in enumerate(self.tail):
            raw = raw if isinstance(raw, str) else raw.decode("utf-8", "replace")
            if i >= last or direction == ">" or (named and named[0] in raw):
                lines.append(f"{at - now:+.3f}s {direction} {_shorten(raw, named and named[0])}")
        return lines[:1] + lines[1:][-FOCUSED:]

    async def open(self, how="header", path=None, url_channels=(), rcvbuf=None, auto_pong=True, subprotocols=None):
        """Connect with the token in the place `how` says: header, query, subprotocol, auth, none."""
        world = self.world
        self.model = Model(self, world.oracle, world.report, world.universe, self.grant, world.lag)
        self.model.exempt = self.exempt
        world.models.append(self.model)
        headers, protocols, url = [], list(subprotocols or []), world.ws_url
        query = []
        if how == "header":
            headers = [("Authorization", f"Bearer {self.token}")]
        elif how == "subprotocol":
            protocols = protocols or ["tickhub.v1.json"]
            protocols.append(f"bearer.{self.token}")
        elif how == "query":
            query.append(f"token={self.token}")
        if url_channels:
            channels, symbols = url_channels
            query += ["symbols=" + ",".join(s.replace("+", "%2B").replace("/", "%2F") for s in symbols),
                      "channels=" + ",".join(channels)]
            self.model.url = [(c, list(symbols)) for c in channels]
        if query:
            url += "?" + "&".join(query)
        self.socket = await Socket.connect(url, headers, protocols, self._receive, rcvbuf, auto_pong, path)
        self.opened_at = time.monotonic()
        if how == "subprotocol":
            world.report.check("cred_echo", self.socket.subprotocol == "tickhub.v1.json",
                               lambda: f"offered {protocols[0]}, echoed {self.socket.subprotocol}", self)
        elif not subprotocols:
            world.report.check("cred_echo", self.socket.subprotocol is None,
                               lambda: f"nothing was offered, echoed {self.socket.subprotocol}", self)
        if how == "auth":
            await self.command({"op": "auth", "token": self.token})
        if how != "none":
            ok = await self.until(lambda: self.model.welcome, world.timing.answer)
            world.report.check("welcome", bool(ok), lambda: f"no welcome (credential by {how}), close {self.socket.close_code}", self)
            world.report.check("cred_good", self.socket.alive, lambda: f"credential by {how} was refused", self)
        return self

    def _receive(self, raw, is_text):
        try:
            self._take(raw, is_text)
        except Exception as error:    # a message so odd that the judge stumbles is reported, not lost
            self.world.report.fail("form", f"the judge stumbled ({error!r}) over {raw[:300]!r}", self)

    def _take(self, raw, is_text):
        now = time.monotonic()
        self.tail.append((now, "<", raw))
        if self.messages is not None:
            self.messages.append(raw)
        if not is_text:
            self.binary += 1
            if self.socket is None or self.socket.subprotocol != "tickhub.v1.bin":
                self.world.report.fail("form", "a binary message in a JSON session", self)
            return
        p = self.world.oracle.read(raw, self)
        if p is None:
            return
        if p.kind == "event":
            self.model.on_event(p, now)
        elif p.kind == "status":
            self.model.on_status(p, now)
        else:
            self.model.on_control(p)
        if self.waiters:
            self._wake()

    def _wake(self):
        for waiter in list(self.waiters):
            ready, future = waiter
            if not future.done() and ready():
                future.set_result(True)

    async def until(self, ready, wait):
        """Wait until `ready()`, the end of the connection, or `wait` seconds; says whether it became true."""
        if ready():
            return True
        future = asyncio.get_running_loop().create_future()
        waiter = (ready, future)
        self.waiters.append(waiter)
        try:
            await asyncio.wait([future, self.socket.closed], timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.waiters.remove(waiter)
        return bool(ready())

    def send(self, msg, bad=None, fragments=1, with_id=True):
        """Send one command; its id is made here. `bad` is the error code that it must be answered with."""
        if with_id and "id" not in msg:
            self.next_id += 1
            msg = {"op": msg["op"], "id": self.next_id if self.next_id % 3 else f"c{self.next_id}", **msg} \
                if "op" in msg else {"id": self.next_id, **msg}
        text = json.dumps(msg)
        self.tail.append((time.monotonic(), ">", text if "token" not in msg else text[:40] + "..."))
        command = self.model.sent(msg, bad)
        self.socket.send_text(text, fragments)
        return command

    async def command(self, msg, bad=None, fragments=1, with_id=True):
        """Send one command and wait for its answer; says whether it came."""
        command = self.send(msg, bad, fragments, with_id)
        key = command.msg.get("id")
        return await self.until(lambda: self.model.pending.get(key) is not command, self.world.timing.answer)

    async def settled(self):
        """Wait until every command is answered; what is not, is a violation."""
        model, report = self.model, self.world.report
        done = await self.until(lambda: not model.pending, self.world.timing.answer)
        if not done and self.socket.alive and not self.exempt and not self.world.lag.late_since(time.monotonic() - 10):
            for command in model.pending.values():
                report.fail("answered", f"no answer in {self.world.timing.answer}s to {str(command.msg)[:200]}", self)
        model.pending.clear()
        return done

    async def close(self):
        if self.socket and self.socket.alive and not self.exempt:
            self.world.report.check("healthy_not_closed", True)
        if self.model:
            self.model.end()
        if self.socket:
            self.socket.on_message = lambda payload, is_text: None    # what comes behind our own close is not judged
            await self.socket.close()

    def judge_close(self):
        """Called when a session that behaved finds itself closed."""
        code = self.socket.close_code
        report = self.world.report
        report.check("close_code", code in KNOWN_CLOSES, lambda: f"closed with {code} {self.socket.close_reason!r}", self)
        if not self.exempt and time.monotonic() > self.model.slack_until:
            if code == 4001 and self.world.lag.late_since(time.monotonic() - 30):
                report.note("a 4001 close not judged, because the judge itself ran late")
            elif code != 1001:
                report.fail("healthy_not_closed", f"closed with {code} {self.socket.close_reason!r}, "
                            f"transport {self.socket.lost_by!r}", self)
