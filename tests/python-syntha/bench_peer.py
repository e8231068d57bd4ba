#!/usr/bin/env python3
"""Measures the Python package `syntha` 0.2.7, for orientation beside Syntha's own benchmarks. Bounded: some seconds.

Prints one JSON line: medians in microseconds. `cached_get_us` is `ContextMesh.get` of a 300-byte value in memory,
`get_all_1000_us` is `get_all_for_agent` over 1,000 such items, `push_us` is `ContextMesh.push` of a 300-byte value
that changes each time into a database file (journal_mode=DELETE, synchronous=NORMAL, a commit for each).
"""
import json
import os
import shutil
import statistics
import sys
import tempfile
import time

if os.geteuid() == 0:
    sys.exit("refusing to run as root: the package renames files; see README.md")

import syntha  # noqa: E402

LIMIT_S = 10.0  # for each measurement


def median_us(call, times, batch=1):
    """The median over `times` samples of `batch` calls each, by call; stops early at the limit."""
    samples, end, n = [], time.monotonic() + LIMIT_S, 0
    while len(samples) < times and time.monotonic() < end:
        start = time.perf_counter_ns()
        for _ in range(batch):
            call(n)
            n += 1
        samples.append((time.perf_counter_ns() - start) / batch / 1000)
    return round(statistics.median(samples), 3)


def text(n):
    return f"{n:012d}".ljust(300, "x")


def main():
    folder = tempfile.mkdtemp(prefix="python-syntha-bench-")
    os.chdir(folder)
    try:
        mesh = syntha.ContextMesh(user_id="user-000", db_path=os.path.join(folder, "bench.db"))
        for n in range(1000):
            mesh.push(f"item_{n:04d}", text(n))
        assert len(mesh.get_all_for_agent("planner")) == 1000
        result = {
            "cached_get_us": median_us(lambda n: mesh.get(f"item_{n % 1000:04d}", "planner"), 500, 100),
            "get_all_1000_us": median_us(lambda n: mesh.get_all_for_agent("planner"), 300),
            "push_us": median_us(lambda n: mesh.push(f"item_{n % 1000:04d}", text(n + 1000)), 1000),
        }
        mesh.close()
        print(json.dumps(result))
    finally:
        os.chdir("/")
        shutil.rmtree(folder)


main()
