"""LangGraph's `SqliteStore`: a user is a namespace in the one file. 64 writers at once use `AsyncSqliteStore`, which batches."""
import asyncio
import os
import time

import measure
from langgraph.store.sqlite import AsyncSqliteStore, SqliteStore
from measure import CROWD, KEYS, Peer


class Sqlite(Peer):
    packages = ("langgraph", "langgraph-checkpoint-sqlite")
    notes = {
        "cached_get": "has no cache of its own: each get asks SQLite",
        "get_all": "one search of the namespace",
        "crowd": "64 tasks on one AsyncSqliteStore",
        "new_user": "a new namespace in the one file",
        "idle_kib": "a user is rows in the one file",
    }
    opened = {}

    def __init__(self, path):
        self.path = path + ".db"
        self.context = SqliteStore.from_conn_string(self.path)
        self.store = self.context.__enter__()
        self.store.setup()

    def fill(self, items):
        for key, value in items:
            self.push(key, value)

    def push(self, key, value, user="user"):
        self.store.put((user,), key, {"value": value})

    def get(self, key, user="user"):
        return self.store.get((user,), key).value["value"]

    def get_all(self):
        return [item.value["value"] for item in self.store.search(("user",), limit=KEYS)]

    def crowd(self, first):
        return asyncio.run(self.at_once(first))

    async def at_once(self, first):
        async with AsyncSqliteStore.from_conn_string(self.path) as store:
            await store.setup()
            start = time.perf_counter()
            pushes = (store.aput(("user",), measure.key(n), {"value": measure.text(first + n)}) for n in range(CROWD))
            await asyncio.gather(*pushes)
            return time.perf_counter() - start

    def settings(self):
        journal = self.store.conn.execute("PRAGMA journal_mode").fetchone()[0]
        sync = self.store.conn.execute("PRAGMA synchronous").fetchone()[0]
        return f"SQLite, journal_mode={journal}, synchronous={sync}, one file for all namespaces; no index, no TTL"

    @classmethod
    def shared(cls, folder, name):
        if name not in cls.opened:
            cls.opened[name] = cls(os.path.join(folder, name))
        return cls.opened[name]

    @classmethod
    def new_user(cls, folder, n):
        cls.shared(folder, "new").push("key", measure.text(n), f"user-{n}")

    @classmethod
    def make_idle_user(cls, folder, n):
        for k in range(10):
            cls.shared(folder, "idle").push(f"key-{k}", measure.text(k), f"user-{n}")

    @classmethod
    def open_idle_user(cls, folder, n):
        store = cls.shared(folder, "idle")
        assert all(store.get(f"key-{k}", f"user-{n}") == measure.text(k) for k in range(4))


measure.main(Sqlite)
