"""What the peers' scripts share: the rows, their bounds, and the one JSON line that each prints.

A script defines a class and calls `main` with it. Calls: `rows FOLDER` measures, `syncs FOLDER N` pushes N times for
someone who counts system calls, `idle FOLDER N` is a process of its own for the memory of users who were active.
Times are microseconds for one operation: the mean of one batch. The caller makes medians of several runs.
"""
import gc
import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

LIMIT_S = 3.0  # for each row
KEYS = 1000
CROWD = 64


def text(n):
    """A value of 300 bytes that no other number has."""
    return f"{n:012d}".ljust(300, "x")


def key(n):
    return f"key-{n % KEYS:04d}"


class Peer:
    """What a script measures. A method that a peer can't offer is named in `absent` with the reason."""

    packages = ()
    new_users = 20
    idle_users = 100
    absent = {}  # row: why it can't be measured
    notes = {}  # row: what was measured

    def crowd(self, first):
        """64 pushes at once; gives the seconds that they took. One store that all threads share, unless said otherwise."""
        if not hasattr(self, "pool"):
            self.pool = ThreadPoolExecutor(CROWD)
            list(self.pool.map(time.sleep, [0.01] * CROWD))  # all threads are there
        start = time.perf_counter()
        list(self.pool.map(lambda n: self.push(key(n), text(first + n)), range(CROWD)))
        return time.perf_counter() - start


def main(peer):
    if os.geteuid() == 0:
        sys.exit("refusing to run as root: a peer renames files that it takes for damaged")
    verb, folder, *rest = sys.argv[1:]
    os.chdir(folder)
    if verb == "rows":
        print(json.dumps(rows(peer, folder)))
    elif verb == "syncs":
        store = peer(os.path.join(folder, "syncs"))
        for n in range(int(rest[0]) + 1):
            store.push("key", text(n))
    elif verb == "idle":
        idle(peer, folder, int(rest[0]))
    else:
        sys.exit(f"no such call: {verb}")


def rows(peer, folder):
    store = peer(os.path.join(folder, "main"))
    store.fill([(key(n), text(n)) for n in range(KEYS)])
    assert store.get(key(7)) == text(7)
    found = store.get_all()
    assert len(found) == KEYS and sum(len(value) for value in found) == KEYS * 300

    def new_user(n):
        users.append(peer.new_user(folder, n))

    def crowd(times):
        took = [store.crowd((n + 10) * CROWD * KEYS) for n in range(times)]
        return sum(took) * 1e6 / (times * CROWD)

    users = []
    measures = {
        "cached_get": lambda: batch(lambda n: store.get(key(n * 7)), 20_000),
        "get_all": lambda: batch(lambda n: store.get_all(), 50),
        "uncached_get": lambda: batch(lambda n: store.get(key(n * 7)), 5_000),
        "push": lambda: batch(lambda n: store.push(key(n), text(n + 10 * KEYS)), 300),
        "crowd": lambda: crowd(3),
        "new_user": lambda: batch(new_user, peer.new_users),
    }
    result = {row: measure() for row, measure in measures.items() if row not in peer.absent}
    assert "push" in peer.absent or store.get(key(7)) != text(7)
    # A get gives Python's own string at once, there is nothing left to decode.
    result |= {"cached_value": result["cached_get"], "get_all_values": result["get_all"]}
    result |= idle_costs(peer, folder)
    packages = [f"{package} {version(package)}" for package in peer.packages]
    return {
        "rows": result,
        "absent": peer.absent,
        "notes": {"cached_value": "the same figure", "get_all_values": "the same figure"} | peer.notes,
        "settings": store.settings(),
        "versions": packages + [f"Python {platform.python_version()}", f"its SQLite {sqlite3.sqlite_version}"],
    }


def batch(call, times):
    """Microseconds of a call: the mean of as many of `times` calls as fit the limit, without the first."""
    call(0)
    gc.collect()
    start = time.perf_counter()
    for n in range(1, times + 1):
        call(n)
        if n % 16 == 0 and time.perf_counter() - start > LIMIT_S:
            break
    return (time.perf_counter() - start) * 1e6 / n


def idle_costs(peer, folder):
    for n in range(peer.idle_users):
        peer.make_idle_user(folder, n)
    command = [sys.executable, sys.argv[0], "idle", folder, str(peer.idle_users)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(answer.stdout)


def idle(peer, folder, count):
    """Opens users who are there, reads a little of each, and prints what one costs beyond the first tenth."""
    warm, users = count // 10, []
    for n in range(count):
        if n == warm:
            gc.collect()
            memory, descriptors = resident(), len(os.listdir("/proc/self/fd"))
        users.append(peer.open_idle_user(folder, n))
    gc.collect()
    each = count - warm
    result = {
        "idle_kib": max(0.0, (resident() - memory) / each),
        "idle_descriptors": (len(os.listdir("/proc/self/fd")) - descriptors) / each,
    }
    print(json.dumps(result), flush=True)


def resident():
    """Resident KiB of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
