"""The checks at the end: last values arrive, snapshots came, every state change was told to everyone concerned."""

import asyncio
import random
import time

from rest import feed_state, member, seq_by_channel


def open_models(world):
    """(session, model) of all sessions that behave and are still connected."""
    return [(m.session, m) for m in world.models
            if m.session.socket is not None and m.session.model is m and m.session.socket.alive and not m.exempt]


async def last_values(world, rest, seed):
    """Ask REST for the numbers, then see that every open session gets there."""
    syms = sorted({s for _, m in open_models(world) for _, s in m.streams})
    random.Random(f"{seed}:final").shuffle(syms)
    for sym in syms[:30]:
        answer = await rest.instrument(sym)
        if answer.status != 200:
            world.report.check("instrument", False, f"{sym}: {answer.status}")
            continue
        detail = answer.json
        iid = member(detail, "iid")
        if sym in world.oracle.iids:
            world.report.check("iid_stable", world.oracle.iids[sym] == iid, f"{sym}: REST {iid}, answers {world.oracle.iids[sym]}")
        numbers = seq_by_channel(detail)
        if not numbers:
            world.report.note("last seq by channel could not be read from REST", answer.body[:200].decode())
        await _reach(world, sym, numbers)
        _state(world, sym, feed_state(detail))


async def _reach(world, sym, numbers):
    began = time.monotonic()
    waiting = []
    for session, model in open_models(world):
        for (channel, of), s in model.streams.items():
            want = numbers.get((channel, s.depth))
            if of == sym and want:
                waiting.append((session, model, channel, s, want, began + 2.5 + (1 / s.max_rate if s.max_rate else 0)))
    while waiting:
        now = time.monotonic()
        rest = []
        for item in waiting:
            session, model, channel, s, want, until = item
            if model.streams.get((channel, sym)) is not s or not session.socket.alive:
                continue
            if s.last >= want:
                world.report.check("last_value", True)
            elif now < until:
                rest.append(item)
            else:
                _missed(world, session, channel, sym, s, want)
        waiting = rest
        if waiting:
            await asyncio.sleep(0.05)


def _missed(world, session, channel, sym, s, want):
    newest, when = world.oracle.newest.get((sym, channel, s.depth), (0, 0))
    known = newest > s.last and time.monotonic() - when > 2.5 + (1 / s.max_rate if s.max_rate else 0)
    text = f"{channel} {sym} ({s.mode}): REST says {want}, the session stands at {s.last}, others saw {newest}"
    if world.lag.late_since(time.monotonic() - 5):
        world.report.note("last values not judged, because the judge itself ran late")
    elif known or s.mode == "every":
        world.report.check("last_value", False, text, session)
    else:
        world.report.note("a number that REST names reached no session (an upstream loss has no value)", text)


def _state(world, sym, state):
    if state is None:
        world.report.note("the feed state could not be read from REST")
        return
    venue = sym.partition(":")[0] + ":*"
    for session, model in open_models(world):
        if any(s == sym for _, s in model.streams):
            told = model.known_states.get(sym, model.known_states.get(venue, "live"))
            changed = [w for w, s, _, _ in model.statuses if s in (sym, venue) and time.monotonic() - w < 2]
            if not changed:
                world.report.check("status_told", told == state,
                                   lambda: f"{sym}: REST says {state}, the session was told {told}", session)


def owed(world):
    """Snapshots and announcements that never came."""
    now = time.monotonic()
    late = world.lag.late_since(now - 5)
    for session, model in open_models(world):
        for (channel, sym), s in model.streams.items():
            if channel == "status":
                continue
            if s.change and now - s.changed_at > 3 and not late:
                world.report.check("change_announced", False, f"{channel} {sym}: the entry in effect changed "
                                   f"{now - s.changed_at:.1f}s ago, and no `subscribed` said so", session)
            value = world.oracle.had_value((sym, channel, s.depth), s.last)
            if s.due and now - s.due_since > 3 and value and not late:
                world.report.check("snapshot_comes", False, f"{channel} {sym}: no snapshot for {now - s.due_since:.1f}s "
                                   f"(accepted at {s.last})", session)
            if s.book_gap is not None and model.known_states.get(sym.partition(":")[0] + ":*", "live") == "live" and not late:
                world.report.note("a book gap with no snapshot yet at the end", f"{sym} to {s.book_gap}")


def statuses(world):
    """Each change of a feed's state that one session was told of was told to all that it concerned."""
    now = time.monotonic()
    for (sym, state, ts), when in world.oracle.statuses.items():
        if now - when < 3:
            continue
        venue, _, symbol = sym.partition(":")
        key = venue if symbol == "*" else sym
        for model in world.models:
            if model.exempt or when < model.slack_until < when + 30:
                continue
            spans = model.cover + [(k, since, now) for k, since in model.cover_open.items()]
            if not any(k == key and a < when - 1 and b > when + 2 for k, a, b in spans):
                continue
            told = any(s == sym and st == state and t == ts for _, s, st, t in model.statuses)
            world.report.check("status_told", told, lambda: f"{sym} became {state} (ts {ts}); this session was not told",
                               model.session)


def pings(world):
    now = time.monotonic()
    for session, _ in open_models(world):
        age = now - session.opened_at
        if age > world.timing.ping + 2:
            world.report.check("ping", session.socket.pings >= int((age - 1) // (world.timing.ping + 1)),
                               lambda: f"{session.socket.pings} pings in {age:.0f}s", session)


async def run(world, rest, seed):
    await asyncio.sleep(1.0)
    await last_values(world, rest, seed)
    owed(world)
    statuses(world)
    pings(world)
