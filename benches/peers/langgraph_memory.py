"""LangGraph's `InMemoryStore`: a user is a namespace, nothing reaches a disk."""
import measure
from langgraph.store.memory import InMemoryStore
from measure import KEYS, Peer

NOT_KEPT = "keeps nothing on disk"


class Memory(Peer):
    packages = ("langgraph", "langgraph-checkpoint")
    idle_users = 1000
    absent = {"uncached_get": "keeps every value in memory", "push": NOT_KEPT, "crowd": NOT_KEPT, "new_user": NOT_KEPT}
    notes = {
        "get_all": "one search of the namespace",
        "idle_kib": "a namespace for each user",
    }
    shared = InMemoryStore()

    def __init__(self, _path):
        self.store = InMemoryStore()

    def fill(self, items):
        for key, value in items:
            self.store.put(("user",), key, {"value": value})

    def push(self, key, value):
        self.store.put(("user",), key, {"value": value})

    def get(self, key):
        return self.store.get(("user",), key).value["value"]

    def get_all(self):
        return [item.value["value"] for item in self.store.search(("user",), limit=KEYS)]

    def settings(self):
        return "a dict in memory, lost when the process ends; no index"

    @classmethod
    def make_idle_user(cls, _folder, _n):
        pass

    @classmethod
    def open_idle_user(cls, _folder, n):
        for k in range(10):
            cls.shared.put((f"user-{n}",), f"key-{k}", {"value": measure.text(k)})


measure.main(Memory)
