"""HTTP: the error envelope, request ids, paging, conditional requests, the operations listener (section 8)."""

import re
from urllib.parse import quote

from rest import Rest, feed_state, member, seq_by_channel

RFC3339 = re.compile(r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$")


def check_envelope(report, answer, what):
    body = answer.json
    ok = isinstance(body, dict) and all(isinstance(body.get(n), str) for n in ("error_code", "message", "request_id"))
    ok = ok and isinstance(body.get("details"), dict) and bool(RFC3339.match(str(body.get("timestamp"))))
    report.check("envelope", ok, f"{what}: {answer.status} {answer.body[:300]!r}")
    header = answer.headers.get("x-request-id")
    report.check("request_id", bool(header) and isinstance(body, dict) and body.get("request_id") == header,
                 f"{what}: header {header}, body {answer.body[:200]!r}")


async def errors(world, report, rest):
    async def case(status, path, **how):
        answer = await rest.call(path, **how)
        wanted = status if isinstance(status, tuple) else (status,)
        report.check("envelope", answer.status in wanted, f"{path} {how}: {answer.status}, not {status}")
        if answer.status in wanted:
            check_envelope(report, answer, f"{path} {how}")
    await case(401, "/api/v1/instruments", token=None)
    await case(401, "/api/v1/instruments", token="not.a.token")
    await case(404, "/api/v1/nothing-here")
    await case(404, "/nothing-here")
    await case(404, "/api/v1/instruments/" + quote("SIM:NONE-SUCH", safe=""))
    await case((404, 400), "/api/v1/instruments/" + quote("no id", safe=""))
    await case(400, "/api/v1/instruments?limit=many")
    await case(400, "/api/v1/instruments?cursor=%00%00junk")
    await case(405, "/api/v1/instruments", method="DELETE")
    await case((400, 426), "/api/v1/ws/prices")
    if "tokens" not in world.without:
        await case((400, 401, 415, 422), "/api/v1/auth/token", method="POST", body=b"{")
        await case((400, 401, 415, 422), "/api/v1/auth/refresh", method="POST", body=b"{}")
    if "admin" not in world.without:
        await case((401, 403), "/api/v1/admin/connections", token=None)


async def request_ids(report, rest):
    answer = await rest.call("/api/v1/health", headers=[("X-Request-Id", "judge-0001")], token=None)
    report.check("request_id", answer.headers.get("x-request-id") == "judge-0001", f"taken: {answer.headers}")
    one, two = [(await rest.call("/api/v1/health", token=None)).headers.get("x-request-id") for _ in range(2)]
    report.check("request_id", bool(one) and bool(two) and one != two, f"made: {one}, {two}")
    answer = await rest.call("/api/v1/health", headers=[("X-Request-Id", "x" * 5000)], token=None)
    report.check("request_id", answer.headers.get("x-request-id") != "x" * 5000, "an insane id of 5000 bytes is taken")


async def instruments(report, rest, universe):
    ids = sorted(universe)
    for limit in (1, 3, 100):
        listed, pages = await rest.instruments(limit=limit)
        report.check("paging", len(set(listed)) == len(listed), f"limit {limit}: an instrument on two pages")
        report.check("paging", set(listed) >= universe, f"limit {limit}: misses {sorted(universe - set(listed))[:5]}")
        report.check("paging", pages >= -(-len(listed) // limit), f"limit {limit}: {len(listed)} instruments on {pages} pages")
    venue, _, symbol = ids[0].partition(":")
    listed, _ = await rest.instruments(venue=venue)
    report.check("paging", {i for i in universe if i.startswith(venue + ":")} <= set(listed)
                 and all(i.startswith(venue + ":") for i in listed), f"venue={venue}: {listed[:5]}")
    listed, _ = await rest.instruments(venue="NOVENUE")
    report.check("paging", listed == [], f"venue=NOVENUE: {listed[:5]}")
    listed, _ = await rest.instruments(prefix=symbol[:2])
    wanted = {i for i in universe if i.partition(":")[2].startswith(symbol[:2])}
    if not listed:
        listed, _ = await rest.instruments(prefix=f"{venue}:{symbol[:2]}")
        wanted = {i for i in universe if i.startswith(f"{venue}:{symbol[:2]}")}
        report.note("`prefix` is taken against the whole id, not the symbol")
    report.check("paging", set(listed) >= wanted and len(listed) < len(universe) + 1, f"prefix: {listed[:5]}, not {wanted}")
    for iid in ids[:5]:
        answer = await rest.instrument(iid)
        detail = answer.json
        ok = answer.status == 200 and isinstance(member(detail, "iid"), int)
        report.check("instrument", ok, f"{iid}: {answer.status} {answer.body[:300]!r}")
        report.check("instrument", bool(seq_by_channel(detail)) and feed_state(detail) is not None,
                     f"{iid}: feed state {feed_state(detail)}, last seq {seq_by_channel(detail)} in {answer.body[:400]!r}")


async def ticker(report, rest, universe):
    for iid in sorted(universe)[:3]:
        path = f"/api/v1/instruments/{quote(iid, safe='')}/ticker"
        for _ in range(20):
            answer = await rest.call(path)
            tag = answer.headers.get("etag")
            if answer.status != 200 or not tag:
                report.check("etag", False, f"{path}: {answer.status}, ETag {tag}, {answer.body[:200]!r}")
                break
            again = await rest.call(path, headers=[("If-None-Match", tag)])
            if again.status == 304:
                report.check("etag", not again.body, f"{path}: 304 with a body")
                break
            if again.headers.get("etag") == tag:
                report.check("etag", False, f"{path}: {again.status} with the same ETag {tag}")
                break
        else:
            report.note("the ticker changed between every two requests: 304 not seen", path)
        other = await rest.call(path, headers=[("If-None-Match", '"something-else"')])
        report.check("etag", other.status == 200, f"{path}: {other.status} for another tag")


async def open_paths(report, rest, ops):
    health = await rest.call("/api/v1/health", token=None)
    report.check("http_open", health.status == 200 and isinstance(health.json, dict), f"/health: {health.status}")
    document = await rest.call("/api/v1/openapi.json", token=None)
    if document.status == 401:
        document = await rest.call("/api/v1/openapi.json")
    ok = document.status == 200 and isinstance(document.json, dict) and "paths" in document.json
    report.check("http_open", ok, f"/openapi.json: {document.status}")
    if not ops:
        return
    for path in ("/metrics", "/livez", "/readyz"):
        answer = await Rest(ops).call(path)
        report.check("operations", answer.status == 200, f"{path}: {answer.status} {answer.body[:200]!r}")


async def run(world, rest, ops):
    report = world.report
    for part in (errors(world, report, rest), request_ids(report, rest), instruments(report, rest, world.universe),
                 ticker(report, rest, world.universe), open_paths(report, rest, ops)):
        try:
            await part
        except Exception as error:
            report.fail("envelope", f"{part.__name__}: {error!r}")
