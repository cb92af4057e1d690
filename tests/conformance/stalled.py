"""Guarantee 7 and 4001: subscribers that stop reading for good."""

import asyncio
import time

from session import Session

SURE = 8 * 1024 * 1024    # bytes in kernel buffers beyond which something must have waited in the hub


async def one(world, index):
    session = Session(world, f"stalled {index}", exempt=True)
    await session.open(rcvbuf=4096)
    session.model.exempt = True
    overflow = "disconnect" if index % 3 == 2 else "gap"
    for channel, options in (("trade", {}), ("quote", {"mode": "every"}), ("ticker", {"mode": "every"}),
                             ("book", {"depth": (0, 10, 50)[index % 3]})):
        await session.command({"op": "subscribe", "channel": channel, "symbols": ["*"], "overflow": overflow, **options})
    session.socket.pause()
    return session, time.monotonic()


async def judge(world, session, since):
    """After the stall time: the session must be closed with 4001, or its socket reset."""
    timing, report = world.timing, world.report
    wait = since + timing.stall + timing.stall_close + 3.0 - time.monotonic()
    await asyncio.sleep(max(0.0, wait))
    before = session.socket.received
    session.socket.resume()
    try:
        await asyncio.wait_for(asyncio.shield(session.socket.closed), 5.0)
    except asyncio.TimeoutError:
        pass
    drained, code = session.socket.received - before, session.socket.close_code
    session.model.end()
    report.fact(f"{session.label}: {'closed' if session.socket.closed.done() else 'open'}, code {code}, {drained} bytes drained")
    if session.socket.closed.done():
        lost = code is None     # reset behind a full socket: the code stands in the metrics only
        report.check("stalled_closed", lost or code == 4001, lambda: f"closed with {code}, not 4001", session)
    elif drained > SURE:
        report.check("stalled_closed", False, lambda: f"still open after {time.monotonic() - since:.0f}s without reading, "
                     f"{drained} bytes were waiting", session)
    else:
        report.note("a stalled session is still open, but perhaps nothing waited in the hub", f"{drained} bytes drained")
    session.socket.abort()


async def late_reader(world):
    """A session that reads again before its time is over: gaps name what it missed, and its books are whole again."""
    session = Session(world, "late reader")
    await session.open(rcvbuf=4096)
    session.model.slack_until = float("inf")
    for channel, options in (("book", {}), ("trade", {}), ("quote", {"mode": "every"}), ("ticker", {"mode": "every"})):
        await session.command({"op": "subscribe", "channel": channel, "symbols": ["*"], **options})
    session.socket.pause()
    await asyncio.sleep(world.timing.stall * 0.7)
    session.socket.resume()
    await asyncio.sleep(world.timing.stall * 0.25)
    if not session.socket.alive:
        world.report.check("stalled_closed", False, f"closed {session.socket.close_code} before its time", session)
    elif session.model.slow_gaps:
        world.report.fact(f"late reader: {session.model.slow_gaps} slow_consumer gaps")
    else:
        world.report.note("the late reader lost nothing: its outbox and the buffers of the system were large enough")
    for (channel, sym), s in session.model.streams.items():
        newest, _ = world.oracle.newest.get((sym, channel, s.depth), (0, 0))
        world.report.check("gap_exact", not session.socket.alive or s.book_gap is None and newest - s.last < 200,
                           lambda: f"{channel} {sym}: at {s.last} with others at {newest}, gap without snapshot: {s.book_gap}",
                           session)
    await session.close()


async def run(world, count):
    """Start `count` stalled sessions; returns a task that judges them when their time is over."""
    begun = []
    for index in range(count):
        try:
            begun.append(await one(world, index))
        except Exception as error:
            world.report.note("a stalled session could not be set up", repr(error))

    async def all_of_them():
        await asyncio.gather(*(judge(world, session, since) for session, since in begun), *[late_reader(world)] * bool(begun))
    return asyncio.create_task(all_of_them())
