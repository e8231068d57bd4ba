"""Areev by its own calls: a file for each user, an entry is a fact, a push supersedes the fact that the last push made."""
import json
import os

import areev
import measure
from measure import KEYS, Peer


class Native(Peer):
    packages = ("areev",)
    new_users = 10
    idle_users = 12
    notes = {
        "cached_get": "has no cache of its own: latest(), parsed",
        "uncached_get": "latest(), parsed",
        "get_all": "one recall(), parsed",
        "push": "supersede() with the hash of the last push",
        "crowd": "64 threads on one handle",
        "new_user": "a new file",
        "idle_kib": "a file and a handle for each user",
    }

    def __init__(self, path):
        self.path = path + ".db"
        self.db = areev.Areev(self.path, ns="user")
        self.hashes = {}

    def fill(self, items):
        grains = [{"grain_type": "fact", "fields": fields(key, value)} for key, value in items]
        hashes = json.loads(self.db.add_batch(json.dumps(grains)))
        self.hashes = {key: hash for (key, _), hash in zip(items, hashes)}

    def push(self, key, value):
        last = self.hashes.get(key)
        if last is None:
            self.hashes[key] = self.db.add("fact", json.dumps(fields(key, value)))
        else:
            self.hashes[key] = self.db.supersede(last, "fact", json.dumps(fields(key, value)))

    def get(self, key):
        return json.loads(self.db.latest("context", key))["fields"]["object"]

    def get_all(self):
        return [row["fields"]["object"] for row in json.loads(self.db.recall("context", k=KEYS))]

    def settings(self):
        beside = sorted(name for name in os.listdir(os.path.dirname(self.path)) if name.startswith("main.db."))
        return f"Turso's engine (a rewrite of SQLite) with a WAL, no passphrase (not encrypted), a file for each user; beside it {', '.join(beside)}"

    @classmethod
    def new_user(cls, folder, n):
        user = cls(os.path.join(folder, f"new-{n}"))
        user.push("key", measure.text(n))
        return user

    @classmethod
    def make_idle_user(cls, folder, n):
        user = cls(os.path.join(folder, f"idle-{n}"))
        user.fill([(f"key-{k}", measure.text(k)) for k in range(10)])

    @classmethod
    def open_idle_user(cls, folder, n):
        user = cls(os.path.join(folder, f"idle-{n}"))
        assert all(user.get(f"key-{k}") == measure.text(k) for k in range(4))
        return user


def fields(key, value):
    return {"subject": "context", "relation": key, "object": value}


measure.main(Native)
