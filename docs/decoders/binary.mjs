// Reads messages of the WebSocket subprotocol `tickhub.v1.bin` (section 6 of ../protocol.md).
//
// One file, no dependencies, for browsers and Node. `decode(message)` gives the events and gaps of
// one binary message (an ArrayBuffer or a typed array), as objects with the members that JSON has,
// but:
//
// - `iid` in place of `sym`: the number that `accepted` gave for the symbol;
// - prices and sizes are text in plain notation, exact, without the venue's zeros at the end;
// - `ts` and `rx` are BigInts, nanoseconds since the Unix epoch; `ts` is null where not known.
//
// What is not known is absent, as in JSON. Text messages of the session are JSON and not for here.
// Set `socket.binaryType = "arraybuffer"` in a browser.

const KINDS = { 1: 'ticker', 2: 'quote', 3: 'trade', 4: 'book', 5: 'bar', 7: 'gap' };
const SIDES = { 0: 'unknown', 1: 'buy', 2: 'sell' };
const CAUSES = { 1: 'slow_consumer', 2: 'upstream', 3: 'hub' };
const SNAPSHOT = 1;
const CONTINUED = 4;
const ABSENT = -(1n << 63n);
const UNKNOWN = (1n << 64n) - 1n;
const LITTLE = true;

const TICKER_NAMES = ['last', 'last_sz', 'bid', 'bid_sz', 'ask', 'ask_sz', 'open', 'high', 'low', 'vol'];
const QUOTE_NAMES = ['bid', 'bid_sz', 'ask', 'ask_sz'];
const READERS = { ticker: readTicker, quote: readQuote, trade: readTrade, book: readBook };

/** The events and gaps of one binary message, in order. */
export function decode(message) {
  const view = ArrayBuffer.isView(message)
    ? new DataView(message.buffer, message.byteOffset, message.byteLength)
    : new DataView(message);
  const events = [];
  let begun = null;
  for (let at = 0, length; at < view.byteLength; at += length) {
    length = view.getUint16(at, LITTLE);
    if (length < 8 || at + length > view.byteLength) {
      throw new RangeError(`a record of ${length} bytes at ${at} in a message of ${view.byteLength}`);
    }
    const ch = KINDS[view.getUint8(at + 2)];
    const flags = view.getUint8(at + 3);
    const iid = view.getUint32(at + 4, LITTLE);
    if (ch === 'gap') {
      events.push({ op: 'gap', iid, ...readGap(view, at) });
      continue;
    }
    if (READERS[ch] === undefined) {
      begun = null; // a kind of a later version
      continue;
    }
    const event = { ch, iid, seq: Number(view.getBigUint64(at + 8, LITTLE)), ts: view.getBigInt64(at + 16, LITTLE) };
    if (event.ts === ABSENT) event.ts = null;
    const rx = view.getBigInt64(at + 24, LITTLE);
    if (rx !== ABSENT) event.rx = rx;
    Object.assign(event, READERS[ch](view, at));
    if (flags & SNAPSHOT) event.snap = true;
    if (begun !== null) {
      // The levels of a book go on.
      for (const level of event.bids) begun.bids.push(level);
      for (const level of event.asks) begun.asks.push(level);
    } else {
      events.push(event);
    }
    begun = flags & CONTINUED ? events[events.length - 1] : null;
  }
  return events;
}

/** `mantissa` × 10^`exponent` in plain notation. */
export function decimalText(mantissa, exponent) {
  const negative = mantissa < 0n;
  let digits = (negative ? -mantissa : mantissa).toString();
  if (exponent >= 0) {
    digits = mantissa === 0n ? '0' : digits + '0'.repeat(exponent);
  } else {
    digits = digits.padStart(1 - exponent, '0');
    digits = `${digits.slice(0, exponent)}.${digits.slice(exponent)}`;
  }
  return negative ? `-${digits}` : digits;
}

function readValues(view, at, names, exponentsAt) {
  const exponents = [view.getInt8(exponentsAt), view.getInt8(exponentsAt + 1)];
  const values = {};
  names.forEach((name, index) => {
    const mantissa = view.getBigInt64(at + 8 * index, LITTLE);
    const isSize = name.endsWith('sz') || name === 'vol';
    if (mantissa !== ABSENT) values[name] = decimalText(mantissa, exponents[isSize ? 1 : 0]);
  });
  return values;
}

function readTicker(view, at) {
  return readValues(view, at + 32, TICKER_NAMES, at + 112);
}

function readQuote(view, at) {
  return readValues(view, at + 32, QUOTE_NAMES, at + 64);
}

function readTrade(view, at) {
  const trade = readValues(view, at + 32, ['px', 'sz'], at + 48);
  trade.side = SIDES[view.getUint8(at + 50)];
  const length = view.getUint8(at + 51);
  if (length > 0) {
    trade.tid = String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at + 52, length));
  }
  return trade;
}

function readBook(view, at) {
  const [price, size] = [view.getInt8(at + 32), view.getInt8(at + 33)];
  const [bids, asks] = [view.getUint16(at + 36, LITTLE), view.getUint16(at + 38, LITTLE)];
  const levels = [];
  for (let index = 0; index < bids + asks; index += 1) {
    const level = at + 40 + 16 * index;
    const mantissas = [view.getBigInt64(level, LITTLE), view.getBigInt64(level + 8, LITTLE)];
    levels.push([decimalText(mantissas[0], price), decimalText(mantissas[1], size)]);
  }
  return { depth: view.getUint16(at + 34, LITTLE), bids: levels.slice(0, bids), asks: levels.slice(bids) };
}

function readGap(view, at) {
  const gap = {
    ch: KINDS[view.getUint8(at + 8)],
    from: Number(view.getBigUint64(at + 14, LITTLE)),
    to: Number(view.getBigUint64(at + 22, LITTLE)),
    cause: CAUSES[view.getUint8(at + 9)],
  };
  const lost = view.getBigUint64(at + 30, LITTLE);
  if (lost !== UNKNOWN) gap.lost = Number(lost);
  return gap;
}
