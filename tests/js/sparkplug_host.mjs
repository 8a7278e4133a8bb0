// A Sparkplug B host application that knows nothing of lineside: npm's mqtt client, Eclipse Tahu's payload decoder, and
// the specification's rules for what an edge node sends. Prints a JSON line for each message and for each broken rule.
//   node sparkplug_host.mjs PORT [HOST_ID]      lines on standard input: rebirth GROUP NODE | online | offline | quit
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import mqtt from 'mqtt';

const require = createRequire(import.meta.url);
const { get } = require('sparkplug-payload');
const { org } = require('sparkplug-payload/lib/sparkplugPayloadProto');
const spb = get('spBv1.0');
const Raw = org.eclipse.tahu.protobuf.Payload;

const [port, hostId] = process.argv.slice(2);
const connected = Date.now(); // the will and the birth of a connection have one timestamp
const state = (online, timestamp = connected) => JSON.stringify({ online, timestamp });
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const nodes = new Map(); // "group/node" -> { online, bdSeq, seq, devices: Map, aliases: Map }

let online = false;
const tell = (...words) => client.publish(`spBv1.0/STATE/${hostId}`, state(...words), { qos: 1, retain: true });
const will = hostId && { topic: `spBv1.0/STATE/${hostId}`, payload: state(false), qos: 1, retain: true };
const client = mqtt.connect({ host: '127.0.0.1', port: Number(port), protocolVersion: 5, clean: true, will, reconnectPeriod: 50 });
client.on('connect', () => client.subscribe('spBv1.0/#', { qos: 1 }, () => {
  say({ ready: true });
  if (online) tell(true, connected);
}));
client.on('error', () => {}); // it reconnects
client.on('message', (topic, bytes, packet) => {
  const [, group, verb, node, device] = topic.split('/');
  if (group === 'STATE' || verb === 'NCMD') return;
  const broken = [];
  const must = (holds, rule) => holds || broken.push(rule);
  const said = receive(must, `${group}/${node}`, verb, device, bytes, packet);
  say({ verb, node: `${group}/${node}`, device, ...said, ...(broken.length && { broken }) });
});

function receive(must, id, verb, device, bytes, packet) {
  if (!nodes.has(id)) nodes.set(id, { online: false, devices: new Map() });
  const known = nodes.get(id);
  must(packet.retain === false, `${verb} is retained`);
  must(verb === 'NDEATH' || packet.qos === 0, `${verb} has QoS ${packet.qos}`);
  const raw = Raw.decode(bytes);
  const untyped = raw.metrics.filter((metric) => !metric.datatype).length;
  const birth = verb.endsWith('BIRTH');
  if (verb !== 'NDEATH' && !birth) {
    for (const metric of raw.metrics) {
      const told = known.aliases?.get(String(metric.alias));
      must(told && told.device === device, `${verb} has alias ${metric.alias}, which no birth gave to this device`);
      must(!metric.name, `${verb} names ${metric.name} beside its alias`);
      must(metric.timestamp, `${verb} has a metric without a timestamp`);
      if (told) Object.assign(metric, { datatype: told.type, name: told.name });
    }
  }
  const payload = spb.decodePayload(Raw.encode(raw).finish());
  const seq = raw.hasOwnProperty('seq') ? Number(payload.seq) : null;
  const metrics = Object.fromEntries(payload.metrics.map((metric) => [metric.name, metric]));
  const plain = (value) => (value !== null && typeof value === 'object' ? Number(value) : value);
  const values = Object.fromEntries(payload.metrics.map((m) => [m.name, m.isNull ? null : plain(m.value)]));
  const historical = payload.metrics.filter((metric) => metric.isHistorical).length;
  must(payload.timestamp, `${verb} has no timestamp`);
  const bdSeq = values.bdSeq;

  if (verb === 'NDEATH') {
    must(seq === null, 'NDEATH has a seq');
    must(payload.metrics.length === 1 && metrics.bdSeq?.type === 'Int64', 'NDEATH must hold bdSeq alone, an Int64');
    if (known.online && bdSeq === known.bdSeq) known.online = false;
    else if (known.online) must(bdSeq === known.before, `NDEATH of connection ${bdSeq}, which is not ${known.bdSeq}`);
    return { bdSeq };
  }
  if (verb === 'NBIRTH') {
    const again = known.online && bdSeq === known.bdSeq;
    must(seq === 0, `NBIRTH has seq ${seq}`);
    must(metrics.bdSeq?.type === 'Int64' && bdSeq >= 0 && bdSeq <= 255, 'NBIRTH has no good bdSeq');
    if (known.bdSeq !== undefined && !again) {
      must(!known.online || bdSeq !== known.bdSeq, 'a new session has the bdSeq of the old one');
      must(bdSeq === (known.bdSeq + 1) % 256, `bdSeq goes from ${known.bdSeq} to ${bdSeq}`);
    }
    if (again) must(known.asked, 'NBIRTH with the same bdSeq, and nobody asked for a rebirth');
    const rebirth = metrics['Node Control/Rebirth'];
    must(rebirth?.type === 'Boolean' && rebirth.value === false, 'Node Control/Rebirth is not a false Boolean');
    must(rebirth?.alias === undefined, 'Node Control/Rebirth has an alias');
    const before = again ? known.before : known.bdSeq;
    Object.assign(known, { online: true, asked: false, before, bdSeq, devices: new Map(), aliases: new Map() });
  } else {
    must(known.online, `${verb} of a node that is not born`);
    must(seq === (known.seq + 1) % 256, `seq goes from ${known.seq} to ${seq}`);
  }
  known.seq = seq;
  if (birth) {
    must(untyped === 0, `${verb} has metrics without a datatype`);
    for (const metric of payload.metrics) {
      must(metric.name && metric.timestamp, `${verb} has a metric without name or timestamp`);
      if (metric.name === 'Node Control/Rebirth') continue;
      must(metric.alias !== undefined, `${verb} gives ${metric.name} no alias`);
      must(!known.aliases?.has(String(metric.alias)) , `${verb} gives alias ${metric.alias} twice`);
      const type = raw.metrics.find((other) => other.name === metric.name).datatype;
      known.aliases?.set(String(metric.alias), { name: metric.name, device, type });
    }
  }
  if (verb === 'DBIRTH') {
    must(!known.devices.get(device), `DBIRTH of ${device}, which is alive`);
    known.devices.set(device, true);
  } else if (device) {
    must(known.devices.get(device), `${verb} of ${device}, which is not born`);
    if (verb === 'DDEATH') {
      known.devices.set(device, false);
      for (const [alias, told] of known.aliases) if (told.device === device) known.aliases.delete(alias);
    }
  }
  return { seq, bdSeq, values, historical, metrics: payload.metrics.length, untyped, at: Number(payload.timestamp) };
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const [verb, group, node] = line.split(' ');
  if (verb === 'rebirth') {
    const metrics = [{ name: 'Node Control/Rebirth', type: 'Boolean', value: true }];
    if (nodes.has(`${group}/${node}`)) nodes.get(`${group}/${node}`).asked = true;
    client.publish(`spBv1.0/${group}/NCMD/${node}`, Buffer.from(spb.encodePayload({ timestamp: Date.now(), metrics })));
  } else if (verb === 'quit') client.end(() => process.exit(0));
  else tell((online = verb === 'online'), online ? connected : Date.now());
});
