import array, asyncio, concurrent.futures, contextlib, ctypes, datetime, fcntl, functools, hashlib, io, itertools, json
import logging, mmap, multiprocessing, os, pathlib, pickle, queue, random, re, select, shutil, signal, socket, sqlite3
import statistics, struct, subprocess, sys, tempfile, threading, time, uuid, zlib


def square(number):
    return number * number


def files():
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "file"
        path.write_text("one\ntwo\n")
        with path.open("r+b") as file:
            file.seek(4)
            file.write(b"TWO")
            file.truncate(7)
            os.fsync(file.fileno())
            fcntl.flock(file, fcntl.LOCK_EX)
            with mmap.mmap(file.fileno(), 0) as mapped:
                assert mapped[4:7] == b"TWO"
        os.rename(path, f"{path}.new")
        os.symlink("file.new", path)
        os.link(f"{path}.new", f"{path}.other")
        os.chmod(path, 0o600)
        os.utime(path)
        assert sorted(os.listdir(name)) == ["file", "file.new", "file.other"]
        assert path.resolve().name == "file.new" and path.stat().st_size == 7
        shutil.copytree(name, f"{name}/copy")
        assert shutil.disk_usage(name).total > 0
        with contextlib.closing(sqlite3.connect(f"{name}/base")) as base:
            base.execute("create table t (x)")
            base.executemany("insert into t values (?)", [(i,) for i in range(100)])
            base.commit()
            assert base.execute("select sum(x) from t").fetchone() == (4950,)


def processes():
    assert subprocess.run(["sh", "-c", "echo $0; exit 3"], capture_output=True).returncode == 3
    assert subprocess.check_output("cat", input=b"through", shell=True) == b"through"
    pid = os.fork()
    if pid == 0:
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]
    for way in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(way)
        reader, writer = context.Pipe()
        child = context.Process(target=writer.send, args=(way,))
        child.start()
        assert reader.recv() == way
        child.join()


def threads():
    box = queue.Queue()
    workers = [threading.Thread(target=lambda: box.put(1)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert box.qsize() == 4
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert sum(pool.map(square, range(10))) == 285
    timer = threading.Timer(0.01, lambda: box.put(2))
    timer.start()
    timer.join()


async def loop():
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    assert (await child.communicate(b"x"))[0] == b"x"
    assert await asyncio.to_thread(square, 3) == 9
    await asyncio.gather(*(asyncio.sleep(0.01) for _ in range(10)))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()


def signals():
    seen = []
    for number in (signal.SIGUSR1, signal.SIGALRM):
        signal.signal(number, lambda number, _: seen.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
    assert seen == [signal.SIGUSR1, signal.SIGALRM]


def rest():
    first, second = socket.socketpair()
    first.sendall(b"x")
    assert select.select([second], [], [], 1)[0] and second.recv(1) == b"x"
    poll = select.poll()
    poll.register(second, select.POLLIN)
    poll.poll(1)
    random.seed()
    uuid.uuid4()
    time.sleep(0.01)
    hashlib.sha256(os.urandom(1000)).hexdigest()
    assert zlib.decompress(zlib.compress(bytes(1 << 20))) == bytes(1 << 20)
    ctypes.CDLL(None).getpid()
    del bytearray(64 << 20)[:]
    os.sched_getaffinity(0), os.cpu_count(), os.getloadavg(), os.uname(), os.getgroups(), os.times()
    logging.getLogger().info(json.dumps(datetime.datetime.now().isoformat()))
    print(sys.stdin.readline().strip(), *sys.argv[1:])
    print("bad", file=sys.stderr)


if __name__ == "__main__":
    files(), processes(), threads(), asyncio.run(loop()), signals(), rest()
    print("done")
