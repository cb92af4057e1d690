"""Counts checks, keeps the first violations of each rule with their context, and prints the verdict."""

import time
from collections import Counter, defaultdict

from rules import GROUPS, RULES

KEPT = 3


class Report:
    def __init__(self, seed):
        self.seed = seed
        self.counts = Counter()
        self.violations = defaultdict(list)
        self.violated = Counter()
        self.notes = {}
        self.facts = []
        self.start = time.monotonic()

    def check(self, rule, ok, detail="", session=None):
        """Count one check of `rule`; `detail` may be a callable, to keep the good path cheap."""
        self.counts[rule] += 1
        if not ok:
            self._violate(rule, detail, session)
        return ok

    def fail(self, rule, detail, session=None):
        """A violation whose check was counted elsewhere (or cannot be counted)."""
        self.counts[rule] += 1
        self._violate(rule, detail, session)

    def _violate(self, rule, detail, session):
        assert rule in RULES, rule
        self.violated[rule] += 1
        if len(self.violations[rule]) < KEPT:
            text = detail() if callable(detail) else detail
            context = session.context(text) if session is not None else []
            self.violations[rule].append((time.monotonic() - self.start, text, context))

    def note(self, text, detail=""):
        """Something seen where the protocol is silent, or that could not be judged."""
        count, sample = self.notes.get(text, (0, detail))
        self.notes[text] = (count + 1, sample)

    def fact(self, text):
        self.facts.append(text)

    @property
    def failed(self):
        return bool(self.violated)

    def render(self):
        lines = [f"conformance report, seed {self.seed}", ""]
        lines += [f"  {fact}" for fact in self.facts] + [""]
        for group, title in GROUPS.items():
            rules = [r for r, (g, _) in RULES.items() if g == group]
            made = sum(self.counts[r] for r in rules)
            bad = sum(self.violated[r] for r in rules)
            verdict = "FAIL" if bad else ("ok" if made else "NOT CHECKED")
            lines.append(f"[{verdict:>4}] {title}: {made} checks, {bad} violations")
            for rule in rules:
                if self.counts[rule]:
                    mark = "x" if self.violated[rule] else " "
                    lines.append(f"   {mark} {rule:<24} {self.counts[rule]:>9}  {self.violated[rule] or ''}")
        missed = [r for r in RULES if not self.counts[r]]
        if missed:
            lines += ["", "never came up in this run: " + ", ".join(missed)]
        if self.notes:
            lines += ["", "notes (no violation; the protocol is silent, or it could not be judged):"]
            for text, (count, sample) in self.notes.items():
                lines.append(f"  - {text} (x{count}){': ' + sample if sample else ''}")
        for rule, found in self.violations.items():
            lines += ["", f"VIOLATION {rule} x{self.violated[rule]} (seed {self.seed})", f"  protocol: \"{RULES[rule][1]}\""]
            for at, text, context in found:
                lines.append(f"  - at {at:.2f}s: {text}")
                lines += [f"        {c}" for c in context]
        lines += ["", "RESULT: " + ("FAIL" if self.failed else "PASS")]
        return "\n".join(lines)
