// Reads {"encode": object} or {"decode": hex} a line, answers with Eclipse Tahu's encoding or reading of it.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const { org } = createRequire(import.meta.url)('sparkplug-payload/lib/sparkplugPayloadProto');
const { Payload } = org.eclipse.tahu.protobuf;

createInterface({ input: process.stdin }).on('line', (line) => {
  const { encode, decode } = JSON.parse(line);
  if (encode) console.log(JSON.stringify(Buffer.from(Payload.encode(Payload.fromObject(encode)).finish()).toString('hex')));
  else console.log(JSON.stringify(Payload.toObject(Payload.decode(Buffer.from(decode, 'hex')), { longs: Number })));
});
