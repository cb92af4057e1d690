"""What all sessions saw, put side by side: one number of one stream is one event, and books agree.

Every message is parsed and compared once; the same bytes in another session cost a dictionary look-up.
"""

import json
import re
import time
from collections import OrderedDict, defaultdict
from decimal import Decimal
from itertools import islice

DECIMAL = re.compile(r"^-?\d+(\.\d+)?$")
NANOS = re.compile(r"^\d{18,20}$")
CACHE = 400_000
KEPT_LEVELS = 2_000_000
NUMBERS = {
    "ticker": ("last", "last_sz", "bid", "bid_sz", "ask", "ask_sz", "open", "high", "low", "vol"),
    "quote": ("bid", "bid_sz", "ask", "ask_sz"),
    "trade": ("px", "sz"),
}
DEPTHS = (0, 1, 10, 50)
STAMPS = re.compile(rb'"(ts|rx)":"[0-9]+",?')
SNAP = re.compile(rb',"snap":true|"snap":true,')


class Parsed:
    __slots__ = ("kind", "ch", "sym", "seq", "depth", "snap", "msg", "first", "raw")

    def __init__(self, kind, msg, raw):
        self.kind, self.msg, self.raw = kind, msg, raw
        self.ch, self.sym = msg.get("ch"), msg.get("sym")
        self.seq, self.depth = msg.get("seq"), msg.get("depth")
        self.snap = bool(msg.get("snap"))
        self.first = time.monotonic()


class Book:
    """An immutable book; `mark` is an order-free digest of its levels, so that equality is one comparison."""

    __slots__ = ("bids", "asks", "mark")

    def __init__(self, bids, asks, mark):
        self.bids, self.asks, self.mark = bids, asks, mark

    @classmethod
    def whole(cls, msg):
        book = cls({}, {}, 0)
        for side, levels in ((book.bids, msg["bids"]), (book.asks, msg["asks"])):
            book._put(side, levels, side is book.bids)
        return book

    def changed(self, msg):
        book = Book(dict(self.bids), dict(self.asks), self.mark)
        missing = book._put(book.bids, msg.get("bids", ()), True) + book._put(book.asks, msg.get("asks", ()), False)
        return book, missing

    def _put(self, side, levels, is_bid):
        missing = 0
        for px, sz in levels:
            px, sz = Decimal(px), Decimal(sz)
            old = side.pop(px, None)
            if old is not None:
                self.mark ^= hash((is_bid, px, old))
            elif not sz:
                missing += 1
            if sz:
                side[px] = sz
                self.mark ^= hash((is_bid, px, sz))
        return missing

    def fault(self, depth):
        """(rule, text) of what is wrong with this book by itself, or None."""
        if depth and (len(self.bids) > depth or len(self.asks) > depth):
            return "book_levels", f"{len(self.bids)} bids and {len(self.asks)} asks in a window of {depth}"
        if self.bids and self.asks and max(self.bids) >= min(self.asks):
            return "book_crossed", f"best bid {max(self.bids)} is not below best ask {min(self.asks)}"
        return None

    def difference(self, other):
        """The levels that differ, for people."""
        lines = []
        for name, mine, theirs in (("bid", self.bids, other.bids), ("ask", self.asks, other.asks)):
            for px in sorted(set(mine) | set(theirs)):
                if mine.get(px) != theirs.get(px):
                    lines.append(f"{name} {px}: {mine.get(px)} here, {theirs.get(px)} elsewhere")
        return "; ".join(lines[:4]) or "equal levels"


class Oracle:
    def __init__(self, report):
        self.report = report
        self.cache = {}
        self.live = defaultdict(dict)      # stream -> seq -> body
        self.snaps = defaultdict(dict)     # stream -> seq -> body
        self.lost = defaultdict(set)       # stream -> numbers of upstream losses
        self.newest = {}                   # stream -> (greatest seq of a real event, when first seen)
        self.marks = defaultdict(dict)     # (sym, depth) -> seq -> digest of the book
        self.recent = OrderedDict()        # (sym, depth, seq) -> book, to explain differences
        self.recent_levels = 0
        self.moments = OrderedDict()       # (sym, ts, rx) -> {depth: (seq, book)}: windows after the same change
        self.batches = OrderedDict()       # (ts, rx) -> its only instrument, or None if several share these times
        self.memo = OrderedDict()          # (book, raw delta) -> book
        self.iids, self.iid_times = {}, {}
        self.epochs = {}
        self.sessions_named = set()
        self.statuses = {}                 # (sym, state, ts) -> first arrival

    # -- messages -----------------------------------------------------------------------------------------------------
    def read(self, raw, session):
        """The parsed message; None (and a violation) if it is not JSON."""
        known = self.cache.get(raw)
        if known is not None:
            return known
        try:
            msg = json.loads(raw)
            if not isinstance(msg, dict):
                raise ValueError("not an object")
        except ValueError as error:
            self.report.fail("form", f"a message that is no JSON object ({error}): {raw[:200]!r}", session)
            return None
        if "op" in msg:
            return Parsed(msg["op"], msg, raw)
        if msg.get("ch") == "status":
            return Parsed("status", msg, raw)
        parsed = Parsed("event", msg, raw)
        if not self._well_formed(parsed, session):
            return None
        self._compare(parsed, session)
        if len(self.cache) >= CACHE:
            for key in list(islice(self.cache, CACHE // 4)):
                del self.cache[key]
        self.cache[raw] = parsed
        return parsed

    def _well_formed(self, p, session):
        msg, report = p.msg, self.report
        shown = lambda: p.raw[:300].decode("utf-8", "replace")
        ok = isinstance(p.ch, str) and isinstance(p.sym, str) and type(p.seq) is int and p.seq >= 1
        if not report.check("form", ok, shown, session):
            return False
        times = [msg.get("rx")] + ([msg["ts"]] if msg.get("ts") is not None else [])
        ok = "ts" in msg and all(isinstance(t, str) and NANOS.match(t) for t in times)
        report.check("time_form", ok, shown, session)
        if "snap" in msg:
            report.check("form", msg["snap"] is True, shown, session)
        if p.ch == "book":
            return self._book_formed(p, session, shown)
        values = [msg[name] for name in NUMBERS.get(p.ch, ()) if name in msg]
        report.check("decimal", all(isinstance(v, str) and DECIMAL.match(v) for v in values), shown, session)
        if p.ch == "trade":
            ok = msg.get("side") in ("buy", "sell", "unknown") and "px" in msg and "sz" in msg
            report.check("form", ok, shown, session)
        return True

    def _book_formed(self, p, session, shown):
        sides = [p.msg.get("bids", []), p.msg.get("asks", [])]
        ok = p.depth in DEPTHS and all(isinstance(s, list) for s in sides)
        ok = ok and all(isinstance(l, list) and len(l) == 2 for s in sides for l in s)
        if p.snap:
            ok = ok and "bids" in p.msg and "asks" in p.msg
        if not self.report.check("form", ok, shown, session):
            return False
        good = all(isinstance(v, str) and DECIMAL.match(v) for s in sides for l in s for v in l)
        if not self.report.check("decimal", good, shown, session):
            return False
        if p.snap:
            bids, asks = ([Decimal(l[0]) for l in s] for s in sides)
            if bids != sorted(bids, reverse=True) or asks != sorted(asks):
                self.report.note("levels of a snapshot are not sorted best first", shown())
        return True

    def _compare(self, p, session):
        stream = (p.sym, p.ch, p.depth)
        body = SNAP.sub(b"", p.raw) if p.snap else p.raw
        tables = [self.snaps] if p.snap and p.ch == "book" else [self.live] if p.ch == "book" else [self.live, self.snaps]
        for table in tables:
            other = table[stream].get(p.seq)
            if other is None:
                continue
            same, rule = other == body, "same_everywhere"
            if not same and p.ch == "book" and STAMPS.sub(b"", other) == STAMPS.sub(b"", body):
                rule = "same_stamps"
            self.report.check(
                rule, same,
                lambda: f"{stream} number {p.seq}: {body[:400]!r} here, {other[:400]!r} elsewhere", session)
            break
        (self.snaps if p.snap else self.live)[stream].setdefault(p.seq, body)
        if not p.snap:
            clash = p.seq in self.lost[stream]
            self.report.check("gap_upstream", not clash, lambda: f"{stream}: {p.seq} is an event here and an upstream "
                              "loss elsewhere", session)
        if (not p.snap or p.ch == "book") and p.seq > self.newest.get(stream, (0, 0))[0]:
            self.newest[stream] = (p.seq, p.first)

    def upstream_loss(self, stream, number, session):
        self.lost[stream].add(number)
        self.report.check("gap_upstream", number not in self.live[stream],
                          lambda: f"{stream}: {number} is an upstream loss here and an event elsewhere", session)

    def had_value(self, stream, upto):
        """Whether some session saw a value of the stream with a number of at most `upto`."""
        return any(n <= upto for table in (self.live, self.snaps) for n in table[stream])

    # -- books --------------------------------------------------------------------------------------------------------
    def whole_book(self, p, session):
        return self._judge(p, ("whole", p.raw), lambda: (Book.whole(p.msg), 0), session)

    def changed_book(self, book, p, session):
        return self._judge(p, (id(book), p.raw), lambda: book.changed(p.msg), session, book)

    def _judge(self, p, key, make, session, base=None):
        known = self.memo.get(key)
        if known is not None:
            return known[0]
        book, missing = make()
        if missing:
            self.report.note("a book change removes a level that the window does not hold", p.raw[:200].decode())
        fault = book.fault(p.depth)
        self.report.counts["book_levels"] += 1
        self.report.counts["book_crossed"] += 1
        if fault:
            self.report.fail(fault[0], f"{p.sym} depth {p.depth} number {p.seq}: {fault[1]}", session)
        stream = (p.sym, p.depth)
        mark = self.marks[stream].setdefault(p.seq, book.mark)
        where = (*stream, p.seq)
        other = self.recent.get(where)
        self.report.check("book_equal", mark == book.mark,
                          lambda: f"{p.sym} depth {p.depth} number {p.seq}: "
                          + (book.difference(other) if other else "another book than a session had at this number"), session)
        if other is None:
            self.recent[where] = book
            self.recent_levels += len(book.bids) + len(book.asks)
            while self.recent_levels > KEPT_LEVELS:
                _, old = self.recent.popitem(last=False)
                self.recent_levels -= len(old.bids) + len(old.asks)
            self._moment(p, book)
        elif other.mark == book.mark:
            book = other                # sessions with the same book go on together
        self.memo[key] = (book, base)   # the base is kept alive, so that its id is not given to another book
        if len(self.memo) > 20_000:
            self.memo.popitem(last=False)
        return book

    def _moment(self, p, book):
        """Windows of several depths after one change of the venue are compared once no more of them can come."""
        moment = self.moments.setdefault((p.sym, p.msg["ts"], p.msg["rx"]), {})
        if p.depth in moment and moment[p.depth][0] != p.seq:
            moment["several"] = True     # one message of the venue made several changes: not comparable
        moment[p.depth] = (p.seq, book)
        times = (p.msg["ts"], p.msg["rx"])
        if self.batches.setdefault(times, p.sym) != p.sym:
            self.batches[times] = None   # a batch: several changes of one instrument may share these times
        if len(self.batches) > 8000:
            self.batches.popitem(last=False)
        while len(self.moments) > 4000:
            self._compare_depths(*self.moments.popitem(last=False))

    def finish(self):
        while self.moments:
            self._compare_depths(*self.moments.popitem(last=False))

    def _compare_depths(self, where, moment):
        if "several" in moment or len(moment) < 2 or self.batches.get(where[1:], where[0]) != where[0]:
            return
        depths = sorted(moment, key=lambda d: d or 1 << 30)
        for small, large in zip(depths, depths[1:]):
            (n, narrow), (m, wide) = moment[small], moment[large]
            bids = dict(sorted(wide.bids.items(), reverse=True)[:small])
            asks = dict(sorted(wide.asks.items())[:small])
            self.report.check("book_depths", (bids, asks) == (narrow.bids, narrow.asks),
                              lambda: f"{where}: depth {small} number {n} against the top of depth {large} number {m}: "
                              + narrow.difference(Book(bids, asks, 0)))

    # -- other facts that must agree -----------------------------------------------------------------------------------
    def iid(self, sym, iid, session):
        known = self.iids.setdefault(sym, iid)
        self.iid_times.setdefault(sym, time.monotonic())
        self.report.check("iid_stable", known == iid, lambda: f"{sym} has iid {iid} here, {known} elsewhere", session)

    def settled_ids(self, now):
        """Instruments that some session was told of more than two seconds ago: every answer must know them."""
        return [sym for sym, since in self.iid_times.items() if since < now - 2]

    def epoch(self, sym, epoch):
        """A feed whose epoch changes numbers anew: what was remembered of its streams is forgotten."""
        venue = sym.partition(":")[0]
        if self.epochs.get(venue, epoch) != epoch:
            for table in (self.live, self.snaps, self.lost, self.newest, self.marks):
                for stream in [s for s in table if s[0].startswith(venue + ":")]:
                    del table[stream]
            self.recent.clear()
            self.recent_levels = 0
        self.epochs[venue] = epoch
