// Every message of a lineside box once, and what is missing asked for again: `npm install mqtt`, then
// node subscriber.mjs mqtt://broker 'lineside/hamburg/#' mes-1
import mqtt from 'mqtt';

const [url = 'mqtt://127.0.0.1', filter = 'lineside/#', me = 'mes-1'] = process.argv.slice(2);
const streams = new Map(); // station and epoch -> done: all up to here is settled; seen: what is above; last: known
const boxes = new Map(); // epoch -> the topic where its box is asked
const client = mqtt.connect(url, { protocolVersion: 5, clientId: me, clean: false, properties: { sessionExpiryInterval: 86400 } });
client.on('connect', () => client.subscribe(filter, { qos: 1 }));

function streamOf(station, epoch) {
  const key = `${station} ${epoch}`;
  if (!streams.has(key)) streams.set(key, { station, epoch, done: 0, seen: new Set(), last: 0 });
  return streams.get(key);
}
function settle(stream, first, last) {
  for (let seq = Math.max(first, stream.done + 1); seq <= last; seq++) stream.seen.add(seq);
  while (stream.seen.delete(stream.done + 1)) stream.done++;
  stream.last = Math.max(stream.last, last);
}
const handle = (message) => console.log(JSON.stringify(message)); // yours: book it, and keep `streams` with it

client.on('message', (topic, payload) => {
  const m = JSON.parse(payload);
  if (m.kind === 'status') { // how far the box is, and where to ask it
    if (m.resend_topic) boxes.set(m.epoch, m.resend_topic);
    for (const [station, seq] of Object.entries(m.last_seq ?? {})) settle(streamOf(station, m.epoch), seq + 1, seq);
  } else if (m.kind === 'reply' && m.ok && topic.endsWith(`/${me}`)) { // what will never come
    const gone = m.result.missing.filter((run) => run.reason !== 'not written');
    for (const run of gone) settle(streamOf(m.result.station, m.result.epoch), run.first_seq, run.last_seq);
  } else if (m.seq) {
    const stream = streamOf(m.station, m.epoch);
    if (m.seq <= stream.done || stream.seen.has(m.seq)) return; // it came before
    handle(m);
    settle(stream, m.seq, m.seq);
    if (m.kind === 'gap' && m.first_seq) settle(stream, m.first_seq, m.last_seq);
  }
});
setInterval(() => { // what is missing for a whole round is asked for
  for (const stream of streams.values()) {
    const topic = boxes.get(stream.epoch), { station, epoch, done, last } = stream;
    const ask = { station, epoch, from: done + 1, to: Math.min(last, done + 5000), response_topic: `${topic}/${me}` };
    if (topic && done < last && done === stream.before) client.publish(topic, JSON.stringify(ask), { qos: 1 });
    stream.before = done;
  }
}, 1000);
