"""A plain HTTP client in a thread, and readers that find what they need wherever the answer keeps it."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from urllib.parse import quote, urlencode

ID = re.compile(r"^[A-Z0-9_]{1,16}:[A-Z0-9._=^/+-]{1,40}$")


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = {k.lower(): v for k, v in headers}
        self.body = body

    @property
    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def _call(url, method, headers, body):
    request = urllib.request.Request(url, data=body, method=method, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return Answer(answer.status, answer.getheaders(), answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers.items(), error.read())


class Rest:
    def __init__(self, base, token=None):
        self.base, self.token = base.rstrip("/"), token

    async def call(self, path, method="GET", headers=(), body=None, token=...):
        token = self.token if token is ... else token
        headers = list(headers) + ([("Authorization", f"Bearer {token}")] if token else [])
        return await asyncio.to_thread(_call, self.base + path, method, headers, body)

    async def page(self, **query):
        query = {k: v for k, v in query.items() if v is not None}
        return await self.call("/api/v1/instruments" + ("?" + urlencode(query) if query else ""))

    async def instruments(self, limit=None, **query):
        """All instruments, page by page: ids in the order given, and the number of pages."""
        ids, cursor, pages = [], None, 0
        while pages < 10_000:
            answer = await self.page(limit=limit, cursor=cursor, **query)
            if answer.status != 200:
                raise RuntimeError(f"GET /instruments: {answer.status} {answer.body[:200]!r}")
            pages += 1
            ids += [instrument_id(item) for item in items_of(answer.json)]
            cursor = next_cursor(answer.json)
            if not cursor:
                return ids, pages
        raise RuntimeError("GET /instruments: the cursor never ends")

    async def instrument(self, iid):
        return await self.call("/api/v1/instruments/" + quote(iid, safe=""))


def items_of(page):
    if isinstance(page, list):
        return page
    for name in ("instruments", "items", "data"):
        if isinstance(page, dict) and isinstance(page.get(name), list):
            return page[name]
    return []


def next_cursor(page):
    if isinstance(page, dict):
        for name in ("next_cursor", "cursor", "next"):
            if page.get(name):
                return page[name]
    return None


def instrument_id(item):
    if isinstance(item, str):
        return item
    for name in ("id", "symbol", "sym", "instrument"):
        if ID.match(str(item.get(name, ""))):
            return item[name]
    return next((v for v in item.values() if isinstance(v, str) and ID.match(v)), None)


def _objects(value):
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _objects(inner)


def seq_by_channel(detail):
    """{("trade", None): 5, ("book", 10): 9, ...} from whatever member holds last `seq` by channel."""
    for value in _objects(detail):
        if not any(isinstance(value.get(c), (int, dict)) and not isinstance(value.get(c), bool)
                   for c in ("ticker", "quote", "trade")):
            continue
        found = {}
        for name, number in value.items():
            head = re.match(r"^book[^0-9]*([0-9]+)$", name)
            if head and isinstance(number, int):
                found["book", int(head[1])] = number
            elif name == "book" and isinstance(number, dict):
                found.update({("book", int(re.sub(r"\D", "", d))): n for d, n in number.items()
                              if re.sub(r"\D", "", d) and isinstance(n, int)})
            elif name == "book" and isinstance(number, list):
                for entry in number:
                    if isinstance(entry, dict) and {"depth", "seq"} <= set(entry):
                        found["book", entry["depth"]] = entry["seq"]
            elif isinstance(number, int):
                found[name, None] = number
            elif isinstance(number, dict) and isinstance(number.get("seq"), int):
                found[name, None] = number["seq"]
        return found
    return {}


def feed_state(detail):
    states = ("live", "stale", "recovering", "down")
    for value in _objects(detail):
        for name in ("feed_state", "state", "status", "feed"):
            if value.get(name) in states:
                return value[name]
    return None


def member(detail, name):
    return next((value[name] for value in _objects(detail) if name in value), None)
