"""Every rule the judge checks: a short name, the group it is reported under, and the sentence it stands on."""

GROUPS = {
    "G1": "Guarantee 1: answer, snapshot, live, in that order",
    "G2": "Guarantee 2: `every` is complete, or a gap names what is missing; books stay whole",
    "G3": "Guarantee 3: `latest` grows, keeps to its rate and ends on the last value",
    "G4": "Guarantee 4: feed state is told in band",
    "G5": "Guarantee 5: resume",
    "G6": "Guarantee 6: nothing leaves the grant",
    "G7": "Guarantee 7: a stalled subscriber changes nothing for the others",
    "CMD": "Commands and answers (section 3)",
    "DATA": "Form of the data (sections 1 and 4)",
    "CRED": "Credentials (section 2)",
    "LIFE": "Keeping alive and ending (section 5)",
    "HTTP": "HTTP (section 8)",
}

_TABLE = """
answer_first|G1|The answer to a subscribe comes before any data of it
snapshot_first|G1|the snapshot before any live event
snapshot_live_seam|G1|between snapshot and live there is neither a hole nor a repeat
snapshot_number|G1|its `seq` N is the stream's last published number ...; N may be above the `seq` in `accepted`
first_live|G1|without a snapshot the first live event of `every` is the `seq` in `accepted` + 1
unasked_snapshot|G1|An instrument that already reaches the session gets a new snapshot only if the `mode` or `depth` in effect for it changes or `"snapshot":true` is given explicitly
snapshot_comes|G1|"snapshot":true, send the current state first (default true)
after_unsubscribed|G1|nothing that is no longer covered follows its answer
change_announced|G1|where an `unsubscribe` or a renewal changes them, a `subscribed` without `id` says so first
not_subscribed_data|G1|A session holds entries (channel, id or pattern). An event reaches it once, however many entries match
every_contiguous|G2|`every`: each `seq` arrives once, in order, or a `gap` names exactly the numbers that did not
gap_exact|G2|a `gap` names exactly the numbers that did not; `from` and `to` are inclusive
gap_upstream|G2|An upstream loss takes one number of its own, published to every `every` subscription and kept for resume
resubscribe_loses|G2|Subscribing again replaces an entry's options and loses nothing
book_gap_snapshot|G2|A `book` gap is followed by a fresh snapshot whose `seq` is the gap's `to`
same_everywhere|G2|`seq`: +1 for every event of one stream (one number is one event, in every session and mode)
same_stamps|G2|`ts` and `rx` are those of what caused the event: one number of a book has one `ts` and one `rx`, in a snapshot too
book_equal|G2|A book stream of depth N is a complete book of N levels a side: a change that moves the window carries the level that enters and size "0" for the one that leaves
book_depths|G2|A book stream of depth N is a complete book of N levels a side (the windows of two depths after the same change agree)
book_levels|G2|A book stream of depth N is a complete book of N levels a side
book_crossed|G2|(a validated book is not crossed: best bid below best ask)
book_depth|G2|options come from the exact entry if there is one, else from the matching pattern with the most bytes (depth in effect)
latest_grows|G3|`latest`: `seq` only grows
latest_no_gap|G3|a `latest` subscription gets no gaps; the number shows only as a difference in `seq`
latest_book_full|G3|`book`: latest (each update a full `snap` window of the asked depth)
max_rate|G3|"max_rate":10, updates a second for one instrument
last_value|G3|the last value always arrives once the socket takes it, with `max_rate` at most one interval later
fresh_value|G3|what arrives is the newest value that the worker holds at the moment of writing
status_told|G4|A subscriber of an instrument is told of every change of its feed's state in band, without asking
status_once|G4|then each change, once per session and feed
status_before_snapshot|G4|Right after `subscribed`, before the snapshot, comes the state of each feed concerned that is not `live`
status_concerns|G4|`sym` is an id, or `VENUE:*` meaning this session's instruments of that venue
resume_continues|G5|listed instruments continue after their number with no snapshot; numbers no longer held come first as one `gap`, then what is held
resume_no_snapshot|G5|listed instruments continue after their number with no snapshot
resume_as_new|G5|an unlisted instrument, another epoch or a number above the hub's starts from a snapshot as if new
resume_refused|G5|A resume that lists an instrument which already reaches the session on that channel, by whatever entry, is `bad_message`
grant_data|G6|No event, snapshot, number or status of an instrument reaches a session that is not entitled to it, whatever pattern it used
grant_accepted|G6|No ... number ... of an instrument reaches a session that is not entitled to it (accepted lists)
grant_code|G6|outside the grant is `not_entitled` whether it exists or not
grant_rest|G6|`GET /instruments`: the instruments this caller may see
grant_renewal|G6|What a smaller grant takes away is {"op":"unsubscribed",...,"code":"not_entitled"} without `id`
healthy_no_gap|G7|One subscriber that stops reading changes nothing for any other (a reading session got a slow_consumer gap)
healthy_no_stall|G7|One subscriber that stops reading changes nothing for any other (delivery stood still)
healthy_not_closed|G7|One subscriber that stops reading changes nothing for any other (a reading session was closed)
hub_serves|LIFE|(nothing from a peer may stop the hub from serving others)
stalled_closed|LIFE|A session that takes nothing off its socket for 20 s while something waits is closed 4001
answered|CMD|Every command carries an optional `id`, echoed in its answer
answer_kind|CMD|A fault of one symbol stands in `rejected`, and the answer is `subscribed` or `unsubscribed`; any other fault is one `error` and changes nothing
answer_shape|CMD|Answers: the shapes listed in section 3
options_echo|CMD|The answer echoes the effective `mode`, `max_rate`, `depth`: what exceeds the grant is lowered, not refused
accepted_exact|CMD|`accepted` has one entry per instrument matched now
accepted_pattern|CMD|accepted: ..."pattern":"SIM:*" (one of the patterns that the command named and that matches)
rejected_exact|CMD|outside the grant is `not_entitled` whether it exists or not, inside and absent `unknown_symbol`, malformed `bad_symbol`; `unsubscribe` removes exactly the entries named (else `not_subscribed`)
unsubscribed_exact|CMD|`unsubscribe` removes exactly the entries named
iid_stable|CMD|`iid` belongs to the instrument, is the same for every session and channel
welcome|CMD|After the first successful `auth` (or handshake credential): {"op":"welcome",...}
error_code|CMD|Error codes of commands
malformed|CMD|unknown members in a client message are an error; an option that does not belong to the channel or mode is `bad_message`
renewal|CMD|a bad one is answered and the session goes on to its old expiry
renewal_sub|CMD|A renewal must have the same `sub`
ten_bad|LIFE|Ten `bad_message` or `unknown_op` in a minute close with 4500
ten_rate|LIFE|ten `rate_limited` [in a minute close] with 4003
others_count_not|LIFE|no other code counts
split_answer|CMD|Long answers are split, all but the last carrying "more":true
url_subscribe|CMD|GET /api/v1/ws/prices?symbols=A,B&channels=ticker: subscribe by URL
form|DATA|section 4: the form of the message
decimal|DATA|exact decimal as a JSON string in plain notation, never an exponent
time_form|DATA|nanoseconds since the Unix epoch, as a JSON string
binary_form|DATA|section 6: A message is one or more records end to end; every record begins with the same 8 bytes
cred_header|CRED|Bad in a header: HTTP 401 with the error envelope
cred_late|CRED|Bad in the subprotocol or the query: the upgrade succeeds and the session is closed with 4501 at once
cred_bearer_alone|CRED|an offer with a `bearer.` entry and no `tickhub.v1.*` entry is 400
cred_echo|CRED|only `tickhub.v1.*` is ever echoed
cred_order|CRED|the first that is present counts and the others are ignored
cred_scheme|CRED|`Authorization: Bearer <jwt>` (another scheme counts as absent)
cred_good|CRED|Credentials: header, subprotocol entry, query, `auth` command
cred_unauth|CRED|None: allowed until the timeout, every other command answered `unauthenticated`
cred_timeout|CRED|None: allowed until the timeout (then 4503)
cred_bad_auth|CRED|A first `auth` that fails is answered and closed with 4501
ws_frames|LIFE|1002, 1003, 1007, 1009 (as in RFC 6455)
ping|LIFE|The hub sends a WebSocket ping every 15 s
pong|LIFE|RFC 6455 5.5.3: a Pong has the Ping's application data
heartbeat|LIFE|and closes a session that has shown no sign of life for 45 s (4002)
expiry|LIFE|4004 token_expired
close_code|LIFE|Close codes are the contract
envelope|HTTP|Errors everywhere: {"error_code","message","details","timestamp","request_id"} with the right status
request_id|HTTP|`X-Request-Id` is taken (if sane) or made, returned
paging|HTTP|GET /instruments?venue=&prefix=&limit=&cursor=
instrument|HTTP|GET /instruments/{id}: definition, `iid`, feed state, last `seq` by channel
etag|HTTP|GET /instruments/{id}/ticker: latest value, with `ETag`; `If-None-Match` answers 304
http_open|HTTP|GET /health: role none; described by /api/v1/openapi.json
operations|HTTP|The operations listener serves `/metrics`, `/livez`, `/readyz`
role|HTTP|admin paths: role admin
"""

RULES = {}
for _line in _TABLE.strip().splitlines():
    _name, _group, _sentence = _line.split("|", 2)
    RULES[_name] = (_group, _sentence)
