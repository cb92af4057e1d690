"""The exact model of one session: entries, the options in effect, and what each stream may send next (sections 3, 4)."""

import time

import patterns
from delivery import Delivery
from patterns import Grant

MODES = {"ticker": ("latest", "every"), "quote": ("latest", "every"), "book": ("every", "latest"),
         "trade": ("every",), "status": ("every",)}


class Command:
    """A command that was sent and not yet answered."""

    def __init__(self, msg, bad=None):
        self.msg, self.bad = msg, bad          # bad = the error code it must be answered with, whatever the state
        self.op, self.channel = msg.get("op"), msg.get("channel")
        self.sent = time.monotonic()
        self.parts = []


class Entry:
    __slots__ = ("name", "mode", "max_rate", "depth", "snapshot", "order")

    def __init__(self, name, mode, max_rate, depth, snapshot, order):
        self.name, self.mode, self.max_rate, self.depth = name, mode, max_rate, depth
        self.snapshot, self.order = snapshot, order


class Stream:
    """What reaches the session of one (channel, instrument)."""

    __slots__ = ("mode", "depth", "max_rate", "last", "due", "spare", "origin", "existing", "book", "book_gap", "change",
                 "changed_at", "since", "replay", "rate_from", "rate_count", "rate_times", "due_since", "had")

    def __init__(self, entry, last, now):
        self.set_options(entry, now)
        self.last = last              # the number accounted for up to now
        self.due = False              # a snapshot must come
        self.spare = 0                # snapshots that may come
        self.origin = "accepted"      # what `last` stands on: accepted, snapshot, resume, live
        self.existing = False         # the due snapshot was asked for on a stream that flows already
        self.book = None
        self.book_gap = None
        self.change = None            # options that a `subscribed` without id must announce first
        self.changed_at = None
        self.since = now
        self.due_since = now
        self.replay = 0               # numbers up to here are history, not news
        self.had = False              # whether anything arrived at all

    def set_options(self, entry, now):
        self.mode, self.depth, self.max_rate = entry.mode, entry.depth, entry.max_rate
        self.rate_from, self.rate_count, self.rate_times = None, 0, None


class Model(Delivery):
    """Commands and their answers; what `Delivery` checks stands on the state kept here."""

    def __init__(self, session, oracle, report, universe, grant=None, clock=None):
        self.session, self.oracle, self.report = session, oracle, report
        self.universe = universe                    # ids known to exist
        self.grant = grant or Grant()
        self.books = {}                             # (sym, depth, seq) -> book of an earlier connection, for resumes
        self.lag = clock                            # .worst: how late the judge itself runs
        self.entries = {}                           # (channel, name) -> Entry
        self.streams = {}                           # (channel, sym) -> Stream
        self.ended = {}                             # (channel, sym) -> when its coverage ended
        self.epochs = {}                            # (channel, sym) -> epoch
        self.pending = {}                           # id -> Command
        self.url = []                               # (channel, symbols) asked for by URL
        self.limits = {}
        self.welcome = None
        self.bad_count = 0
        self.order = 0
        self.exempt = False                         # this session stops reading, so gaps and delays are its own doing
        self.slack_until = 0.0
        self.taken_away = []                        # `unsubscribed` without id
        self.states = {}                            # status sym -> (state, cause), reset by each answer
        self.known_states = {}                      # status sym -> state
        self.statuses = []                          # (when, sym, state, ts)
        self.cover_open, self.cover = {}, []        # venue or id -> since; closed: (key, from, to)
        self.cover_count = {}
        self.venue_data = {}                        # venue -> when its first data came after a fresh coverage
        self.events, self.slow_gaps = 0, 0

    # -- helpers ------------------------------------------------------------------------------------------------------
    def check(self, rule, ok, detail=""):
        return self.report.check(rule, ok, detail, self.session)

    def fail(self, rule, detail):
        self.report.fail(rule, detail, self.session)

    def effective(self, channel, sym):
        exact = self.entries.get((channel, sym))
        if exact:
            return exact
        held = [e for (c, n), e in self.entries.items()
                if c == channel and not patterns.is_exact(n) and patterns.matches(n, sym)]
        return max(held, key=lambda e: (patterns.weight(e.name), e.order)) if held else None

    def _cover(self, sym, now):
        for key in (sym, sym.partition(":")[0]):
            self.cover_count[key] = self.cover_count.get(key, 0) + 1
            if self.cover_count[key] == 1:
                self.cover_open[key] = now
                self.venue_data.pop(key, None)

    def _uncover(self, sym, now):
        for key in (sym, sym.partition(":")[0]):
            self.cover_count[key] -= 1
            if not self.cover_count[key]:
                self.cover.append((key, self.cover_open.pop(key), now))

    def end(self):
        """The connection is over."""
        now = time.monotonic()
        for key, since in self.cover_open.items():
            self.cover.append((key, since, now))
        self.cover_open, self.cover_count = {}, {}

    # -- what a command must be answered with -------------------------------------------------------------------------
    def lowered(self, msg):
        """(mode, max_rate, depth) after the defaults and the grant."""
        channel = msg["channel"]
        mode = msg.get("mode", MODES[channel][0])
        rate, most = msg.get("max_rate"), self.limits.get("max_rate")
        if mode == "latest" and most:
            rate = most if rate is None else min(rate, most)
        depth = None
        if channel == "book":
            deepest = self.limits.get("depth")
            depth = msg.get("depth", 10)
            if deepest:
                allowed = [d for d in (1, 10, 50) if d <= deepest]
                depth = depth if depth in allowed else max(allowed)
        return mode, rate if mode == "latest" else None, depth

    def expected_error(self, command):
        if command.bad:
            return command.bad
        msg = command.msg
        if command.op != "subscribe":
            return None
        resume = msg.get("resume")
        if resume:
            for sym in resume["seq"]:
                if (command.channel, sym) in self.streams:
                    return "bad_message"
        mode = msg.get("mode", MODES[command.channel][0])
        if mode == "every" and self.limits.get("max_rate") and command.channel in ("ticker", "quote", "book"):
            return "not_entitled"
        return None

    def expected_rejections(self, command):
        rejected = {}
        for name in command.msg["symbols"]:
            exact = "*" not in name
            if command.op == "unsubscribe":
                if patterns.split(name) is None:
                    rejected[name] = ("bad_symbol", "not_subscribed")
                elif (command.channel, name) not in self.entries:
                    rejected[name] = ("not_subscribed", "not_entitled", "unknown_symbol")
            elif patterns.split(name) is None:
                rejected[name] = ("bad_symbol",)
            elif not (self.grant.allows(name) if exact else self.grant.touches(name)):
                rejected[name] = ("not_entitled",)
            elif exact and name not in self.universe and name not in self.oracle.iids:
                rejected[name] = ("unknown_symbol",)
        return rejected

    # -- answers ------------------------------------------------------------------------------------------------------
    def sent(self, msg, bad=None):
        self.pending[msg.get("id")] = command = Command(msg, bad)
        return command

    def on_control(self, p):
        """Everything with an `op`."""
        msg, op = p.msg, p.kind
        if op == "gap":
            self.on_gap(msg)
        elif op == "welcome":
            self._on_welcome(msg)
        elif op == "epoch":
            self._on_epoch(msg)
        elif op in ("ok", "subscribed", "unsubscribed", "pong", "error"):
            self._on_answer(msg, op)
        else:
            self.fail("answer_shape", f"an op that section 3 does not know: {p.raw[:200]!r}")

    def _on_welcome(self, msg):
        ok = (self.welcome is None and isinstance(msg.get("session"), str) and isinstance(msg.get("limits"), dict)
              and str(msg.get("server", "")).startswith("tickhub/") and "token_expires" in msg)
        self.check("welcome", ok, lambda: f"{msg}")
        names = ("message_bytes", "commands_per_second", "subscriptions", "max_rate", "depth")
        for name in names[:3]:
            self.check("welcome", isinstance(msg.get("limits", {}).get(name), int), lambda: f"limits.{name}: {msg}")
        fresh = msg.get("session") not in self.oracle.sessions_named
        self.check("welcome", fresh, lambda: f"session {msg.get('session')} was named to another session too")
        self.oracle.sessions_named.add(msg.get("session"))
        self.welcome, self.limits = msg, msg.get("limits", {})

    def _on_epoch(self, msg):
        venue = msg["sym"].partition(":")[0]
        for (channel, sym), stream in self.streams.items():
            if sym.startswith(venue + ":"):
                stream.last, stream.spare, stream.origin, stream.book = 0, 1, "snapshot", None
                self.epochs[channel, sym] = msg["epoch"]
        self.oracle.epoch(msg["sym"], msg["epoch"])

    def _on_answer(self, msg, op):
        nameless = self.pending.get(None)
        if "id" not in msg and op in ("subscribed", "unsubscribed") and (
                nameless is None or not op.startswith(nameless.op) or self.url):
            return self._on_notice(msg, op)
        command = self.pending.get(msg.get("id"))
        same = command is not None and type(command.msg.get("id")) is type(msg.get("id"))
        if not self.check("answered", same, lambda: f"an answer to no command that waits: {msg}"):
            return None
        if msg.get("more"):
            self.check("split_answer", op in ("subscribed", "unsubscribed"), lambda: f"{msg}")
            command.parts.append(msg)
            return None
        del self.pending[msg.get("id")]
        self.states = {}
        expected = self.expected_error(command)
        if op == "error":
            return self._on_error(command, msg, expected)
        kinds = {"subscribe": "subscribed", "unsubscribe": "unsubscribed", "ping": "pong", "auth": "ok"}
        if expected:
            rule = {"not_entitled": "grant_code"}.get(expected, "malformed")
            if command.op == "subscribe" and command.msg.get("resume") and not command.bad:
                rule = "resume_refused"
            self.fail(rule, f"{command.msg} must be refused with {expected}, the answer is {str(msg)[:300]}")
        if not self.check("answer_kind", kinds.get(command.op) == op, lambda: f"{command.msg} answered by {msg}"):
            return None
        if op == "subscribed":
            self._merge(command, msg, "accepted")
            self._on_subscribed(command, msg)
        elif op == "unsubscribed":
            self._merge(command, msg, "symbols")
            self._on_unsubscribed(command, msg)
        elif op == "pong":
            self.check("answer_shape", isinstance(msg.get("ts"), str) and msg["ts"].isdigit(), lambda: f"{msg}")
        else:
            self.check("answer_shape", "token_expires" in msg, lambda: f"{msg}")
        return None

    def _merge(self, command, msg, list_name):
        for name in (list_name, "rejected"):
            parts = [i for part in command.parts for i in part.get(name, [])]
            if parts:
                msg[name] = parts + msg.get(name, [])

    def _on_error(self, command, msg, expected):
        ok = isinstance(msg.get("code"), str) and isinstance(msg.get("message"), str)
        self.check("answer_shape", ok, lambda: f"{msg}")
        if msg.get("code") in ("bad_message", "unknown_op"):
            self.bad_count += 1
        if msg.get("code") == "rate_limited":
            self.report.note("a random session was rate_limited", str(msg)[:200])
            return
        rule = "malformed" if command.bad else "error_code"
        if command.op == "subscribe" and command.msg.get("resume") and expected == "bad_message" and not command.bad:
            rule = "resume_refused"
        wanted = expected if isinstance(expected, (tuple, list)) else (expected,)
        self.check(rule, msg.get("code") in wanted,
                   lambda: f"{command.msg} must be answered with {expected or 'no error'}, not {msg}")

    def _rejected(self, command, msg):
        """Compare `rejected` with what the rules say; return the names that are out."""
        found, wanted = {}, self.expected_rejections(command)
        for item in msg.get("rejected", []):
            ok = isinstance(item, dict) and isinstance(item.get("message"), str)
            self.check("answer_shape", ok, lambda: f"rejected: {item}")
            found[item.get("symbol")] = item.get("code")
        for name in command.msg["symbols"]:
            want, have = wanted.get(name), found.get(name)
            if have == "subscription_limit":
                continue
            rule = "grant_code" if want == ("not_entitled",) else "rejected_exact"
            self.check(rule, have in want if want else have is None,
                       lambda: f"{name} in {command.msg}: rejected with {have}, should be {want}")
        extra = set(found) - set(command.msg["symbols"])
        self.check("rejected_exact", not extra, lambda: f"rejected names {extra}, which the command did not")
        return set(found)

    def _on_subscribed(self, command, msg):
        now, channel = time.monotonic(), command.channel
        self.check("answer_shape", msg.get("channel") == channel and isinstance(msg.get("accepted"), list),
                   lambda: f"{str(msg)[:300]} to {command.msg}")
        out = self._rejected(command, msg)
        mode, rate, depth = self.lowered(command.msg)
        names = [n for n in command.msg["symbols"] if n not in out]
        if channel != "status":
            have = (msg.get("mode"), msg.get("max_rate"), msg.get("depth"))
            self.check("options_echo", have == (mode, rate, depth) or not names,
                       lambda: f"{command.msg}: (mode, max_rate, depth) are {have}, should be {(mode, rate, depth)}")
        for name in names:
            self.order += 1
            self.entries[channel, name] = Entry(name, mode, rate, depth, command.msg.get("snapshot", True), self.order)
        seen = set()
        for item in msg.get("accepted", []):
            self._accept(command, msg, item, names, seen, now)
        known = self.universe.union(self.oracle.settled_ids(now))
        matched = {s for s in known if self.grant.allows(s) and any(patterns.matches(n, s) for n in names)}
        self.check("accepted_exact", matched <= seen,
                   lambda: f"{command.msg}: accepted misses {sorted(matched - seen)[:5]}")

    def _accept(self, command, msg, item, names, seen, now):
        channel, sym = command.channel, item.get("symbol")
        ok = isinstance(sym, str) and type(item.get("iid")) is int
        ok = ok and (channel == "status" or type(item.get("seq")) is int)
        if not self.check("answer_shape", ok, lambda: f"accepted: {item}"):
            return
        self.check("accepted_exact", sym not in seen, lambda: f"{command.msg}: {sym} is accepted twice")
        seen.add(sym)
        self.oracle.iid(sym, item["iid"], self.session)
        self.check("grant_accepted", self.grant.allows(sym), lambda: f"{sym} is accepted, the grant is {self.grant.symbols}")
        if not self.check("accepted_exact", any(patterns.matches(n, sym) for n in names),
                          lambda: f"{command.msg}: {sym} is accepted, but not asked for"):
            return
        pattern = item.get("pattern")
        ok = sym in names if pattern is None else pattern in names and patterns.matches(pattern, sym)
        self.check("accepted_pattern", ok, lambda: f"{command.msg}: {item}")
        epoch = item.get("epoch", msg.get("epoch"))
        if channel != "status":
            self.check("answer_shape", isinstance(epoch, str), lambda: f"no epoch: {str(msg)[:200]}")
        if epoch:
            self.oracle.epoch(sym, epoch)
            self.epochs[channel, sym] = epoch
        self._reach(command, sym, item.get("seq") or 0, epoch, now)

    def _reach(self, command, sym, seq, epoch, now):
        """An instrument is reached by a subscribe: start its stream, change its options, or leave it as it is."""
        channel, asked = command.channel, command.msg.get("snapshot")
        entry, stream = self.effective(channel, sym), self.streams.get((channel, sym))
        if stream is None:
            stream = self.streams[channel, sym] = Stream(entry, seq, now)
            self.ended.pop((channel, sym), None)
            self._cover(sym, now)
            stream.replay = seq
            resume = command.msg.get("resume")
            if resume:
                return self._resume(stream, resume, sym, seq, epoch, asked)
            stream.due = asked is not False
            return None
        if stream.change:
            stream.change = None    # the new subscribe decides anew
        if (stream.mode, stream.depth) != (entry.mode, entry.depth):
            self._switch(stream, entry, seq, now, required=asked is not False)
            return None
        if stream.max_rate != entry.max_rate:
            stream.set_options(entry, now)
        self.report.counts["unasked_snapshot"] += asked is not True
        if asked is True:
            if stream.due:
                stream.spare += 1
            else:
                stream.due, stream.existing, stream.due_since = True, True, now
        return None

    def _switch(self, stream, entry, seq, now, required):
        """Mode or depth in effect changes: a snapshot of the new kind comes."""
        same_numbers = stream.depth == entry.depth
        stream.set_options(entry, now)
        if not same_numbers:
            stream.last = seq
        elif required or stream.mode == "every":
            stream.last = max(stream.last, seq)
        stream.due, stream.existing, stream.due_since = required, False, now
        stream.spare += 0 if required else 1
        stream.origin, stream.book, stream.book_gap = "switch", None, None
        stream.replay = seq

    def _resume(self, stream, resume, sym, seq, epoch, asked):
        value = resume["seq"].get(sym)
        number, its_epoch = (value["seq"], value["epoch"]) if isinstance(value, dict) else (value, resume.get("epoch"))
        if value is None or its_epoch != epoch or number > seq:
            stream.due = asked is not False
            stream.origin = "as_new"
            return
        self.report.counts["resume_no_snapshot"] += 1
        stream.last, stream.origin = number, "resume"
        stream.book = self.books.get((sym, stream.depth, number))

    def _on_unsubscribed(self, command, msg):
        now, channel = time.monotonic(), command.channel
        out = self._rejected(command, msg)
        gone = {n for n in command.msg["symbols"] if n not in out}
        self.check("unsubscribed_exact", set(msg.get("symbols", [])) == gone and msg.get("channel") == channel,
                   lambda: f"{command.msg} answered by {str(msg)[:300]}")
        for name in gone:
            self.entries.pop((channel, name), None)
        self._recompute(channel, now)

    def _recompute(self, channel, now):
        for key in [k for k in self.streams if k[0] == channel]:
            entry, stream = self.effective(*key), self.streams[key]
            if entry is None or not self.grant.allows(key[1]):
                self._drop(key, now)
            elif (entry.mode, entry.depth) != (stream.mode, stream.depth):
                stream.change, stream.changed_at = entry, now
            else:
                stream.change = None
                if entry.max_rate != stream.max_rate:
                    stream.set_options(entry, now)

    def _drop(self, key, now):
        del self.streams[key]
        self.ended[key] = now
        self._uncover(key[1], now)

    def _on_notice(self, msg, op):
        """`subscribed` or `unsubscribed` without `id`."""
        channel, now = msg.get("channel"), time.monotonic()
        if op == "unsubscribed":
            self.taken_away.append(msg)
            self.check("grant_renewal", msg.get("code") == "not_entitled", lambda: f"{msg}")
            for sym in msg.get("symbols", []):
                self.entries.pop((channel, sym), None)
                if (channel, sym) in self.streams:
                    self._drop((channel, sym), now)
            return
        asked = next((u for u in self.url if u[0] == channel), None)
        if asked:
            if msg.get("more"):
                return
            self.url.remove(asked)
            self.check("url_subscribe", True)
            self.states = {}
            return self._on_subscribed(Command({"op": "subscribe", "channel": channel, "symbols": asked[1]}), msg)
        for item in msg.get("accepted", []):
            self._announced(msg, channel, item, now)

    def _announced(self, msg, channel, item, now):
        sym, seq = item.get("symbol"), item.get("seq") or 0
        entry, stream = self.effective(channel, sym), self.streams.get((channel, sym))
        if not self.check("grant_accepted", self.grant.allows(sym), lambda: f"announced outside the grant: {item}"):
            return
        if not self.check("accepted_exact", entry is not None, lambda: f"announced, but no entry matches: {msg}"):
            return
        self.oracle.iid(sym, item.get("iid"), self.session)
        self.epochs[channel, sym] = item.get("epoch", msg.get("epoch"))
        if stream is None:
            self.check("accepted_pattern", patterns.matches(item.get("pattern") or "", sym), lambda: f"{msg}")
            stream = self.streams[channel, sym] = Stream(entry, seq, now)
            stream.spare = 1
            self._cover(sym, now)
        elif stream.change:
            have, want = (msg.get("mode"), msg.get("depth")), (entry.mode, entry.depth)
            self.check("options_echo", have == want, lambda: f"announced {have}, in effect is {want}: {str(msg)[:300]}")
            stream.change = None
            self.report.counts["change_announced"] += 1
            self._switch(stream, entry, seq, now, required=entry.snapshot)   # an entry without snapshots owes none
        else:
            same = (stream.mode, stream.depth) == (msg.get("mode"), msg.get("depth"))
            self.check("change_announced", same, lambda: f"announced {msg.get('mode')}, {msg.get('depth')}, in effect is "
                       f"{stream.mode}, {stream.depth}: {str(msg)[:300]}")
            if same:
                self.report.note("a `subscribed` without id for an instrument whose options did not change", str(msg)[:300])
