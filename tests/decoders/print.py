"""Decodes one message a line, in hex, to a list of events in JSON: how tests run the decoder."""

import json
import pathlib
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "docs" / "decoders"))
from binary import decode  # noqa: E402

for line in sys.stdin:
    events = decode(bytes.fromhex(line))
    for event in events:
        for name in ("ts", "rx"):
            if event.get(name) is not None:
                event[name] = str(event[name])
    print(json.dumps(events, default=lambda decimal: format(decimal, "f")), flush=True)
