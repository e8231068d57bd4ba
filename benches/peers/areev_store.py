"""`areev-langgraph`: LangGraph's store interface over Areev, where a user is a namespace in the one file."""
import os

import measure
from areev_langgraph import AreevStore
from measure import KEYS, Peer


class Store(Peer):
    packages = ("areev-langgraph", "areev", "langgraph")
    idle_users = 40
    notes = {
        "cached_get": "has no cache of its own",
        "get_all": "one search of the namespace",
        "push": "reads the head, then supersedes it",
        "crowd": "64 threads on one store",
        "new_user": "a new namespace in the one file",
        "idle_kib": "a user is rows in the one file",
    }
    opened = {}

    def __init__(self, path):
        self.store = AreevStore(path + ".db")

    def fill(self, items):
        for key, value in items:
            self.push(key, value)

    def push(self, key, value, user="user"):
        self.store.put((user,), key, {"value": value})

    def get(self, key, user="user"):
        return self.store.get((user,), key).value["value"]

    def get_all(self):
        return [item.value["value"] for item in self.store.search(("user",), limit=KEYS)]

    def settings(self):
        return "Areev with its defaults (not encrypted), one file for all namespaces, one lock around every call"

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
        store = cls.shared(folder, "idle")
        for k in range(10):
            store.push(f"key-{k}", measure.text(k), f"user-{n}")
        if n == cls.idle_users - 1:
            del cls.opened["idle"]

    @classmethod
    def open_idle_user(cls, folder, n):
        store = cls.shared(folder, "idle")
        assert all(store.get(f"key-{k}", f"user-{n}") == measure.text(k) for k in range(4))


measure.main(Store)
