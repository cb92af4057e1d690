"""Reads messages of the WebSocket subprotocol `tickhub.v1.bin` (section 6 of ../protocol.md).

One file, no dependencies. `decode(message)` gives the events and gaps of one binary message, as
dicts with the members that JSON has, but:

- `iid` in place of `sym`: the number that `accepted` gave for the symbol;
- prices and sizes are `decimal.Decimal`, exact, without the venue's zeros at the end;
- `ts` and `rx` are integers, nanoseconds since the Unix epoch; `ts` is None where not known.

What is not known is absent, as in JSON. Text messages of the session are JSON and not for here.
"""

import struct
from decimal import Decimal

KINDS = {1: "ticker", 2: "quote", 3: "trade", 4: "book", 5: "bar", 7: "gap"}
SIDES = {0: "unknown", 1: "buy", 2: "sell"}
CAUSES = {1: "slow_consumer", 2: "upstream", 3: "hub"}
SNAPSHOT, CONTINUED = 1, 4
ABSENT, UNKNOWN = -(1 << 63), (1 << 64) - 1

# `<` is little-endian without padding. Offsets are those of the protocol page.
EVERY = struct.Struct("<HBBI")
EVENT = struct.Struct("<Qqq")
TICKER = struct.Struct("<10qbb")
QUOTE = struct.Struct("<4qbb")
TRADE = struct.Struct("<qqbbBB")
BOOK = struct.Struct("<bbHHH")
LEVEL = struct.Struct("<qq")
GAP = struct.Struct("<BBIQQQ")

TICKER_NAMES = ("last", "last_sz", "bid", "bid_sz", "ask", "ask_sz", "open", "high", "low", "vol")
QUOTE_NAMES = ("bid", "bid_sz", "ask", "ask_sz")


def decode(message):
    """The events and gaps of one binary message, in order."""
    events, at, begun = [], 0, None
    while at < len(message):
        length, kind, flags, iid = EVERY.unpack_from(message, at)
        if length < EVERY.size or at + length > len(message):
            raise ValueError(f"a record of {length} bytes at {at} in a message of {len(message)}")
        read = READERS.get(KINDS.get(kind))
        if read is None:  # a kind of a later version
            begun = None
        elif read is _gap:
            events.append({"op": "gap", "iid": iid, **_gap(message, at + 8)})
        else:
            seq, ts, rx = EVENT.unpack_from(message, at + 8)
            event = {"ch": KINDS[kind], "iid": iid, "seq": seq, "ts": None if ts == ABSENT else ts}
            if rx != ABSENT:
                event["rx"] = rx
            event.update(read(message, at + 32))
            if flags & SNAPSHOT:
                event["snap"] = True
            if begun is not None:  # the levels of a book go on
                begun["bids"] += event["bids"]
                begun["asks"] += event["asks"]
            else:
                events.append(event)
            begun = events[-1] if flags & CONTINUED else None
        at += length
    return events


def _decimal(mantissa, exponent):
    sign, digits = int(mantissa < 0), tuple(map(int, str(abs(mantissa))))
    return Decimal((sign, digits, exponent))  # exact, whatever the context


def _values(names, mantissas, price_exponent, size_exponent):
    values = {}
    for name, mantissa in zip(names, mantissas):
        if mantissa != ABSENT:
            is_size = name.endswith("_sz") or name == "vol"
            values[name] = _decimal(mantissa, size_exponent if is_size else price_exponent)
    return values


def _ticker(message, at):
    *mantissas, price_exponent, size_exponent = TICKER.unpack_from(message, at)
    return _values(TICKER_NAMES, mantissas, price_exponent, size_exponent)


def _quote(message, at):
    *mantissas, price_exponent, size_exponent = QUOTE.unpack_from(message, at)
    return _values(QUOTE_NAMES, mantissas, price_exponent, size_exponent)


def _trade(message, at):
    px, sz, price_exponent, size_exponent, side, tid_length = TRADE.unpack_from(message, at)
    trade = {"px": _decimal(px, price_exponent), "sz": _decimal(sz, size_exponent), "side": SIDES[side]}
    if tid_length:
        trade["tid"] = bytes(message[at + TRADE.size:at + TRADE.size + tid_length]).decode("ascii")
    return trade


def _book(message, at):
    price_exponent, size_exponent, depth, bids, asks = BOOK.unpack_from(message, at)
    levels = []
    for index in range(bids + asks):
        px, sz = LEVEL.unpack_from(message, at + BOOK.size + index * LEVEL.size)
        levels.append((_decimal(px, price_exponent), _decimal(sz, size_exponent)))
    return {"depth": depth, "bids": levels[:bids], "asks": levels[bids:]}


def _gap(message, at):
    channel, cause, _interval, first, last, lost = GAP.unpack_from(message, at)
    gap = {"ch": KINDS[channel], "from": first, "to": last, "cause": CAUSES[cause]}
    if lost != UNKNOWN:
        gap["lost"] = lost
    return gap


READERS = {"ticker": _ticker, "quote": _quote, "trade": _trade, "book": _book, "gap": _gap}
