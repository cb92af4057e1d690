#!/usr/bin/env python3
"""Judge a running hub by its wire contract: `guarantees.py --ready-file F`. Exit code 0 = every check held."""

import argparse
import asyncio
import json
import random
import sys
import time

import final
import probe_commands
import probe_credentials
import probe_grant
import probe_http
import probe_scenes
import stalled
import watchdog
from actor import Actor
from clock import Lag, Timing
from oracle import Oracle
from patterns import Grant
from report import Report
from rest import Rest
from session import Session, World
from tokens import Mint, claims
from ws import Refused

PART_LIMIT = 150.0
PARTS = ("http", "credentials", "commands", "scenes", "grant", "random")


# Parts of the contract that a hub may say in its own protocol page that it does not make yet.
WITHOUT = ("binary", "tokens", "admin")


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ready-file", required=True, help='JSON: {"http", "ws", "ops", "token"}')
    parser.add_argument("--sessions", type=int, default=200, help="random sessions at a time")
    parser.add_argument("--seconds", type=float, default=30, help="length of the random part")
    parser.add_argument("--seed", default=None, help="what the random sessions draw from (default: made and printed)")
    parser.add_argument("--stalled", type=int, default=5, help="sessions that stop reading for good")
    parser.add_argument("--budget", type=float, default=9000, help="messages a second that this machine may be sent in all")
    parser.add_argument("--tickhub", help="the hub's program, to mint narrowed and short-lived tokens")
    parser.add_argument("--config", help="the hub's configuration file, for minting")
    parser.add_argument("--narrow-token", help="a token narrowed by `symbols`, if there is no --tickhub")
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated parts of: {', '.join(PARTS)}")
    parser.add_argument("--without", default="", help=f"what this version of the hub does not make yet, of: {', '.join(WITHOUT)}")
    parser.add_argument("--slow", action="store_true", help="also the checks that take a minute (4002)")
    return parser.parse_args(argv)


async def measure(world, seconds):
    """Events a second of each stream, so that the random sessions ask for what this machine can read."""
    session = await Session(world, "measure").open()
    session.model.slack_until = float("inf")
    before = {}
    limited = bool(session.model.limits.get("max_rate"))
    mode = {} if limited else {"mode": "every"}
    for channel in ("ticker", "quote", "trade", "book"):
        options = {} if channel == "trade" else dict(mode, **({"mode": "latest"} if limited else {}))
        await session.command({"op": "subscribe", "channel": channel, "symbols": ["*"], **options})
    await asyncio.sleep(0.5)
    for key, stream in session.model.streams.items():
        before[key] = stream.last
    await asyncio.sleep(seconds)
    for key, stream in session.model.streams.items():
        world.rates[key] = max(0, stream.last - before.get(key, stream.last)) / seconds
    await session.close()
    total = {c: sum(r for (ch, _), r in world.rates.items() if ch == c) for c in ("ticker", "quote", "trade", "book")}
    world.report.fact("events a second: " + ", ".join(f"{c} {n:.0f}" for c, n in total.items()))
    world.report.check("answer_kind", any(total.values()), "no stream moves: is a provider running?", session)


def cast(world, args, narrow):
    """The random actors: most with a small budget, some wide, some pausing, some with the narrowed token."""
    rng = random.Random(f"{args.seed}:cast")
    share = args.budget / max(1, args.sessions)
    actors = []
    for index in range(args.sessions):
        budget = share * rng.choice((0.3, 0.5, 0.7, 1.0, 1.0, 2.5))
        if index % 50 == 0:
            budget = max(budget, args.budget / 10)
        token, grant = narrow if narrow[0] and index % 8 == 5 else (None, None)
        if index % 8 == 1 and world.limited:
            token = world.limited
        actors.append(Actor(world, index, args.seed, budget, token, grant, pauses=index % 9 == 4))
    return actors


async def random_part(world, args, narrow, rest):
    judged = await stalled.run(world, args.stalled)
    watcher = None
    if narrow[0] and "grant" in args.parts:
        watcher = await probe_grant.ask_for_everything(world, *narrow)
    dog = asyncio.create_task(watchdog.run(world))
    until = time.monotonic() + args.seconds
    actors = cast(world, args, narrow)
    done = await asyncio.gather(*(a.run(until) for a in actors), return_exceptions=True)
    for actor, outcome in zip(actors, done):
        if isinstance(outcome, Exception):
            world.report.note("the judge itself failed in an actor", f"#{actor.index}: {outcome!r}")
            if not isinstance(outcome, (OSError, asyncio.TimeoutError)):
                world.report.fail("answered", f"the judge itself failed in actor #{actor.index}: {outcome!r}", actor.session)
    await final.run(world, rest, args.seed)
    dog.cancel()
    await judged
    events = sum(m.events for m in world.models)
    world.report.fact(f"{len(world.models)} connections, {events} events checked, "
                      f"{sum(len(m.statuses) for m in world.models)} status messages")
    for session in [a.session for a in actors if a.session] + ([watcher] if watcher else []):
        if session.socket:
            session.model.end()
            session.socket.abort()


async def one_part(world, name, run, limit):
    """Run one part within `limit` seconds; afterwards a fresh session must still be served. False = give up."""
    began = time.monotonic()
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        await asyncio.wait_for(run(), limit)
    except asyncio.TimeoutError:
        world.report.fail("hub_serves", f"the part `{name}` did not end in {limit:.0f}s")
    alive = False
    try:
        # one session for each thread that could own it, and some more
        fresh = await asyncio.gather(*(Session(world, f"after {name}").open() for _ in range(8)))
        alive = all(s.model.welcome and s.socket.alive for s in fresh)
        for session in fresh:
            await session.close()
    except (OSError, asyncio.TimeoutError, Refused) as error:
        world.report.note("no fresh session", repr(error))
    world.report.check("hub_serves", alive, f"after the part `{name}` the hub does not serve a fresh session any more")
    world.report.fact(f"{name}: {time.monotonic() - began:.0f}s")
    return alive


async def judge(args, timing=None):
    """Run all parts and return the report."""
    args.seed = args.seed or str(random.SystemRandom().randrange(10 ** 9))
    args.parts = set(args.only.split(","))
    with open(args.ready_file) as file:
        ready = json.load(file)
    report = Report(args.seed)
    rest, lag = Rest(ready["http"], ready["token"]), Lag()
    watch = asyncio.create_task(lag.run())
    universe = set((await rest.instruments())[0])
    held = claims(ready["token"]).get("symbols")
    world = World(ready["ws"], ready["token"], Oracle(report), report, universe, lag, timing or Timing(),
                  Grant(held) if held else None)
    world.without = {name for name in args.without.split(",") if name}
    if world.without:
        report.fact(f"not asked for: {', '.join(sorted(world.without))}")
    mint = Mint(args.tickhub, args.config, claims(ready["token"]).get("sub"))
    report.fact(f"{len(universe)} instruments; {args.sessions} random sessions for {args.seconds:g}s, {args.stalled} stalled")
    await measure(world, 2.0 if args.seconds >= 10 else 0.7)
    slow = [asyncio.create_task(probe_commands.quiet_close(world))] if args.slow else []
    world.limited = mint.token(extra=("--max-rate", "4", "--depth", "10")) if "random" in args.parts else None
    narrow = probe_grant.narrowed(world, mint, args.narrow_token) if args.parts & {"grant", "random"} else (None, None)
    parts = [("http", lambda: probe_http.run(world, rest, ready.get("ops"))),
             ("credentials", lambda: probe_credentials.run(world)),
             ("commands", lambda: probe_commands.run(world, mint)),
             ("scenes", lambda: probe_scenes.run(world)),
             ("grant", lambda: probe_grant.rest(world, ready["http"], *narrow) if narrow[0] else asyncio.sleep(0)),
             ("random", lambda: random_part(world, args, narrow, rest))]
    for name, run in parts:
        if name in args.parts and not await one_part(world, name, run, PART_LIMIT + args.seconds):
            break
    if "commands" in args.parts:
        slow.append(asyncio.create_task(probe_commands.expiry(world, mint)))
    await asyncio.gather(*slow)
    world.oracle.finish()
    watch.cancel()
    report.fact(f"the judge's own worst delay: {lag.worst * 1000:.0f} ms")
    return report


def main():
    args = arguments()
    report = asyncio.run(judge(args))
    print(report.render())
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
