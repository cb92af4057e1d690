"""The market of the fake hub: streams with numbers, values, history, books, and now and then an upstream loss."""

import json
import random
import time
from collections import deque

IDS = ["SIM:AAA-USD", "SIM:AAB-USD", "SIM:ABC-USD", "SIM:BBB-USD", "SIM:BCD-USD-PERP", "SIM:CCC/X", "OTH:AAA-USD", "OTH:ZZZ"]
HELD = 150


def now_ns():
    return str(time.time_ns())


def encode(event, snap=False):
    head = {"ch": event["ch"], "sym": event["sym"]}
    if "depth" in event:
        head["depth"] = event["depth"]
    head.update(seq=event["seq"], ts=event["ts"], rx=event["rx"])
    if snap:
        head["snap"] = True
    head.update((k, v) for k, v in event.items() if k not in head)
    return json.dumps(head, separators=(",", ":")).encode()


class Stream:
    def __init__(self, sym, channel, depth=None):
        self.sym, self.channel, self.depth = sym, channel, depth
        self.seq, self.value = 0, None
        self.history = deque(maxlen=HELD)     # (seq, raw event or gap, is_gap)
        self.users = 0

    def snapshot(self):
        return None if self.value is None else encode({**self.value, "seq": self.seq}, snap=True)


class Market:
    def __init__(self, breaks, deliver, seed=1):
        self.breaks, self.deliver = breaks, deliver
        self.rng = random.Random(seed)
        self.iids = {s: i + 1 for i, s in enumerate(IDS)}
        self.streams = {}
        self.books = {s: ({}, {}) for s in IDS}
        self.mid = {s: 10_000 + 100 * i for i, s in enumerate(IDS)}
        self.times = dict.fromkeys(IDS, now_ns())
        self.states = {"SIM": "live", "OTH": "stale"}
        self.state_times = {"SIM": now_ns(), "OTH": now_ns()}
        self.epoch = {"SIM": "e-sim", "OTH": "e-oth"}
        for sym in IDS:
            self._fill(sym)

    def stream(self, sym, channel, depth=None):
        key = (sym, channel, depth)
        if key not in self.streams:
            self.streams[key] = Stream(*key)
        return self.streams[key]

    # -- books --------------------------------------------------------------------------------------------------------
    def _fill(self, sym):
        bids, asks = self.books[sym]
        for side, sign in ((bids, -1), (asks, 1)):
            while len(side) < 55:
                px = self.mid[sym] + sign * self.rng.randint(1, 120)
                side[px] = self.rng.randint(1, 99)

    def window(self, sym, depth):
        bids, asks = self.books[sym]
        n = depth or None
        if "book_too_deep" in self.breaks and depth == 10:
            n = 11
        return dict(sorted(bids.items(), reverse=True)[:n]), dict(sorted(asks.items())[:n])

    def book_value(self, sym, depth, seq):
        bids, asks = self.window(sym, depth)
        now = self.times[sym]
        if "depths_differ" in self.breaks and depth == 1:
            bids, asks = ({p: z + 1 for p, z in side.items()} for side in (bids, asks))
        return {"ch": "book", "sym": sym, "depth": depth, "seq": seq, "ts": now, "rx": now,
                "bids": [[f"{p / 100:.2f}", str(z)] for p, z in bids.items()],
                "asks": [[f"{p / 100:.2f}", str(z)] for p, z in asks.items()]}

    def use_depth(self, sym, depth):
        """Coming into use takes one number, which the snapshot then sent carries."""
        stream = self.stream(sym, "book", depth)
        stream.users += 1
        if stream.users == 1:
            stream.seq += 1
            stream.value = self.book_value(sym, depth, stream.seq)
            stream.history.clear()
        return stream

    def leave_depth(self, sym, depth):
        self.stream(sym, "book", depth).users -= 1

    def move_book(self, sym):
        depths = [d for d in (0, 1, 10, 50) if self.stream(sym, "book", d).users > 0]
        before = {d: self.window(sym, d) for d in depths}
        self.times[sym] = now_ns()
        bids, asks = self.books[sym]
        for side in (bids, asks):
            for _ in range(self.rng.randint(0, 2)):
                px = self.rng.choice(sorted(side)[:20] if side is asks else sorted(side)[-20:])
                if self.rng.random() < 0.4 and len(side) > 40:
                    del side[px]
                else:
                    side[px] = self.rng.randint(1, 99)
        self._fill(sym)
        for depth in depths:
            self._publish_window(sym, depth, before[depth], self.window(sym, depth))

    def _publish_window(self, sym, depth, old, new):
        changes = []
        for was, now in zip(old, new):
            more = "depths_differ" in self.breaks and depth == 1
            side = [[f"{p / 100:.2f}", str(z + more)] for p, z in now.items() if was.get(p) != z]
            if "book_lost_level" in self.breaks:
                side = [[f"{p / 100:.2f}", str(z)] for p, z in now.items() if p in was and was[p] != z]
            side += [[f"{p / 100:.2f}", "0"] for p in was if p not in now]
            changes.append(side)
        if not any(changes):
            return
        stream = self.stream(sym, "book", depth)
        stream.seq += 1
        stream.value = self.book_value(sym, depth, stream.seq)
        event = {**stream.value, "bids": changes[0], "asks": changes[1]}
        if "book_crossed" in self.breaks and self.rng.random() < 0.05:
            event["bids"] = changes[0] + [["999999.00", "1"]]
        raw = encode(event)
        stream.history.append((stream.seq, raw, False))
        self.deliver(stream, raw, False)

    # -- other streams ------------------------------------------------------------------------------------------------
    def publish(self, sym, channel, members):
        stream = self.stream(sym, channel)
        stream.seq += 1
        now = now_ns()
        stream.value = {"ch": channel, "sym": sym, "seq": stream.seq, "ts": now, "rx": now, **members}
        raw = encode(stream.value)
        stream.history.append((stream.seq, raw, False))
        self.deliver(stream, raw, False)

    def lose(self, sym, channel, depth=None):
        """An upstream loss: one number of its own; a book is whole again at once, at the same number."""
        stream = self.stream(sym, channel, depth)
        stream.seq += 1
        first = stream.seq + ("gap_wrong" in self.breaks)
        gap = {"op": "gap", "ch": channel, "sym": sym, "from": first, "to": first, "cause": "upstream", "lost": 3}
        raw = json.dumps(gap, separators=(",", ":")).encode()
        stream.history.append((stream.seq, raw, True))
        if channel == "book":
            stream.value = self.book_value(sym, depth, stream.seq)
        self.deliver(stream, raw, True)

    def step(self, sym):
        rng = self.rng
        what = rng.random()
        price = f"{self.mid[sym] / 100 + rng.randint(-50, 50) / 100:.2f}"
        if "decimals" in self.breaks and what < 0.1:
            price = "1e4"
        if what < 0.4:
            quote = {"bid": price, "bid_sz": "5", "ask": "999.00", "ask_sz": "6.10"}
            self.publish(sym, "quote", quote)
            self.publish(sym, "ticker", {"last": price, **quote})
        elif what < 0.6:
            self.publish(sym, "trade", {"px": price, "sz": "1", "side": rng.choice(("buy", "sell")), "tid": str(rng.random())})
        elif what < 0.985:
            self.move_book(sym)
        else:
            self.lose(sym, rng.choice(("quote", "trade")))
            for depth in (0, 1, 10, 50):
                if self.stream(sym, "book", depth).users > 0:
                    self.lose(sym, "book", depth)
