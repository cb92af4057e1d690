#!/usr/bin/env python3
"""A hub small enough to be seen through, for testing the judge. It can break each promise on order.

`fake_hub.py serve --ready-file F [--break NAME,...]` serves until interrupted;
`fake_hub.py token --role viewer [--symbols P] [--ttl 1h]` prints a token, as the real program does.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import struct
import time
from urllib.parse import parse_qs, unquote, urlsplit

import patterns
from fake_market import Market, now_ns
from fake_session import FakeSession
from tokens import claims
from ws import GUID, mask_bytes

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def make_token(symbols=None, seconds=3600, subject="someone", **limits):
    body = {"sub": subject, "role": "viewer", "exp": int(time.time() + seconds), "iat": int(time.time())}
    body.update((name, value) for name, value in limits.items() if value is not None)
    if symbols:
        body["symbols"] = symbols
    text = base64.urlsafe_b64encode(json.dumps(body).encode()).rstrip(b"=").decode()
    return f"eyJmYWtlIjoxfQ.{text}.Z29vZA"


class Hub:
    def __init__(self, breaks=(), timing=None):
        self.breaks, self.timing = set(breaks), timing
        self.sessions, self.subscribers = set(), {}
        self.market = Market(self.breaks, self.deliver)
        self.requests = 0
        self.blocked_until = 0.0

    def good(self, token):
        return token.endswith(".Z29vZA") and claims(token).get("exp", 0) > time.time()

    def deliver(self, stream, raw, is_gap):
        for session in list(self.subscribers.get((stream.sym, stream.channel, stream.depth), ())):
            session.deliver(stream, raw, is_gap)

    # -- the turning wheels -------------------------------------------------------------------------------------------
    async def run_market(self):
        rng, turn = self.market.rng, 0
        while True:
            await asyncio.sleep(0.01)
            turn += 1
            for sym in self.market.iids:
                if rng.random() < 0.35:
                    self.market.step(sym)
            now = time.monotonic()
            for session in sorted(self.sessions, key=lambda s: s.number):
                if "one_stands" in self.breaks and session.number % 3 == 0 and now - session.began < 12:
                    continue
                session.flush(now)
                self._watch(session, now)
            if turn % 150 == 0:
                self._change_state()

    def _change_state(self):
        market = self.market
        market.states["SIM"] = "stale" if market.states["SIM"] == "live" else "live"
        market.state_times["SIM"] = now_ns()
        for session in list(self.sessions):
            if not any(s.startswith("SIM:") for _, s in session.live):
                continue
            if "status_untold" in self.breaks and session.number % 3 == 0:
                continue
            session.tell_state("SIM")
            if "status_twice" in self.breaks:
                session.tell_state("SIM")

    def _watch(self, session, now):
        timing, transport = self.timing, session.writer.transport
        waiting = transport.get_write_buffer_size()
        if waiting and (session.stuck_since is None or waiting < session.stuck_at):
            session.stuck_since = now
        elif not waiting:
            session.stuck_since = None
        session.stuck_at = waiting
        if session.stuck_since and now - session.stuck_since > timing.stall and "stalled_kept" not in self.breaks:
            session.end()
            transport.abort()
        elif not session.authenticated and now - session.began > timing.auth_timeout and "auth_timeout" not in self.breaks:
            session.close(4503)
        elif session.authenticated and time.time() > session.expires and "expiry" not in self.breaks:
            session.close(4004)
        elif now - session.heard > timing.heartbeat and not {"heartbeat", "stalled_kept"} & self.breaks:
            session.close(4002)
        elif now - session.pinged > timing.ping and "ping" not in self.breaks:
            session.pinged = now
            session.frame(b"p", 9)
        elif "healthy_closed" in self.breaks and session.number % 7 == 0 and now - session.began > 2:
            session.close(4001)

    # -- HTTP ---------------------------------------------------------------------------------------------------------
    async def serve(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *rest = head.split("\r\n")
            method, target, _ = line.split(" ")
            headers = {k.strip().lower(): v.strip() for k, _, v in (r.partition(":") for r in rest if r)}
            path = urlsplit(target)
            if path.path == "/api/v1/ws/prices" and headers.get("upgrade", "").lower() == "websocket":
                return await self.upgrade(reader, writer, headers, parse_qs(path.query))
            self.answer(writer, *self.http(method, path, headers), headers)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def answer(self, writer, status, body, extra, headers):
        self.requests += 1
        request = headers.get("x-request-id", "")
        request = request if 0 < len(request) < 100 else f"r{self.requests}"
        if status >= 400:
            body = {"error_code": body, "message": body, "details": {}, "timestamp": "2025-01-01T00:00:00Z",
                    "request_id": request}
            if "envelope" in self.breaks:
                del body["details"]
        payload = b"" if status == 304 else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(payload)}", "Connection: close"]
        if "request_id" not in self.breaks:
            lines.append(f"X-Request-Id: {request}")
        lines += [f"{k}: {v}" for k, v in extra.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + payload)

    def http(self, method, url, headers):
        path, query = url.path, {k: v[0] for k, v in parse_qs(url.query).items()}
        if path in ("/metrics", "/livez", "/readyz", "/api/v1/health"):
            return 200, {"state": "ok"}, {}
        if path == "/api/v1/openapi.json":
            return 200, {"paths": {}}, {}
        if path == "/api/v1/ws/prices":
            return 426, "upgrade_required", {}
        if path.startswith("/api/v1/auth/"):
            return 400, "bad_request", {}
        if not path.startswith(("/api/v1/instruments", "/api/v1/admin")):
            return 404, "not_found", {}
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if not self.good(token):
            return 401, "unauthenticated", {}
        if path.startswith("/api/v1/admin"):
            return 403, "forbidden", {}
        if method != "GET":
            return 405, "method", {}
        symbols = claims(token).get("symbols") if "leak_rest" not in self.breaks else None
        seen = [s for s in self.market.iids if symbols is None or any(patterns.matches(p, s) for p in symbols)]
        if path == "/api/v1/instruments":
            return self.list(seen, query)
        return self.detail(seen, path.split("/")[4:], headers)

    def list(self, seen, query):
        try:
            limit, start = int(query.get("limit", 100)), int(query.get("cursor", 0))
        except ValueError:
            return 400, "bad_request", {}
        seen = [s for s in seen if s.startswith(query.get("venue", s[:3]) + ":")]
        seen = [s for s in seen if s.partition(":")[2].startswith(query.get("prefix", ""))]
        end = start + limit - ("paging" in self.breaks and start > 0)
        page = {"instruments": [{"id": s} for s in seen[start:end]]}
        if start + limit < len(seen):
            page["next_cursor"] = str(start + limit)
        return 200, page, {}

    def detail(self, seen, parts, headers):
        sym = unquote(parts[0])
        if sym not in seen:
            return 404, "not_found", {}
        numbers = {c: self.market.stream(sym, c).seq for c in ("ticker", "quote", "trade")}
        if len(parts) == 1:
            numbers["book"] = {str(d): self.market.stream(sym, "book", d).seq for d in (0, 1, 10, 50)}
            state = self.market.states[sym.partition(":")[0]]
            return 200, {"id": sym, "iid": self.market.iids[sym], "feed": {"state": state}, "seq": numbers}, {}
        tag = f'"{numbers["ticker"]}"'
        if headers.get("if-none-match") == tag and "etag" not in self.breaks:
            return 304, None, {"ETag": tag}
        return 200, self.market.stream(sym, "ticker").value, {"ETag": tag}

    # -- WebSocket ----------------------------------------------------------------------------------------------------
    def credential(self, headers, query):
        """(token or None, where it stood)"""
        offers = [o.strip() for o in headers.get("sec-websocket-protocol", "").split(",") if o.strip()]
        bearer = next((o[7:] for o in offers if o.startswith("bearer.")), None)
        scheme, _, value = headers.get("authorization", "").partition(" ")
        found = [(value, "header")] if scheme.lower() == "bearer" else []
        found += [(headers["x-api-key"], "header")] if "x-api-key" in headers else []
        found += [(bearer, "offer")] if bearer is not None else []
        found += [(query["token"][0], "query")] if "token" in query else []
        if "cred_order" in self.breaks:
            found.sort(key=lambda f: not self.good(f[0]))
        return (found or [(None, None)])[0], offers, bearer is not None

    async def upgrade(self, reader, writer, headers, query):
        (token, where), offers, has_bearer = self.credential(headers, query)
        ours = [o for o in offers if o.startswith("tickhub.v1.")]
        if has_bearer and not ours:
            return self.answer(writer, 400, "bad_request", {}, headers)
        if where == "header" and not self.good(token) and "cred_header" not in self.breaks:
            return self.answer(writer, 401, "unauthenticated", {}, headers)
        accept = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + GUID).digest()).decode()
        lines = ["HTTP/1.1 101 Switching", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}"]
        if ours:
            lines.append(f"Sec-WebSocket-Protocol: {offers[-1] if 'cred_echo' in self.breaks else ours[0]}")
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        session = FakeSession(self, writer, ours[:1] == ["tickhub.v1.bin"])
        session.heard = session.pinged = time.monotonic()
        self.sessions.add(session)
        if token is not None:
            if self.good(token) or where != "header" and "cred_late" in self.breaks:
                session.accept(token)
                for channel in query.get("channels", [""])[0].split(","):
                    if channel and "url" not in self.breaks:
                        names = query["symbols"][0].split(",")
                        session._subscribe({"channel": channel, "symbols": names}, {})
            else:
                session.close(4501)
        try:
            await self.read(reader, session)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        session.end()

    async def read(self, reader, session):
        parts = []
        while not session.closing:
            first, second = await reader.readexactly(2)
            length = second & 127
            if length == 126:
                length = struct.unpack(">H", await reader.readexactly(2))[0]
            elif length == 127:
                length = struct.unpack(">Q", await reader.readexactly(8))[0]
            opcode = first & 15
            if not second & 128 or first & 0x70 or opcode not in (0, 1, 2, 8, 9, 10) or opcode > 7 and length > 125:
                return session.close(1002 if "frames" not in self.breaks else 1008)
            if length > 65536:
                return session.close(1009)
            key = await reader.readexactly(4)
            payload = mask_bytes(await reader.readexactly(length), key)
            session.heard = time.monotonic()
            if opcode == 8:
                return session.frame(payload, 8)
            if opcode == 9:
                session.frame(payload if "pong" not in self.breaks else b"!", 10)
            elif opcode == 2:
                return session.close(1003)
            elif opcode < 2:
                parts.append(payload)
                if first & 128:
                    whole, parts = b"".join(parts), []
                    try:
                        session.on_text(whole.decode())
                    except UnicodeDecodeError:
                        return session.close(1007)
        return None


async def start(breaks=(), timing=None):
    """A running hub and what its ready file would say."""
    hub = Hub(breaks, timing)
    server = await asyncio.start_server(hub.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wheels = asyncio.create_task(hub.run_market())
    base = f"127.0.0.1:{port}"
    ready = {"http": f"http://{base}", "ops": f"http://{base}", "ws": f"ws://{base}/api/v1/ws/prices", "token": make_token()}
    return hub, ready, (server, wheels)


async def serve(ready_file, breaks):
    from clock import Timing
    _, ready, held = await start(breaks, Timing())
    with open(ready_file, "w") as file:
        json.dump(ready, file)
    await held[1]


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("serve")
    one.add_argument("--ready-file", required=True)
    one.add_argument("--break", dest="breaks", default="")
    two = commands.add_parser("token")
    two.add_argument("--role")
    two.add_argument("--symbols")
    two.add_argument("--ttl", default="1h")
    two.add_argument("--config")
    two.add_argument("--subject", default="someone")
    two.add_argument("--max-rate", type=int)
    two.add_argument("--depth", type=int)
    args = parser.parse_args()
    if args.command == "token":
        print(make_token(args.symbols.split(",") if args.symbols else None, int(args.ttl[:-1]) * UNITS[args.ttl[-1]],
                         args.subject, max_rate=args.max_rate, depth=args.depth))
    else:
        asyncio.run(serve(args.ready_file, [b for b in args.breaks.split(",") if b]))


if __name__ == "__main__":
    main()
