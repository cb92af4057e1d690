"""Reads the suite's index.json: prints what did not pass and a count of each outcome."""

import collections
import json
import sys

# The suite only measures in some cases; there is nothing to pass.
PASSED = {"OK", "INFORMATIONAL"}


def main(path):
    with open(path, encoding="utf-8") as file:
        (cases,) = json.load(file).values()
    failed = 0
    for number, case in sorted(cases.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        for what in ("behavior", "behaviorClose"):
            if case[what] not in PASSED:
                failed += 1
                print(f"{number}: {what} is {case[what]} (closed with {case['remoteCloseCode']})")
    counts = collections.Counter(case["behavior"] for case in cases.values())
    print(f"{len(cases)} cases: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
