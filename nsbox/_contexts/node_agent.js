// Runs in a sandbox as the program of a JavaScript context: cell after cell, in one global scope, as the REPL of Node
// evaluates them (last value, await, lexical declarations that live on). No line of it is trusted by anybody. Descriptor 3
// is a socket: requests come down, replies go up, flat arrays in msgpack with their length ahead (frames.py).
'use strict';
const net = require('node:net');
const fs = require('node:fs');
const repl = require('node:repl');
const util = require('node:util');
const { PassThrough } = require('node:stream');

const largest = Number(process.argv[2]);
const MOST_ITEMS = 200;

function pack(items) {
  const head = Buffer.alloc(3);
  head[0] = 0xdc;
  head.writeUInt16BE(items.length, 1);
  const parts = [head];
  for (const item of items) {
    if (item === null) parts.push(Buffer.from([0xc0]));
    else if (typeof item === 'boolean') parts.push(Buffer.from([item ? 0xc3 : 0xc2]));
    else if (typeof item === 'number') {
      const number = Buffer.alloc(9);
      number[0] = 0xcf;
      number.writeBigUInt64BE(BigInt(item), 1);
      parts.push(number);
    } else {
      const data = typeof item === 'string' ? Buffer.from(item.toWellFormed ? item.toWellFormed() : item) : Buffer.from(item);
      const length = Buffer.alloc(5);
      length[0] = typeof item === 'string' ? 0xdb : 0xc6;
      length.writeUInt32BE(data.length, 1);
      parts.push(length, data);
    }
  }
  const body = Buffer.concat(parts);
  const size = Buffer.alloc(4);
  size.writeUInt32LE(body.length);
  return Buffer.concat([size, body]);
}

function unpack(body) {
  let at = 0;
  const number = (size) => {
    at += size;
    return size === 8 ? Number(body.readBigUInt64BE(at - 8)) : body.readUIntBE(at - size, size);
  };
  const text = (size) => body.toString('utf8', at, (at += size));
  const item = () => {
    const kind = number(1);
    if (kind < 0x80) return kind;
    if ((kind >= 0x90 && kind < 0xa0) || kind === 0xdc || kind === 0xdd) {
      const count = kind < 0xa0 ? kind & 0x0f : number(kind === 0xdc ? 2 : 4);
      return Array.from({ length: count }, item);
    }
    if (kind >= 0xa0 && kind < 0xc0) return text(kind & 0x1f);
    if (kind === 0xc0) return null;
    if (kind >= 0xcc && kind <= 0xcf) return number(1 << (kind - 0xcc));
    if (kind >= 0xd9 && kind <= 0xdb) return text(number(1 << (kind - 0xd9)));
    throw new Error(`kind ${kind}`);
  };
  return item();
}

const channel = new net.Socket({ fd: 3, readable: true, writable: true });
const send = (...items) => channel.write(pack(items));
let cell = null; // the number of the one that runs
const waiting = [];

function show(data, main) {
  if (cell === null) {
    if (waiting.length < 64) waiting.push([data, main]);
    return;
  }
  const flat = Object.entries(data).slice(0, MOST_ITEMS / 2).flat()
    .map((word) => (typeof word === 'string' || ArrayBuffer.isView(word) ? word : String(JSON.stringify(word))));
  const size = flat.reduce((sum, word) => sum + Buffer.byteLength(word), 0);
  if (size > largest) send('dropped', cell, size);
  else if (flat.length) send('output', cell, main, ...flat);
}

function bundle(value) {
  const own = value !== null && typeof value === 'object' ? value[Symbol.for('Jupyter.display')] : undefined;
  if (typeof own === 'function') return own.call(value);
  return { 'text/plain': util.inspect(value) };
}

// As in a notebook: a value by what it knows of itself, or a bundle of MIME types as the second argument.
globalThis.display = (value, data) => show(data ?? bundle(value), false);

const nowhere = new PassThrough();
nowhere.resume();
const server = repl.start({
  prompt: '', input: new PassThrough(), output: nowhere, terminal: false, useGlobal: true, breakEvalOnSigint: true,
});
server.on('exit', () => process.exit(0));
const interrupt = () => {
  if (cell !== null) server.emit('SIGINT'); // it waits for a promise
};
process.on('SIGINT', interrupt);

// What a cell raises at once, the REPL hands to its domain, as what is raised later by what a cell has left running.
let failed = null;
const raised = (error) => {
  if (failed) failed([error]);
  else process.stderr.write(`Uncaught ${report(error)[2]}\n`);
};
if (server._domain) {
  server._domain.removeAllListeners('error');
  server._domain.on('error', raised);
}
process.on('uncaughtException', raised);

function evaluate(code) {
  return new Promise((resolve) => {
    failed = resolve;
    // What computes is interrupted by the REPL's own handler, which the removal of a listener would put out of force.
    process.removeListener('SIGINT', interrupt);
    server.eval(code, server.context, '<cell>', (error, value) => resolve([error, value]));
    process.on('SIGINT', interrupt);
  });
}

// The frames of the REPL, and of this file, are nobody's business.
function report(error) {
  if (repl.Recoverable && error instanceof repl.Recoverable) error = error.err;
  if (error === null || typeof error !== 'object') return ['Error', util.inspect(error), util.inspect(error)];
  const lines = String(error.stack ?? error).split('\n');
  const end = lines.findIndex((line) => /^ {4}at .*(node:|node_agent\.js)/.test(line));
  const kept = end < 0 ? lines : lines.slice(0, end);
  return [String(error.name ?? 'Error'), String(error.message ?? ''), kept.join('\n')];
}

async function run(number, path, stdin, directory, ...variables) {
  const before = {};
  const back = directory === null ? null : process.cwd();
  let error;
  try {
    for (let i = 0; i < variables.length; i += 2) {
      before[variables[i]] = process.env[variables[i]];
      process.env[variables[i]] = variables[i + 1];
    }
    if (directory !== null) process.chdir(directory);
    const code = fs.readFileSync(path, 'utf8');
    cell = number;
    for (const [data, main] of waiting.splice(0)) show(data, main);
    let value;
    [error, value] = await evaluate(code);
    if (!error && value !== undefined) show(bundle(value), true);
    error = error ? report(error) : null;
  } catch (problem) {
    error = report(problem);
  }
  cell = failed = null;
  for (const [name, value] of Object.entries(before)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
  if (back !== null) process.chdir(back);
  if (error) send('done', number, 1, ...error);
  else send('done', number, 0);
}

let received = Buffer.alloc(0);
channel.on('data', (data) => {
  received = received.length ? Buffer.concat([received, data]) : data;
  while (received.length >= 4 && received.length >= 4 + received.readUInt32LE()) {
    const length = received.readUInt32LE();
    const [kind, ...rest] = unpack(received.subarray(4, 4 + length));
    received = received.subarray(4 + length);
    if (kind === 'run') run(...rest);
  }
});
channel.on('close', () => process.exit(0));
send('ready');
