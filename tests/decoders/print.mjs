// Decodes one message a line, in hex, to a list of events in JSON: how tests run the decoder.
import { createInterface } from 'node:readline';
import { decode } from '../../docs/decoders/binary.mjs';

for await (const line of createInterface({ input: process.stdin })) {
  const text = JSON.stringify(decode(Buffer.from(line, 'hex')), (_, value) => (typeof value === 'bigint' ? value.toString() : value));
  process.stdout.write(`${text}\n`);
}
