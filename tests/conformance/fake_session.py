"""A session of the fake hub: commands, entries, options in effect, delivery; and every way to get them wrong."""

import json
import struct
import time

import patterns
from model import MODES
from tokens import claims

CHANNELS = set(MODES)
LIMITS = {"message_bytes": 65536, "commands_per_second": 100, "subscriptions": 200, "max_rate": None, "depth": 0, "backlog": 4096}
BUFFER = 128 * 1024
COMMON = {"op", "id"}
MEMBERS = {"auth": {"token"}, "ping": set(), "unsubscribe": {"channel", "symbols"},
           "subscribe": {"channel", "symbols", "mode", "max_rate", "depth", "snapshot", "overflow", "backlog", "resume"}}


class Fault(Exception):
    pass


class Live:
    """One stream that reaches this session."""

    def __init__(self, entry, stream):
        self.options, self.stream = entry, stream
        self.sent, self.last_write, self.dirty, self.gap_from = 0, 0.0, False, None


class FakeSession:
    serial = 0

    def __init__(self, hub, writer, binary=False):
        FakeSession.serial += 1
        self.name = f"s{FakeSession.serial}"
        self.number = FakeSession.serial
        self.hub, self.market, self.breaks, self.writer, self.binary = hub, hub.market, hub.breaks, writer, binary
        self.symbols, self.authenticated, self.sub = None, False, None
        self.entries, self.live = {}, {}
        self.bad = self.limited = 0
        self.bucket, self.bucket_at = 100.0, time.monotonic()
        self.began = time.monotonic()
        self.stuck_since, self.stuck_at = None, 0
        self.closing = False
        self.order = 0
        self.delayed = []

    # -- frames -------------------------------------------------------------------------------------------------------
    def frame(self, payload, opcode=1):
        if self.closing or self.writer.is_closing():
            return
        n = len(payload)
        head = bytes([0x80 | opcode]) + (bytes([n]) if n < 126 else bytes([126]) + n.to_bytes(2, "big") if n < 65536
                                         else bytes([127]) + n.to_bytes(8, "big"))
        self.writer.write(head + payload)

    def event(self, raw):
        """An event or gap: as it is, or in a binary session as the bare head of a record."""
        if "every_stands" in self.breaks and self.number % 3 == 0:
            if 1 < time.monotonic() - self.began < 7:
                return self.delayed.append(raw)
            late, self.delayed = self.delayed, []
            for one in late:
                self.frame(one)
        if not self.binary or raw is None:
            return self.frame(raw or b"{}")
        msg = json.loads(raw)
        kind = {"ticker": 1, "quote": 2, "trade": 3, "book": 4}[msg["ch"]] if "seq" in msg else 7
        tail = struct.pack("<Qqq", msg.get("seq", 0), 0, int(msg.get("rx", 0)))
        length = 8 + len(tail) + ("binary" in self.breaks)
        return self.frame(struct.pack("<HBBI", length, kind, 0, self.market.iids[msg["sym"]]) + tail, 2)

    def say(self, **msg):
        self.frame(json.dumps(msg, separators=(",", ":")).encode())

    def close(self, code, reason=""):
        if not self.closing:
            self.frame(struct.pack(">H", code) + reason.encode(), 8)
            self.end()

    def end(self):
        self.closing = True
        for key in list(self.live):
            self.drop(key)
        self.hub.sessions.discard(self)

    # -- credentials ---------------------------------------------------------------------------------------------------
    def accept(self, token):
        body = claims(token)
        self.symbols, self.sub, self.authenticated = body.get("symbols"), body.get("sub"), True
        self.expires = body.get("exp", 0)
        self.limits = {**LIMITS, "max_rate": body.get("max_rate"), "depth": body.get("depth", 0)}
        self.say(op="welcome", session=self.name, server="tickhub/fake", token_expires=str(self.expires * 10 ** 9), limits=self.limits)

    def allows(self, sym):
        return self.symbols is None or any(patterns.matches(p, sym) for p in self.symbols)

    # -- commands -----------------------------------------------------------------------------------------------------
    def on_text(self, text):
        msg_id = {}
        try:
            try:
                msg = json.loads(text)
            except ValueError:
                raise Fault("bad_message")
            if not isinstance(msg, dict):
                raise Fault("bad_message")
            if "id" in msg:
                ok = type(msg["id"]) is int or isinstance(msg["id"], str) and len(msg["id"].encode()) <= 64
                if not ok:
                    raise Fault("bad_message")
                msg_id = {"id": msg["id"]} if "lose_id" not in self.breaks else {}
            self._budget()
            self._command(msg, msg_id)
        except Fault as fault:
            code = str(fault)
            self.say(op="error", **msg_id, code=code, message="no")
            self.bad += code in ("bad_message", "unknown_op")
            self.limited += code == "rate_limited"
            if self.bad >= 10 and "ten_bad" not in self.breaks:
                self.close(4500)
            if self.limited >= 10 and "ten_rate" not in self.breaks:
                self.close(4003)

    def _budget(self):
        now = time.monotonic()
        self.bucket = min(100.0, self.bucket + (now - self.bucket_at) * 100)
        self.bucket_at = now
        if self.bucket < 1:
            raise Fault("rate_limited")
        self.bucket -= 1

    def _command(self, msg, msg_id):
        op = msg.get("op")
        if not isinstance(op, str):
            raise Fault("bad_message")
        if not self.authenticated and op != "auth":
            raise Fault("unauthenticated")
        if op not in MEMBERS:
            raise Fault("unknown_op")
        if set(msg) - COMMON - MEMBERS[op] and "unknown_member" not in self.breaks:
            raise Fault("bad_message")
        if op == "ping":
            return self.say(op="pong", **msg_id, ts=str(time.time_ns()))
        if op == "auth":
            return self._auth(msg, msg_id)
        names, channel = msg.get("symbols"), msg.get("channel")
        if not isinstance(channel, str) or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise Fault("bad_message")
        if channel not in CHANNELS:
            raise Fault("unknown_channel")
        return self._subscribe(msg, msg_id) if op == "subscribe" else self._unsubscribe(msg, msg_id)

    def _auth(self, msg, msg_id):
        token = msg.get("token")
        if not isinstance(token, str):
            raise Fault("bad_message")
        good = self.hub.good(token) and (not self.authenticated or claims(token)["sub"] == self.sub)
        if not good:
            self.say(op="error", **msg_id, code="invalid_token", message="no")
            if not self.authenticated:
                self.close(4501)
            return
        self.say(op="ok", **msg_id, token_expires="1")
        if not self.authenticated:
            return self.accept(token)
        self.symbols = claims(token).get("symbols")
        if "renewal_keeps" in self.breaks:
            return
        for channel in CHANNELS:
            gone = [s for c, s in self.live if c == channel and not self.allows(s)]
            if gone:
                for sym in gone:
                    self.entries.pop((channel, sym), None)
                    self.drop((channel, sym))
                self.say(op="unsubscribed", channel=channel, symbols=gone, code="not_entitled")

    def _options(self, msg):
        channel = msg["channel"]
        mode = msg.get("mode", MODES[channel][0])
        if mode not in MODES[channel]:
            raise Fault("bad_message")
        rate, depth, resume = msg.get("max_rate"), msg.get("depth"), msg.get("resume")
        bad = "max_rate" in msg and (mode != "latest" or type(rate) not in (int, float) or rate <= 0)
        bad |= "depth" in msg and (channel != "book" or type(depth) is not int or depth not in (0, 1, 10, 50))
        bad |= type(msg.get("snapshot", True)) is not bool
        backlog = msg.get("backlog", 1)
        bad |= "backlog" in msg and (mode != "every" or channel == "status" or type(backlog) is not int or backlog < 1)
        bad |= "overflow" in msg and (mode != "every" or msg["overflow"] not in ("gap", "disconnect"))
        if "resume" in msg:
            bad |= mode != "every" or not isinstance(resume, dict) or set(resume) != {"epoch", "seq"} \
                or not isinstance(resume["epoch"], str) or not isinstance(resume["seq"], dict)
            if not bad:
                for value in resume["seq"].values():
                    value = value.get("seq") if isinstance(value, dict) else value
                    bad |= type(value) is not int or value < 0
            if not bad and "resume_relist" not in self.breaks:
                bad |= any((channel, s) in self.live for s in resume["seq"])
        if bad:
            raise Fault("bad_message")
        most, deepest = self.limits["max_rate"], self.limits["depth"]
        if most and "limits" not in self.breaks:
            if mode == "every" and channel in ("ticker", "quote", "book"):
                raise Fault("not_entitled")
            rate = min(rate or most, most) if mode == "latest" else rate
        depth = msg.get("depth", 10) if channel == "book" else None
        if depth is not None and deepest and not 0 < depth <= deepest:
            depth = deepest
        return {"mode": mode, "max_rate": rate, "depth": depth}

    def _fault_of(self, name):
        if patterns.split(name) is None:
            return "bad_symbol"
        exact = "*" not in name
        inside = self.allows(name) if exact else self.symbols is None or any(patterns.meet(p, name) for p in self.symbols)
        if not inside:
            return "unknown_symbol" if "leak_code" in self.breaks else "not_entitled"
        if exact and name not in self.market.iids:
            return "unknown_symbol"
        return None

    def effective(self, channel, sym):
        if (channel, sym) in self.entries:
            return self.entries[channel, sym]
        held = [(n, e) for (c, n), e in self.entries.items() if c == channel and "*" in n and patterns.matches(n, sym)]
        if not held:
            return None
        sign = -1 if "precedence" in self.breaks else 1
        return max(held, key=lambda ne: (sign * patterns.weight(ne[0]), ne[1]["order"]))[1]

    def _subscribe(self, msg, msg_id):
        options, channel = self._options(msg), msg["channel"]
        rejected, names = [], []
        for name in msg["symbols"]:
            fault = self._fault_of(name)
            if fault and not (fault == "bad_symbol" and "bad_symbol_ok" in self.breaks):
                rejected.append({"symbol": name, "code": fault, "message": "no"})
            else:
                names.append(name)
        for name in names:
            self.order += 1
            self.entries[channel, name] = {**options, "order": self.order, "name": name}
        accepted, starts = [], []
        for sym, iid in self.market.iids.items():
            pattern = next((n for n in names if patterns.matches(n, sym)), None)
            if pattern is None or not (self.allows(sym) or "leak_accepted" in self.breaks):
                continue
            if "accepted_misses" in self.breaks and sym == "SIM:BBB-USD":
                continue
            entry = self.effective(channel, sym)
            stream = self.market.stream(sym, channel, entry["depth"])
            item = {"symbol": sym, "iid": iid + (self.number if "iid" in self.breaks else 0), "seq": stream.seq,
                    "epoch": self.market.epoch[sym.partition(":")[0]]}
            if sym not in names:
                item["pattern"] = pattern
            accepted.append(item)
            starts.append((sym, entry))
        answer = {"op": "subscribed", **msg_id, "channel": channel, "mode": options["mode"], "epoch": "e-sim",
                  "accepted": accepted, "rejected": rejected}
        for name in ("max_rate", "depth"):
            if options[name] is not None:
                answer[name] = options[name] if "echo" not in self.breaks else 3
        if "answer_late" not in self.breaks:
            self._answer(answer)
            self._tell_states(channel, starts)
        for sym, entry in starts:
            self._start(channel, sym, entry, msg)
        if "answer_late" in self.breaks:
            self._answer(answer)
            self._tell_states(channel, starts)
        if "status_late" in self.breaks:
            self._tell_states(channel, starts, True)

    def _answer(self, answer):
        if len(answer["accepted"]) > 5:
            rest = answer["accepted"][5:]
            self.say(**{**answer, "accepted": answer["accepted"][:5], "more": True, "rejected": []})
            answer = {**answer, "accepted": rest}
        self.say(**answer)

    def _tell_states(self, channel, starts, now=False):
        if "status_late" in self.breaks and not now:
            return
        for venue in sorted({s.partition(":")[0] for s, _ in starts}):
            if self.market.states[venue] != "live":
                self.tell_state(venue)

    def tell_state(self, venue):
        self.say(ch="status", sym=f"{venue}:*", state=self.market.states[venue], cause="because",
                 ts=self.market.state_times[venue])

    def _start(self, channel, sym, entry, msg):
        key, explicit = (channel, sym), msg.get("snapshot")
        live = self.live.get(key)
        resume = msg.get("resume")
        if live is None:
            live = self._reach(key, entry)
            if resume and self._resume(live, resume["seq"].get(sym), resume["epoch"], sym):
                return
            self._snapshot(live, explicit is not False)
        elif (live.options["mode"], live.options["depth"]) != (entry["mode"], entry["depth"]):
            self.drop(key)
            live = self._reach(key, entry)
            self._snapshot(live, explicit is not False)
        else:
            live.options = entry
            asked = explicit is True and "resub_ignored" not in self.breaks
            if "resub_unasked" in self.breaks:
                asked = explicit is not False
            if "resub_loses" in self.breaks:
                live.stream.seq_skipped = True
                live.sent, live.skip = live.stream.seq, 1
            self._snapshot(live, asked)

    def _reach(self, key, entry):
        channel, sym = key
        stream = self.market.use_depth(sym, entry["depth"]) if channel == "book" else self.market.stream(sym, channel)
        live = self.live[key] = Live(entry, stream)
        live.sent = stream.seq - (channel == "book" and stream.users == 1)
        self.hub.subscribers.setdefault((sym, channel, entry["depth"]), set()).add(self)
        return live

    def _snapshot(self, live, wanted):
        stream = live.stream
        if stream.channel == "status":
            return
        first = stream.channel == "book" and stream.users == 1 and live.sent < stream.seq
        if (wanted or first) and "no_snapshot" not in self.breaks:
            raw = stream.snapshot()
            if raw:
                self.event(raw)
                live.sent = stream.seq
                live.skip = "snapshot_hole" in self.breaks and 1
                if "snapshot_repeat" in self.breaks and stream.channel == "trade" and stream.history:
                    self.event(stream.history[-1][1])

    def _resume(self, live, value, epoch, sym):
        if isinstance(value, dict):
            epoch, value = value.get("epoch", epoch), value["seq"]
        stream = live.stream
        if "resume_any_epoch" not in self.breaks and epoch != self.market.epoch[sym.partition(":")[0]]:
            return False
        if value is None or value > stream.seq:
            return False
        if "resume_snapshot" in self.breaks:
            self.event(stream.snapshot() or b"{}")
        held = [h for h in stream.history if h[0] > value]
        if stream.channel == "book":
            if value < stream.seq and (not held or held[0][0] != value + 1 or any(h[2] for h in held)):
                self.gap(live, value + 1, stream.seq, "hub")
                self.event(stream.snapshot())
                live.sent = stream.seq
                return True
        elif held and held[0][0] > value + 1:
            self.gap(live, value + 1, held[0][0] - 1, "hub")
        for _, raw, _ in held["resume_hole" in self.breaks:]:
            self.event(raw)
        live.sent = stream.seq
        return True

    def gap(self, live, first, last, cause):
        gap = {"op": "gap", "ch": live.stream.channel, "sym": live.stream.sym, "from": first, "to": last, "cause": cause}
        self.event(json.dumps(gap, separators=(",", ":")).encode())

    def drop(self, key):
        live = self.live.pop(key)
        channel, sym = key
        depth = live.options["depth"]
        self.hub.subscribers[sym, channel, live.stream.depth].discard(self)
        if channel == "book":
            self.market.leave_depth(sym, live.stream.depth)
        return depth

    def _unsubscribe(self, msg, msg_id):
        channel, gone, rejected = msg["channel"], [], []
        for name in msg["symbols"]:
            if patterns.split(name) is None:
                rejected.append({"symbol": name, "code": "bad_symbol", "message": "no"})
            elif (channel, name) in self.entries:
                gone.append(name)
                del self.entries[channel, name]
            elif "unsubscribe_silent" not in self.breaks:
                rejected.append({"symbol": name, "code": "not_subscribed", "message": "no"})
        self.say(op="unsubscribed", **msg_id, channel=channel, symbols=gone, rejected=rejected)
        for key in [k for k in self.live if k[0] == channel]:
            entry, live = self.effective(*key), self.live[key]
            if entry is None:
                if "after_unsubscribed" in self.breaks and live.stream.value and live.stream.channel != "book":
                    self.event(encode_value(live.stream))
                self.drop(key)
            elif (entry["mode"], entry["depth"]) != (live.options["mode"], live.options["depth"]):
                self.drop(key)
                self._change(key, entry)
            else:
                live.options = entry

    def _change(self, key, entry):
        channel, sym = key
        seq = self.market.stream(sym, channel, entry["depth"]).seq
        notice = {"op": "subscribed", "channel": channel, "mode": entry["mode"], "epoch": self.market.epoch[sym[:3]],
                  "accepted": [{"symbol": sym, "iid": self.market.iids[sym], "seq": seq, "pattern": entry["name"]}]}
        for name in ("max_rate", "depth"):
            if entry[name] is not None:
                notice[name] = entry[name]
        if "change_unannounced" not in self.breaks:
            self.say(**notice)
        self._snapshot(self._reach(key, entry), True)

    # -- delivery -----------------------------------------------------------------------------------------------------
    def deliver(self, stream, raw, is_gap):
        live = self.live.get((stream.channel, stream.sym))
        if live is None or live.stream is not stream:
            return
        if self.symbols is not None and not self.allows(stream.sym):
            return
        if live.options["mode"] == "latest":
            if is_gap and "latest_gap" in self.breaks:
                self.event(raw)
            live.dirty = live.dirty or not is_gap or stream.channel == "book"
            return
        if live.gap_from is None and self.writer.transport.get_write_buffer_size() > BUFFER:
            live.gap_from = live.sent + 1
        if live.gap_from is not None:
            return
        rng = self.market.rng
        if getattr(live, "skip", 0) or "skip_event" in self.breaks and rng.random() < 0.005:
            live.skip = 0
            live.sent = stream.seq
            return
        if "content" in self.breaks and self.number % 2 and not is_gap:
            raw = raw.replace(b'"px":"1', b'"px":"01')
        if "healthy_gap" in self.breaks and rng.random() < 0.002:
            return self._after_gap(live, stream.seq, stream.seq)
        self.event(raw)
        if "dup_event" in self.breaks and rng.random() < 0.005:
            self.event(raw)
        if is_gap and stream.channel == "book" and "book_gap_bare" not in self.breaks:
            self.event(stream.snapshot())
        live.sent = stream.seq
        return None

    def _after_gap(self, live, first, last):
        self.gap(live, first, last, "slow_consumer")
        if live.stream.channel == "book":
            self.event(live.stream.snapshot())
        live.sent = last

    def flush(self, now):
        """One turn: the newest value of what changed, gaps of what was dropped."""
        for live in list(self.live.values()):
            stream = live.stream
            if live.gap_from is not None and self.writer.transport.get_write_buffer_size() < BUFFER // 2:
                first, live.gap_from = live.gap_from, None
                if first <= stream.seq:
                    self._after_gap(live, first, stream.seq)
            if not live.dirty or self.writer.transport.get_write_buffer_size() > BUFFER:
                continue
            if "last_lost" in self.breaks and now - self.began > 1.5:
                continue
            rate = live.options["max_rate"]
            if rate and now - live.last_write < 1 / rate and "rate_ignored" not in self.breaks:
                continue
            if stream.value is None or stream.seq <= live.sent:
                live.dirty = False
                continue
            full = stream.channel == "book" and "latest_delta" not in self.breaks
            self.event(encode_value(stream, full))
            if "latest_back" in self.breaks and self.market.rng.random() < 0.05 and stream.channel != "book":
                self.event(encode_value(stream))
            live.sent, live.last_write, live.dirty = stream.seq, now, False
        if "leak_data" in self.breaks and self.symbols is not None and self.live and self.market.rng.random() < 0.05:
            outside = [s for s in self.market.streams.values() if s.value and not self.allows(s.sym)]
            self.event(encode_value(outside[0]))


def encode_value(stream, snap=False):
    from fake_market import encode
    return encode(stream.value, snap)
