"""How late the judge itself runs: what it cannot read in time is not held against the hub."""

import asyncio
import time
from collections import deque

STOOD_STILL = 1.0     # seconds in which the judge did nothing: its own lateness, not the hub's
BUSY = 0.75           # share of its time that leaves the judge none to keep up


class Lag:
    STEP = 0.05

    def __init__(self):
        self.samples = deque(maxlen=2400)   # (when, how late), two minutes
        self.worst = 0.0

    async def run(self):
        while True:
            before = time.monotonic()
            await asyncio.sleep(self.STEP)
            now = time.monotonic()
            late = now - before - self.STEP
            self.worst = max(self.worst, late)
            self.samples.append((now, late))

    def worst_since(self, when):
        worst = 0.0
        for at, late in reversed(self.samples):
            if at < when:
                break
            worst = max(worst, late)
        return worst

    def late_since(self, when):
        """Whether the judge itself was late since then: stood still for long, or had no time left over for seconds.

        Without the second a judge that is always a little behind would take its own backlog for the hub's.
        """
        spent, idle = 0.0, 0.0
        for at, late in reversed(self.samples):
            if at < when:
                break
            if late > STOOD_STILL:
                return True
            spent, idle = spent + late, idle + self.STEP
        return spent > BUSY * (spent + idle) and spent > STOOD_STILL


class Timing:
    """The protocol's times in seconds; the self-test shortens them."""

    auth_timeout = 5.0
    stall = 20.0
    stall_close = 2.0
    ping = 15.0
    heartbeat = 45.0
    answer = 5.0
