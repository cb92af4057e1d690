"""What each stream of a session may send next: events, snapshots, gaps, feed states (section 4)."""

import time
from collections import deque

import patterns

RATE_SLACK = 1.0      # seconds of arrival jitter that `max_rate` checks forgive
STALL = 4.0           # seconds that one session may be behind another before it counts as a stall
STATES = ("live", "stale", "recovering", "down")
CAUSES = ("slow_consumer", "upstream", "hub")


class Delivery:
    """The half of the model that judges data, by the entries and streams that the answers left."""

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
        if self.lag and self.lag.late_since(now - late):
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
            if self.lag and self.lag.late_since(time.monotonic() - 30):
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
