"""The exact model of one session: entries, the options in effect, and what each stream may send next (sections 3, 4)."""

import time
from collections import deque

import patterns
from patterns import Grant

MODES = {"ticker": ("latest", "every"), "quote": ("latest", "every"), "book": ("every", "latest"),
         "trade": ("every",), "status": ("every",)}
RATE_SLACK = 1.0      # seconds of arrival jitter that `max_rate` checks forgive
STALL = 4.0           # seconds that one session may be behind another before it counts as a stall
STATES = ("live", "stale", "recovering", "down")
CAUSES = ("slow_consumer", "upstream", "hub")


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


class Model:
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

    # -- data ---------------------------------------------------------------------------------------------------------
    def on_event(self, p, now):
        self.events += 1
        stream = self.streams.get((p.ch, p.sym))
        if stream is None:
            return self._stray(p.ch, p.sym, p.raw)
        counts = self.report.counts
        counts["answer_first"] += 1
        counts["after_unsubscribed"] += 1
        counts["not_subscribed_data"] += 1
        counts["grant_data"] += self.grant.symbols is not None
        venue = p.sym.partition(":")[0]
        if venue not in self.venue_data:
            self.venue_data[venue] = now
        counts["book_depth"] += p.ch == "book"
        if p.depth != stream.depth:
            if stream.change and stream.change.depth == p.depth:
                return self.fail("change_announced", f"{p.sym}: depth {p.depth} before a `subscribed` says so")
            return self.fail("book_depth", f"{p.sym}: depth {p.depth} arrives, in effect is {stream.depth}: {p.raw[:200]!r}")
        if stream.mode == "every":
            self._every(stream, p)
        else:
            self._latest(stream, p, now)
        stream.had = True
        late = now - p.first
        if late > STALL and not self.exempt and now > self.slack_until and not p.snap and p.seq > stream.replay:
            self._late(stream, p, late, now)
        else:
            counts["healthy_no_stall" if stream.mode == "every" else "fresh_value"] += 1
        return None

    def _late(self, stream, p, late, now):
        rate = 1 / stream.max_rate if stream.max_rate else 0
        if self.lag and self.lag.worst_since(now - late) > 1.0:
            self.report.note("late deliveries not judged, because the judge itself ran late")
        elif late > STALL + rate:
            rule = "healthy_no_stall" if stream.mode == "every" else "fresh_value"
            self.fail(rule, f"{p.ch} {p.sym} {p.seq} came {late:.1f}s after another session had it")

    def _stray(self, channel, sym, raw):
        text = raw[:250].decode("utf-8", "replace")
        if not self.grant.allows(sym):
            return self.fail("grant_data", f"{text} with a grant of {self.grant.symbols}")
        for command in self.pending.values():
            if command.op == "subscribe" and command.channel == channel and any(
                    patterns.split(n) and patterns.matches(n, sym) for n in command.msg["symbols"]):
                return self.fail("answer_first", f"data before the answer to {command.msg}: {text}")
        if (channel, sym) in self.ended:
            return self.fail("after_unsubscribed", f"after `unsubscribed`: {text}")
        return self.fail("not_subscribed_data", f"no entry covers it: {text}")

    def _every(self, s, p):
        if s.book_gap is not None:
            ok = p.snap and p.seq == s.book_gap
            self.check("book_gap_snapshot", ok,
                       lambda: f"{p.sym}: after a gap to {s.book_gap} comes number {p.seq}{' (snap)' if p.snap else ''}")
            s.book_gap = None
            s.due, s.spare = False, s.spare + (1 if s.due else 0)
            s.last, s.origin = p.seq, "snapshot"
            s.book = self.oracle.whole_book(p, self.session) if p.snap else None
        elif p.snap and not (p.ch == "book" and p.seq == s.last + 1 and not s.due):
            self._snapshot(s, p)
        else:
            self._live(s, p)

    def _snapshot(self, s, p):
        """A snapshot in `every` mode, or of a channel other than book in `latest` mode."""
        if s.change:
            self.fail("change_announced", f"{p.ch} {p.sym}: a snapshot before the `subscribed` that announces the change")
        elif p.ch == "book" and not s.had and not s.due and not s.spare and s.origin != "resume" and p.seq == s.last:
            # its book was being rebuilt when the session came: the fresh snapshot of an older gap, published to all
            self.report.note("the fresh snapshot after an older gap also reaches a session that asked for no snapshot",
                             f"book {p.sym} {p.seq}")
        elif not s.due and not s.spare:    # counted where the stream was resumed or subscribed again
            rule = "resume_no_snapshot" if s.origin == "resume" else "unasked_snapshot"
            self.fail(rule, f"{p.ch} {p.sym} {p.seq}: a snapshot that nothing asked for (last number {s.last})")
        elif s.due and s.existing and s.mode == "every":
            self.check("resubscribe_loses", p.seq == s.last,
                       lambda: f"{p.ch} {p.sym}: snapshot at {p.seq}, but only {s.last} had been delivered")
        else:
            rule = "resume_as_new" if s.origin == "as_new" else "snapshot_number"
            self.check(rule, p.seq >= s.last, lambda: f"{p.ch} {p.sym}: snapshot at {p.seq}, `last published` was {s.last}")
        self.report.counts["snapshot_first"] += 1
        self.report.counts["snapshot_comes"] += 1
        if s.due:
            s.due = False
        elif s.spare:
            s.spare -= 1
        s.last, s.origin = p.seq, "snapshot"
        if p.ch == "book":
            s.book = self.oracle.whole_book(p, self.session)

    def _live(self, s, p):
        if s.due:
            if s.existing:
                self.report.note("a live event between the answer and the snapshot that was asked for again",
                                 f"{p.ch} {p.sym} {p.seq}")
            else:
                self._owed(s, p)
                if s.last == 0:
                    s.origin = "accepted"
        rule = {"snapshot": "snapshot_live_seam", "resume": "resume_continues", "accepted": "first_live",
                "as_new": "resume_as_new", "switch": "resubscribe_loses"}.get(s.origin, "every_contiguous")
        self.check(rule, p.seq == s.last + 1, lambda: f"{p.ch} {p.sym}: {p.seq} follows {s.last} (after {s.origin})")
        broken = p.seq != s.last + 1
        s.last, s.origin = p.seq, "live"
        if p.ch == "book":
            if p.snap:
                s.book = self.oracle.whole_book(p, self.session)
            elif s.book is not None and not broken:
                s.book = self.oracle.changed_book(s.book, p, self.session)
            else:
                s.book = None

    def _owed(self, s, p):
        """A live event although a first snapshot is due: right only where there was no value yet."""
        empty = p.ch != "book" and (s.last == 0 or not self.oracle.had_value((p.sym, p.ch, p.depth), s.last))
        rule = "resume_as_new" if s.origin == "as_new" else "snapshot_first"
        self.check(rule, empty, lambda: f"{p.ch} {p.sym} {p.seq}: live before the snapshot (accepted at {s.last})")
        s.due = False

    def _latest(self, s, p, now):
        self.report.counts["latest_no_gap"] += 1
        if p.ch == "book":
            self.check("latest_book_full", p.snap, lambda: f"{p.sym} {p.seq}: no full window: {p.raw[:200]!r}")
            first = s.due or s.spare or s.origin in ("accepted", "as_new", "switch")
            if p.snap:
                self.oracle.whole_book(p, self.session)
            self.check("latest_grows", p.seq > s.last or (first and p.seq == s.last) or s.origin == "switch",
                       lambda: f"book {p.sym}: {p.seq} follows {s.last}")
            was_due = s.due
            if s.due:
                s.due = False
            elif p.seq == s.last and s.spare:
                s.spare -= 1
            s.last, s.origin = p.seq, "live"
            if was_due:
                return self._rate_reset(s, now)
        elif p.snap:
            was_due = s.due
            self._snapshot(s, p)
            if was_due:
                return self._rate_reset(s, now)
        else:
            if s.due and not s.existing:
                self._owed(s, p)
            elif s.due:
                self.report.note("a live event between the answer and the snapshot that was asked for again",
                                 f"{p.ch} {p.sym} {p.seq}")
            rule = "snapshot_live_seam" if s.origin == "snapshot" else "latest_grows"
            self.check(rule, p.seq > s.last, lambda: f"{p.ch} {p.sym}: {p.seq} follows {s.last}")
            s.last, s.origin = max(s.last, p.seq), "live"
        if s.max_rate:
            self._rate(s, p, now)
        return None

    def _rate_reset(self, s, now):
        s.rate_from, s.rate_count, s.rate_times = None, 0, None

    def _rate(self, s, p, now):
        if s.rate_from is None:
            s.rate_from, s.rate_count = now, 1
            s.rate_times = deque(maxlen=max(4, int(3 * s.max_rate)))
            return
        s.rate_count += 1
        slack = RATE_SLACK + (self.lag.worst_since(now - 10) if self.lag else 0)
        if now < self.slack_until or self.exempt:
            return self._rate_reset(s, now)
        allowed = s.max_rate * (now - s.rate_from + slack) + 2
        times = s.rate_times
        burst = False
        if len(times) == times.maxlen:
            burst = len(times) / s.max_rate - (now - times[0]) > slack
        times.append(now)
        self.check("max_rate", s.rate_count <= allowed and not burst,
                   lambda: f"{p.ch} {p.sym}: {s.rate_count} updates in {now - s.rate_from:.2f}s, or {len(times)} in "
                   f"{now - times[0]:.2f}s, with max_rate {s.max_rate}")

    def on_gap(self, msg):
        channel, sym, first, last = msg.get("ch"), msg.get("sym"), msg.get("from"), msg.get("to")
        ok = isinstance(sym, str) and type(first) is int and type(last) is int and msg.get("cause") in CAUSES
        if not self.check("form", ok, lambda: f"{msg}"):
            return
        s = self.streams.get((channel, sym))
        if s is None:
            return self._stray(channel, sym, str(msg).encode())
        if s.mode == "latest":
            return self.fail("latest_no_gap", f"{msg}")
        rule = "resume_continues" if s.origin == "resume" else "gap_exact"
        self.check(rule, first == s.last + 1 and last >= first, lambda: f"{msg}, but the last number was {s.last}")
        if msg["cause"] == "upstream":
            self.check("gap_upstream", first == last, lambda: f"an upstream loss takes one number: {msg}")
            self.oracle.upstream_loss((sym, channel, s.depth), first, self.session)
        if "lost" in msg:
            self.check("form", msg["cause"] == "upstream" and type(msg["lost"]) is int, lambda: f"{msg}")
        if msg["cause"] == "slow_consumer" and not self.exempt and time.monotonic() > self.slack_until:
            if self.lag and self.lag.worst_since(time.monotonic() - 30) > 1.0:
                self.report.note("a slow_consumer gap not judged, because the judge itself ran late", str(msg))
            else:
                self.fail("healthy_no_gap", f"{msg}")
        self.report.counts["healthy_no_gap"] += 1
        self.slow_gaps += msg["cause"] == "slow_consumer"
        s.last, s.had = last, True
        if s.due and channel != "book":
            s.due, s.spare = False, s.spare + 1
        if channel == "book":
            s.book, s.book_gap = None, last
        s.origin = "live"

    # -- status -------------------------------------------------------------------------------------------------------
    def on_status(self, p, now):
        msg, sym = p.msg, p.sym
        ok = (isinstance(sym, str) and msg.get("state") in STATES and "seq" not in msg
              and (msg.get("ts") is None or str(msg.get("ts")).isdigit()))
        if not self.check("form", ok, lambda: f"{msg}"):
            return
        venue, _, symbol = sym.partition(":")
        key = venue if symbol == "*" else sym
        if not self.grant.touches(sym) or (symbol != "*" and not self.grant.allows(sym)):
            return self.fail("grant_data", f"{msg} with a grant of {self.grant.symbols}")
        if key not in self.cover_open and any(patterns.meet(name, sym) for _, name in self.entries):
            self.report.note("a status of a venue of which a pattern is held that matches nothing there yet", str(msg))
            return
        if not self.check("status_concerns", key in self.cover_open, lambda: f"{msg}: no instrument held of it"):
            return
        what = (msg["state"], msg.get("cause"))
        self.check("status_once", self.states.get(sym) != what, lambda: f"told twice: {msg}")
        self.states[sym] = what
        if msg.get("ts") and msg["state"] != "live" and self.known_states.get(sym) != msg["state"]:
            began = self.cover_open[key]
            age = time.time() - int(msg["ts"]) / 1e9
            since_cover, data = now - began, self.venue_data.get(venue)
            old = age > since_cover + 0.5
            self.check("status_before_snapshot", not (old and data and data >= began),
                       lambda: f"{msg}: {age:.1f}s old, told after data of {venue}")
        self.known_states[sym] = msg["state"]
        self.statuses.append((now, sym, msg["state"], msg.get("ts")))
        if msg.get("ts") and time.time() - int(msg["ts"]) / 1e9 < 2.0:
            self.oracle.statuses.setdefault((sym, msg["state"], msg["ts"]), now)
