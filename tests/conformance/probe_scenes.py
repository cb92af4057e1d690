"""Short scripted scenes on a live hub: subscribe by URL, precedence of entries, the binary form, quick resume."""

import asyncio
import struct


from session import Session
from ws import Refused

KINDS = {1: "ticker", 2: "quote", 3: "trade", 4: "book", 5: "bar", 7: "gap"}


async def url(world):
    session = Session(world, "url")
    names = sorted(world.universe)[:2]
    await session.open("query", url_channels=(["ticker", "trade"], names))
    done = await session.until(lambda: not session.model.url, world.timing.answer)
    world.report.check("url_subscribe", bool(done), "no `subscribed` for each channel of the URL", session)
    flows = await session.until(lambda: session.model.events >= 2, 5)
    world.report.check("url_subscribe", bool(flows), "no data", session)
    return session


async def precedence(world):
    """Overlapping entries step by step; the model knows what each step must do."""
    sym = sorted(world.universe)[0]
    venue, _, symbol = sym.partition(":")
    longer = f"{venue}:{symbol[:2]}*"
    session = await Session(world, "precedence").open()
    steps = [
        ("subscribe", [f"{venue}:*"], {"depth": 50}), ("subscribe", [longer], {"depth": 1}),
        ("subscribe", [sym], {"depth": 10, "mode": "latest"}), ("subscribe", ["*"], {"depth": 0}),
        ("subscribe", [sym], {"depth": 10, "mode": "latest", "snapshot": True}),
        ("subscribe", [f"*:{symbol[:2]}*"], {"depth": 10}), ("unsubscribe", [sym], {}), ("unsubscribe", [longer], {}),
        ("unsubscribe", [f"*:{symbol[:2]}*"], {}), ("unsubscribe", ["*"], {}), ("unsubscribe", [f"{venue}:*"], {}),
    ]
    for op, names, options in steps:
        if op == "subscribe" and world.flow("book", names[0])[0] > 3000:
            continue
        msg = {"op": op, "channel": "book", "symbols": names, **options}
        if op == "unsubscribe" and not all(("book", n) in session.model.entries for n in names):
            continue
        await session.command(msg)
        await asyncio.sleep(0.4)
    await asyncio.sleep(0.5)
    world.report.check("after_unsubscribed", not session.model.streams, f"{list(session.model.streams)[:3]}", session)
    return session


async def resume(world):
    """Drop the connection and go on at once: what is held comes, with no hole, no repeat and no snapshot."""
    names = sorted(world.universe)[:3]
    for channel in ("trade", "quote", "book"):
        options = {"mode": "every"} if channel != "trade" else {}
        first = await Session(world, f"resume {channel}").open()
        await first.command({"op": "subscribe", "channel": channel, "symbols": names, **options})
        await asyncio.sleep(1.0)
        model = first.model
        seq = {s: {"epoch": model.epochs.get((channel, s)), "seq": st.last} for (_, s), st in model.streams.items()
               if st.last and not st.due and st.book_gap is None}
        await first.close()
        if not seq:
            world.report.note("quick resume not tried: no numbers yet", channel)
            continue
        second = await Session(world, f"resume {channel}, again").open()
        await second.command({"op": "subscribe", "channel": channel, "symbols": sorted(seq), **options,
                              "resume": {"epoch": "each its own", "seq": seq}})
        await asyncio.sleep(1.0)
        await second.command({"op": "subscribe", "channel": channel, "symbols": [sorted(seq)[0]], **options,
                              "resume": {"epoch": "x", "seq": {sorted(seq)[0]: 1}}})
        await second.close()


async def far_resume(world):
    """Number 1 is hardly held any more: one gap (cause hub), then what is held."""
    sym = sorted(world.universe)[0]
    for channel in ("trade", "quote", "book"):
        options = {"mode": "every"} if channel != "trade" else {}
        probe = await Session(world, "far resume, epoch").open()
        await probe.command({"op": "subscribe", "channel": channel, "symbols": [sym], **options})
        await asyncio.sleep(0.3)
        epoch, stream = probe.model.epochs.get((channel, sym)), probe.model.streams.get((channel, sym))
        await probe.close()
        if not epoch or not stream or stream.last < 2:
            continue
        session = await Session(world, f"far resume {channel}").open()
        session.messages = []
        await session.command({"op": "subscribe", "channel": channel, "symbols": [sym], **options,
                               "resume": {"epoch": epoch, "seq": {sym: 1}}})
        await asyncio.sleep(0.5)
        gaps = [m for m in session.messages if b'"op":"gap"' in m]
        ok = not gaps or b'"cause":"hub"' in gaps[0] or b'"cause":"upstream"' in gaps[0]
        world.report.check("resume_continues", ok, lambda: f"the gap's cause: {gaps[0]!r}", session)
        await session.close()


async def binary(world):
    """Not the values, which need the published offsets: the framing of records and the iid of each."""
    report, records = world.report, []
    session = Session(world, "binary")
    try:
        await session.open(subprotocols=["tickhub.v1.bin"])
    except Refused as refused:
        return report.check("binary_form", False, f"tickhub.v1.bin is not spoken: {refused}")
    plain = session._receive

    def receive(raw, is_text):
        if is_text:
            plain(raw, is_text)
        else:
            records.append(raw)
    session.socket.on_message = receive
    names = sorted(world.universe)[:3]
    for channel in ("ticker", "quote", "trade", "book"):
        await session.command({"op": "subscribe", "channel": channel, "symbols": names})
    await asyncio.sleep(1.5)
    known = {world.oracle.iids.get(n) for n in names}
    for message in records:
        at = 0
        while at < len(message):
            if len(message) - at < 8:
                report.check("binary_form", False, f"{len(message) - at} bytes left over: {message[at:].hex()}", session)
                break
            length, kind, flags, iid = struct.unpack_from("<HBBI", message, at)
            ok = 8 <= length <= len(message) - at and kind in KINDS and flags < 8 and iid in known
            if not report.check("binary_form", ok, lambda: f"length {length}, kind {kind}, flags {flags}, iid {iid}", session):
                break
            if kind != 7:
                seq, ts, rx = struct.unpack_from("<Qqq", message, at + 8)
                ok = 0 < seq < 1 << 40 and 10 ** 18 < rx < 4 * 10 ** 18
                report.check("binary_form", ok, lambda: f"kind {kind}: seq {seq}, ts {ts}, rx {rx}", session)
            at += length
    report.check("binary_form", bool(records), f"no binary message in 1.5s; text: {list(session.tail)[-1:]}", session)
    await session.close()


async def run(world):
    parts = [url(world), precedence(world), resume(world), far_resume(world)]
    if "binary" not in world.without:
        parts.append(binary(world))
    for part in parts:
        try:
            session = await part
            if session:
                await session.close()
        except Exception as error:
            world.report.fail("answered", f"{part.__name__}: {error!r}")


