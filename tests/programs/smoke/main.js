const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const zlib = require('node:zlib');
const crypto = require('node:crypto');
const assert = require('node:assert');
const child = require('node:child_process');
const { Worker, isMainThread, parentPort } = require('node:worker_threads');
const { setTimeout: sleep } = require('node:timers/promises');

async function main() {
  const alive = setInterval(() => {}, 1000);
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'x-'));
  const file = path.join(directory, 'file');
  fs.writeFileSync(file, 'one');
  fs.appendFileSync(file, 'two');
  assert.equal(fs.readFileSync(file, 'utf8'), 'onetwo');
  fs.renameSync(file, `${file}.new`);
  fs.symlinkSync('file.new', file);
  fs.chmodSync(file, 0o600);
  assert.deepEqual(fs.readdirSync(directory).sort(), ['file', 'file.new']);
  assert.equal((await fs.promises.stat(file)).size, 6);
  await fs.promises.copyFile(file, `${file}.copy`);
  const handle = await fs.promises.open(file, 'r+');
  await handle.truncate(3);
  await handle.sync();
  await handle.close();
  fs.rmSync(directory, { recursive: true });
  assert.equal(child.spawnSync('sh', ['-c', 'exit 3']).status, 3);
  assert.equal(child.execSync('cat', { input: 'through' }).toString(), 'through');
  const spawned = child.spawn('cat');
  spawned.stdin.end('later');
  for await (const data of spawned.stdout) assert.equal(String(data), 'later');
  const worker = new Worker(__filename);
  assert.equal(await new Promise((resolve) => worker.on('message', resolve)), 42);
  await sleep(10);
  await Promise.all([1, 2, 3].map((number) => sleep(number)));
  assert.equal((await new Promise((resolve) => zlib.gzip(Buffer.alloc(1 << 20), (error, data) => resolve(zlib.gunzipSync(data))))).length, 1 << 20);
  crypto.createHash('sha256').update(crypto.randomBytes(1000)).digest('hex');
  crypto.pbkdf2Sync('x', 'y', 10, 16, 'sha256');
  Buffer.alloc(64 << 20, 1);
  let list = [];
  for (let i = 0; i < 1e6; i++) list.push({ i });
  const once = new Promise((resolve) => process.once('SIGUSR2', resolve));
  process.kill(process.pid, 'SIGUSR2');
  await once;
  clearInterval(alive);
  new Intl.DateTimeFormat('de').format(new Date());
  os.cpus(); os.userInfo(); process.memoryUsage(); process.hrtime.bigint(); os.loadavg(); process.cpuUsage();
  const lines = require('node:readline').createInterface({ input: process.stdin });
  for await (const line of lines) { console.log(line, ...process.argv.slice(2)); break; }
  lines.close();
  console.error('bad');
  console.log('done');
}

if (isMainThread) main();
else parentPort.postMessage(42);
