"""While a run lasts: a session that stands still on a stream that others see moving is found at once."""

import asyncio
import time

from delivery import STALL

STEP = 0.5


def look(world, behind):
    """One round over all open sessions; `behind` remembers which number each stream has to reach, and since when."""
    now = time.monotonic()
    for model in world.models:
        session = model.session
        if session.model is not model or session.socket is None or not session.socket.alive:
            continue
        if model.exempt or now < model.slack_until:
            continue
        for (channel, sym), s in model.streams.items():
            newest, _ = world.oracle.newest.get((sym, channel, s.depth), (0, 0))
            if newest <= s.last:
                behind.pop((s, s.depth), None)
                continue
            goal, since = behind.setdefault((s, s.depth), (newest, now))
            if s.last >= goal:
                behind[s, s.depth] = (newest, now)
            elif now - since > STALL + (1 / s.max_rate if s.max_rate else 0):
                behind[s, s.depth] = (newest, now)
                if world.lag.late_since(since):
                    world.report.note("a stream that stood still not judged, because the judge itself ran late")
                    continue
                world.report.fail("healthy_no_stall" if s.mode == "every" else "fresh_value",
                                  f"{channel} {sym} ({s.mode}, max_rate {s.max_rate}) stands at {s.last} for "
                                  f"{now - since:.1f}s, others are at {newest}", session)


async def run(world):
    behind = {}
    while True:
        await asyncio.sleep(STEP)
        look(world, behind)
