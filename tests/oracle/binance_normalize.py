#!/usr/bin/env python3
"""Checks the output of `tickhub normalize` against an independent reading of the same rows.

Written from the rules of the recordings alone, with plain dictionaries and decimal.Decimal.

usage: binance_normalize.py VENUE NORMALIZE.md ROWS OUTPUT [--no-books]

Compares every trade, every quote and every final book (output made with --books). Prints what
it compared; exits 1 at the first difference.
"""

import gzip
import json
import re
import sys
import urllib.parse
import zlib
from decimal import Decimal, InvalidOperation


def lines(path):
    """The lines of a file, plain or gzip, as far as they can be read."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    opened = gzip.open(path, "rb") if packed else open(path, "rb")
    with opened as file:
        try:
            for line in file:
                yield line
        except (EOFError, OSError, zlib.error):
            return


def suffixes(docs, venue):
    """The quote assets that the documentation lists for a venue."""
    name = {"BINANCE": "binance_spot", "BINANCE_US": "binance_us"}[venue]
    text = open(docs, encoding="utf-8").read()
    return re.search(r"`%s`:\s+```\s(.*?)```" % name, text, re.S).group(1).split()


class Refused(Exception):
    pass


def number(text):
    if not isinstance(text, str) or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        raise Refused("number")
    try:
        return Decimal(text)
    except InvalidOperation:
        raise Refused("number") from None


def integer(value):
    if type(value) is not int or value < 0:
        raise Refused("integer")
    return value


def levels(value):
    out = []
    for price, size, *_ in value:
        price, size = number(price), number(size)
        if price <= 0 or size < 0:
            raise Refused("level")
        out.append((price, size))
    return out


class Book:
    def __init__(self):
        self.sides = None  # None while there is no snapshot
        self.last = None
        self.joined = False
        self.waiting = []

    def diff(self, first, last, bids, asks):
        if self.sides is None:
            if self.waiting and last <= self.waiting[-1][1]:
                return
            if self.waiting and first != self.waiting[-1][1] + 1:
                self.waiting = []
            self.waiting.append((first, last, bids, asks))
            return
        if last <= self.last:
            return
        follows = first == self.last + 1 or (not self.joined and first <= self.last + 1 <= last)
        if not follows:
            self.__init__()
            self.waiting.append((first, last, bids, asks))
            return
        self.joined = True
        self.last = last
        for side, changes in zip(self.sides, (bids, asks)):
            for price, size in changes:
                if size == 0:
                    side.pop(price, None)
                else:
                    side[price] = size
        self.check()

    def check(self):
        bids, asks = self.sides
        if bids and asks and max(bids) >= min(asks):
            self.__init__()

    def snapshot(self, last, bids, asks):
        if self.sides is not None:
            return
        kept = [diff for diff in self.waiting if diff[1] > last]
        if kept and kept[0][0] > last + 1:
            return
        self.sides = [{p: s for p, s in side if s} for side in (bids, asks)]
        self.last = last
        self.waiting = []
        self.check()
        for diff in kept:
            self.diff(*diff)


class Oracle:
    def __init__(self, venue, known_suffixes):
        self.venue = venue
        self.suffixes = known_suffixes
        self.pairs = {}
        self.ids = {}
        self.seen = []
        self.sources = {}
        self.trades = []
        self.quotes = []
        self.books = {}
        self.refused = 0

    def id(self, symbol):
        if symbol not in self.seen:
            self.seen.append(symbol)
        if symbol not in self.ids:
            fitting = [s for s in self.suffixes if symbol.endswith(s) and symbol != s]
            if symbol in self.pairs:
                text = "-".join(self.pairs[symbol])
            elif fitting:
                quote = max(fitting, key=len)
                text = symbol[: -len(quote)] + "-" + quote
            else:
                text = symbol
            text = text.upper()
            if not re.fullmatch(r"[A-Z0-9._=^/+-]{1,40}", text) or text in self.ids.values():
                text = None
            self.ids[symbol] = text
        if self.ids[symbol] is None:
            raise Refused("symbol")
        return f"{self.venue}:{self.ids[symbol]}"

    def row(self, line):
        row = json.loads(line)
        if row.get("dir", "in") != "in":
            return
        kind = row.get("kind")
        time = row.get("ts_ns")
        if kind is None:
            message = json.loads(row["raw"])
            if "stream" in message and "data" in message:
                message = message["data"]
            self.message(time, message)
        elif kind in ("http", "rest_snapshot"):
            self.rest(row.get("url"), json.loads(row["raw"]))

    def rest(self, url, body):
        if "symbols" in body:
            for entry in body["symbols"]:
                self.pairs[entry["symbol"]] = (entry["baseAsset"], entry["quoteAsset"])
            return
        query = urllib.parse.parse_qs(urllib.parse.urlparse(url or "").query)
        if "symbol" in query:
            symbol = query["symbol"][0].upper()
        elif len(self.seen) == 1:
            symbol = self.seen[0]
        else:
            raise Refused("whose snapshot?")
        snapshot = integer(body["lastUpdateId"]), levels(body["bids"]), levels(body["asks"])
        self.books.setdefault(self.id(symbol), Book()).snapshot(*snapshot)

    def message(self, rx, m):
        kind = m.get("e")
        if kind in ("trade", "aggTrade"):
            self.trade(rx, m, kind, "t" if kind == "trade" else "a")
        elif kind == "depthUpdate":
            first, last = integer(m["U"]), integer(m["u"])
            bids, asks = levels(m["b"]), levels(m["a"])
            if first > last:
                raise Refused("ids")
            self.books.setdefault(self.id(m["s"]), Book()).diff(first, last, bids, asks)
        elif kind == "bookTicker" or (kind is None and {"u", "s", "b", "B", "a", "A"} <= m.keys()):
            bid, bid_size, ask, ask_size = (number(m[k]) for k in "bBaA")
            if min(bid, bid_size, ask, ask_size) < 0 or (bid and ask and bid > ask):
                raise Refused("quote")
            quote = {"sym": self.id(m["s"]), "ts": None, "rx": rx}
            if bid:
                quote |= {"bid": bid, "bid_sz": bid_size}
            if ask:
                quote |= {"ask": ask, "ask_sz": ask_size}
            self.quotes.append(quote)
        elif "s" in m and m["s"] not in self.seen:
            self.seen.append(m["s"])

    def trade(self, rx, m, kind, id_member):
        price, size, tid = number(m["p"]), number(m["q"]), integer(m[id_member])
        if price <= 0 or size <= 0 or type(m["m"]) is not bool:
            raise Refused("trade")
        sym = self.id(m["s"])
        if self.sources.setdefault(sym, kind) != kind:
            raise Refused("the other stream")
        side = "sell" if m["m"] else "buy"
        ts = m["T"] * 1_000_000
        self.trades.append(
            {"sym": sym, "ts": ts, "rx": rx, "px": price, "sz": size, "side": side, "tid": str(tid)}
        )

    def read(self, path):
        for line in lines(path):
            if not line.strip():
                continue
            try:
                self.row(line)
            except (ValueError, KeyError, TypeError, AttributeError, Refused):
                self.refused += 1
        return self


def read_output(path):
    """Trades, quotes and the books at the end, with the numbering of every stream checked."""
    trades, quotes, books, at = [], [], {}, {}
    numbers = {"px", "sz", "bid", "bid_sz", "ask", "ask_sz"}
    for line in lines(path):
        event = json.loads(line)
        stream = event["ch"], event["sym"]
        if event.get("op") == "gap":
            assert event["from"] == event["to"] == at.get(stream, 0) + 1, line
            at[stream] = event["to"]
            if event["ch"] == "book":
                books.pop(event["sym"], None)
            continue
        seq = event.pop("seq")
        if event.pop("snap", False):
            assert seq in (at.get(stream, 0), at.get(stream, 0) + 1), line
        else:
            assert seq == at.get(stream, 0) + 1, line
        at[stream] = seq
        channel = event.pop("ch")
        if channel == "book":
            books[event["sym"]] = event, line
            continue
        event = {k: Decimal(v) if k in numbers else v for k, v in event.items()}
        for k in ("ts", "rx"):
            event[k] = int(event[k]) if event.get(k) is not None else None
        (trades if channel == "trade" else quotes).append(event)
    return trades, quotes, books


def same(what, expected, found):
    for index, (a, b) in enumerate(zip(expected, found)):
        if a != b:
            sys.exit(f"{what} {index} differs:\n expected {a}\n found    {b}")
    if len(expected) != len(found):
        sys.exit(f"{what}: expected {len(expected)}, found {len(found)}")


def main():
    venue, docs, rows, output = sys.argv[1:5]
    oracle = Oracle(venue, suffixes(docs, venue)).read(rows)
    trades, quotes, books = read_output(output)
    same("trade", oracle.trades, trades)
    same("quote", oracle.quotes, quotes)
    compared = 0
    if "--no-books" not in sys.argv:
        expected = {sym: book.sides for sym, book in oracle.books.items() if book.sides is not None}
        final = {sym: event for sym, (event, line) in books.items() if b'"snap":true' in line}
        if expected.keys() != final.keys():
            sys.exit(f"books: expected {sorted(expected)}, found {sorted(final)}")
        for sym, sides in expected.items():
            for name, side, best_first in (("bids", sides[0], True), ("asks", sides[1], False)):
                found = [(Decimal(p), Decimal(s)) for p, s in final[sym][name]]
                same(f"{sym} {name}", sorted(side.items(), reverse=best_first), found)
                compared += len(found)
    print(f"{len(trades)} trades, {len(quotes)} quotes, {compared} levels, {oracle.refused} refused: equal")


main()
