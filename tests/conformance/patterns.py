"""Ids, patterns, and what matches what (section 1)."""

import re

VENUE = re.compile(r"^[A-Z0-9_]{1,16}$")
SYMBOL = re.compile(r"^[A-Z0-9._=^/+-]{1,40}$")
HEAD = re.compile(r"^[A-Z0-9._=^/+-]{1,40}\*$")


def split(name):
    """(venue, symbol) of an id or pattern; None if it is malformed."""
    if name == "*":
        return "*", "*"
    venue, colon, symbol = name.partition(":")
    if not colon or not (venue == "*" or VENUE.match(venue)):
        return None
    if symbol == "*" or SYMBOL.match(symbol) or HEAD.match(symbol):
        return venue, symbol
    return None


def is_exact(name):
    return "*" not in name


def weight(pattern):
    """Bytes of a pattern, `*` counted as `*:*`."""
    return 3 if pattern == "*" else len(pattern.encode())


def _part_matches(part, value):
    if part.endswith("*"):
        return value.startswith(part[:-1])
    return part == value


_cache = {}


def matches(name, instrument):
    key = (name, instrument)
    known = _cache.get(key)
    if known is None:
        want, have = split(name), instrument.partition(":")
        known = bool(want) and (want[0] == "*" or want[0] == have[0]) and _part_matches(want[1], have[2])
        if len(_cache) < 1_000_000:
            _cache[key] = known
    return known


def _parts_meet(a, b):
    if a.endswith("*") and b.endswith("*"):
        return a[:-1].startswith(b[:-1]) or b[:-1].startswith(a[:-1])
    if a.endswith("*"):
        return b.startswith(a[:-1])
    if b.endswith("*"):
        return a.startswith(b[:-1])
    return a == b


def meet(a, b):
    """Whether two names could have an instrument in common."""
    one, two = split(a), split(b)
    return _parts_meet(one[0], two[0]) and _parts_meet(one[1], two[1])


def pick_pattern(universe):
    """A pattern that matches some instruments, but not all; None if there is none."""
    ids = sorted(universe)
    for size in (1, 2, 3, 4):
        heads = {}
        for iid in ids:
            venue, _, symbol = iid.partition(":")
            heads.setdefault(f"{venue}:{symbol[:size]}*", []).append(iid)
        fit = [p for p, found in heads.items() if len(found) < len(ids)]
        if fit:
            return max(fit, key=lambda p: (min(len(heads[p]), len(ids) - len(heads[p])), p))
    return None


class Grant:
    """The symbols a token allows: None means everything."""

    def __init__(self, symbols=None):
        self.symbols = symbols

    def allows(self, instrument):
        return self.symbols is None or any(matches(p, instrument) for p in self.symbols)

    def touches(self, name):
        return self.symbols is None or any(meet(p, name) for p in self.symbols)
