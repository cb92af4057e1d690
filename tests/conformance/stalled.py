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


async def run(world, count):
    """Start `count` stalled sessions; returns a task that judges them when their time is over."""
    begun = []
    for index in range(count):
        try:
            begun.append(await one(world, index))
        except Exception as error:
            world.report.note("a stalled session could not be set up", repr(error))

    async def all_of_them():
        await asyncio.gather(*(judge(world, session, since) for session, since in begun))
    return asyncio.create_task(all_of_them())
