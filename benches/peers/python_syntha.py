"""The Python package `syntha`. It renames files that it takes for damaged: only ever in a folder of its own, never as root."""
import os

import measure
import syntha
from measure import Peer


class PythonSyntha(Peer):
    packages = ("syntha",)
    absent = {"uncached_get": "keeps every value in memory"}
    notes = {
        "crowd": "64 threads on one mesh",
        "new_user": "a mesh with a new user_id on the shared file",
        "idle_kib": "a mesh and a file for each user",
    }

    def __init__(self, path, user="user"):
        self.mesh = syntha.ContextMesh(user_id=user, db_path=path + ".db")

    def fill(self, items):
        for key, value in items:
            self.mesh.push(key, value)

    def push(self, key, value):
        self.mesh.push(key, value)

    def get(self, key):
        return self.mesh.get(key, "agent")

    def get_all(self):
        return self.mesh.get_all_for_agent("agent").values()

    def settings(self):
        ask = self.mesh.db_backend.connection.execute
        journal, sync = ask("PRAGMA journal_mode").fetchone()[0], ask("PRAGMA synchronous").fetchone()[0]
        return f"SQLite, journal_mode={journal}, synchronous={sync}, one file for all users; everything also in memory"

    @classmethod
    def new_user(cls, folder, n):
        user = cls(os.path.join(folder, "new"), f"user-{n}")
        user.push("key", measure.text(n))
        return user

    @classmethod
    def make_idle_user(cls, folder, n):
        user = cls(os.path.join(folder, f"idle-{n}"), f"user-{n}")
        for k in range(10):
            user.push(f"key-{k}", measure.text(k))
        user.mesh.close()

    @classmethod
    def open_idle_user(cls, folder, n):
        user = cls(os.path.join(folder, f"idle-{n}"), f"user-{n}")
        assert all(user.get(f"key-{k}") == measure.text(k) for k in range(4))
        return user


measure.main(PythonSyntha)
