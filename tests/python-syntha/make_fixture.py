#!/usr/bin/env python3
"""Writes a database with the real Python package `syntha` 0.2.7, and what an import of it must yield.

Deterministic for a seed: the package's clock is replaced, and the hash seed is fixed (it keeps agents in sets).
The package only ever sees a file in a fresh temporary folder; `--out` and `--expect` must not exist yet.
"""
import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import types
import unicodedata

if os.geteuid() == 0:
    sys.exit("refusing to run as root: the package renames files; see README.md")
if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})

import syntha  # noqa: E402
import syntha.context  # noqa: E402

BASE = 1_700_000_000.25  # 2023-11-14; every created_at follows it
ASKED_AT = 1_790_000_000.0  # the clock while the package is asked what agents see
CENTURY = 3_155_760_000.0  # the TTL of items that are alive
HOSTILE = ["../../etc", "a/b", "Alice", "alice"]
AGENTS = ["planner", "writer", "reviewer", "billing", "prüfer-७"]
STRANGER = "stranger"  # named nowhere: sees only what everyone sees
TOPICS = ["sales", "support", "ops/alerts", "рынок"]
QUIET = "quiet"  # a topic without subscribers
NAMES = ["user_name", "profile", "plan", "session_state", "config.limits", "api_budget", "last query", "notes/today", "été"]
ROUTES = ["everyone", "named", "topic", "quiet", "topic+named", "everyone+ttl", "two-topics", "named+ttl"]


class Clock:
    """Stands for the module `time` within `syntha.context`."""

    def __init__(self):
        self.now = BASE

    def time(self):
        return self.now

    def tick(self):
        self.now += 0.5
        return self.now


CLOCK = Clock()
syntha.context.time = types.SimpleNamespace(time=CLOCK.time)


def mesh(path, user):
    return syntha.ContextMesh(user_id=user, db_path=path, auto_cleanup=False)


def values(rng, canary):
    """One value of each kind; drawn in turn."""
    deep = canary
    for level in range(20):
        deep = {"in": deep} if level % 2 else [deep]
    return [
        lambda: f"text of {canary} {rng.getrandbits(32):08x}",
        lambda: {"name": canary, "tags": ["a", "b"], "address": {"city": "Zürich", "zip": 8001}},
        lambda: rng.randrange(-(10**6), 10**6),
        lambda: f"日本語 🦀 \u202e עברית {canary} \"quoted\" \\ \n\t\u0000 \u2028 end",
        lambda: [1, "two", None, True, {"three": [3.5, canary]}],
        lambda: deep,
        lambda: rng.choice([0.1, -0.0, 1e-7, 1.5e300, 2.5]),
        lambda: "",
        lambda: rng.choice([9007199254740993, -(2**63), 2**64 - 1]),
        lambda: None,
        lambda: rng.choice([True, False]),
        lambda: f'{{"looks": "like JSON", "of": "{canary}"}}',
        lambda: rng.choice([[], {}]),
        lambda: {"user_id": "user-000", "subscribers": [], "key with\nbreak": canary, "": 0},
    ]


def large(rng, canary):
    return {"canary": canary, "blob": "".join(rng.choices("0123456789abcdef é", k=9800)), "n": list(range(50))}


def write_user(path, index, user, items, seed):
    rng = random.Random(f"{seed}:{index}")
    canary = f"CANARY-u{index:03d}-{rng.getrandbits(64):016x}"
    kinds = values(rng, canary)
    names = [name for name in NAMES if not (index % 2 and name == "session_state")]
    keys = (names + [f"item_{n:04d}" for n in range(items)])[:items]
    m = mesh(path, user)
    # The same agents under every user, with other topics under each.
    topics_of = {}
    for n, agent in enumerate(AGENTS[:4]):
        topics_of[agent] = sorted({TOPICS[(n + index) % 4], TOPICS[(n * 2 + index) % 4]})
        CLOCK.tick()
        m.register_agent_topics(agent, topics_of[agent])
    permissions = {"planner": [TOPICS[index % 4]], "writer": [], "reviewer": ["sales", QUIET]}
    for agent, allowed in permissions.items():
        m.set_agent_post_permissions(agent, allowed)

    hidden, routes, times, stored = [], {}, {}, {}
    for n, key in enumerate(keys):
        CLOCK.tick()
        value = f"hello {canary}" if n == 0 else large(rng, canary) if n % 20 == 1 else kinds[(n + index * 3) % len(kinds)]()
        route, ttl = ROUTES[(n + index) % len(ROUTES)], None
        if n == 2 and index % 5 == 1:
            key = "k" * 254 + "é"  # 256 bytes, just allowed
        if n == 2 and index % 5 == 2:
            key = "ключ 🗝 鍵"
        if n == 3 and index % 5 == 0:
            ttl = float("inf")  # never expires, yet is a number
        if n == 3 and index % 5 == 3:
            ttl = 1e300
        if "ttl" in route:
            ttl = CENTURY + n + 0.125
        agents = {"subscribers": rng.sample(AGENTS, 2)} if "named" in route else {}
        if route == "quiet":
            agents["topics"] = [QUIET]
            hidden.append(key)
        elif "topic" in route:
            agents["topics"] = rng.sample(TOPICS, 2 if route == "two-topics" else 1) + ([QUIET] if n % 3 == 0 else [])
        m.push(key, value, ttl=ttl, **agents)
        routes[key], stored[key] = route, value
        times[key] = {"created_at": CLOCK.now, "ttl": "inf" if ttl == float("inf") else ttl}

    # A key pushed again: the row is replaced, the later value and audience hold.
    CLOCK.tick()
    if routes[keys[0]] != "quiet":
        stored[keys[0]] = f"hello again {canary}"
        m.push(keys[0], stored[keys[0]])
        routes[keys[0]], times[keys[0]] = "everyone", {"created_at": CLOCK.now, "ttl": None}

    expired = ["expired_note", "session_state" if index % 2 else "expired_state"]
    CLOCK.tick()
    m.push(expired[0], f"expired {canary}", subscribers=["planner"], ttl=60)
    CLOCK.tick()
    answer = syntha.ToolHandler(m, "planner").handle_tool_call(
        "push_context", key=expired[1], value=json.dumps({"of": canary, "by": "tool"})
    )  # 24 hours, as every push by a tool
    assert answer["success"], answer
    if index % 5 == 0:
        expired.append("expired_at_once")
        CLOCK.tick()
        m.push(expired[2], f"expired {canary}", ttl=0)
    m.close()
    return {
        "user_id": user,
        "canary": canary,
        "importable": len(stored),
        "expired_keys": sorted(expired),
        "hidden_keys": sorted(hidden),
        "agent_topics": topics_of,
        "permissions": permissions,
        "visible": {},
        "routes": routes,
        "times": times,
        "values": stored,
    }


def write_nobody(path):
    """Rows without a user, by a mesh without `user_id`; nothing is ever replaced there."""
    m = mesh(path, None)
    rows, late = [], BASE - 1000
    for key, value, at, ttl in [
        ("legacy_config", "oldest", 1, None),
        ("legacy_config", "middle", 2, None),
        ("legacy_config", "newest", 3, None),
        ("legacy_plan", "newest, yet first in the file", 9, None),
        ("legacy_plan", "older, yet last in the file", 4, None),
        ("profile", "a key that users have too", 5, None),
        ("legacy_gone", "older, alive", 6, None),
        ("legacy_gone", "newest, expired", 7, 60.0),
    ]:
        CLOCK.now = late + at
        m.push(key, value, ttl=ttl)
        rows.append({"key": key, "value": value, "created_at": CLOCK.now, "ttl": ttl})
    m.register_agent_topics("planner", ["sales"])
    m.register_agent_topics("planner", ["support"])  # a second row, as well
    m.set_agent_post_permissions("planner", ["sales"])
    m.close()
    winners = {}
    for row in rows:
        if row["key"] not in winners or row["created_at"] > winners[row["key"]]["created_at"]:
            winners[row["key"]] = row
    CLOCK.now = ASKED_AT
    m = mesh(path, None)
    picks = m.get_all_for_agent(STRANGER)
    m.close()
    CLOCK.now = BASE
    skipped = [skip("context_items", None, row["key"], "no-user", "no user_id", row["created_at"]) for row in rows]
    skipped += [skip("agent_topics", None, "planner", "no-user", "no user_id")] * 2
    skipped += [skip("agent_permissions", None, "planner", "no-user", "no user_id")]
    return {
        "rows": rows,
        "newest": {key: {**row, "expired": row["ttl"] is not None} for key, row in sorted(winners.items())},
        "python_picks": picks,
    }, skipped


def skip(table, user, name, reason, why, created_at=None, also=()):
    row = {"table": table, "user_id": user, "key" if table == "context_items" else "agent_name": name}
    row |= {"created_at": created_at} if created_at is not None else {}
    return row | {"reason": reason, "why": why} | ({"or": list(also)} if also else {})


def write_malformed(path, users):
    skipped = []

    def user(n):
        return users[n % len(users)]

    # What the package itself writes, though it is not sound.
    by_package = [
        (user(0), "bad_nan", float("nan"), None, "bad-value", "NaN is not JSON"),
        (user(1), "bad_infinity", [1, float("-inf")], None, "bad-value", "-Infinity is not JSON"),
        (user(2), "bad_surrogate", "lone \ud800 surrogate", None, "bad-value", "an escaped lone surrogate is no text"),
        (user(3), "bad\nkey", "SKIPPED", None, "bad-name", "a control character in the key"),
        (user(4), "bad\x85key", "SKIPPED", None, "bad-name", "a C1 control character in the key"),
        (user(0), unicodedata.normalize("NFD", "café"), "SKIPPED", None, "bad-name", "the key is not NFC"),
        (user(1), "", "SKIPPED", None, "bad-name", "the key is empty"),
        (user(2), "k" * 257, "SKIPPED", None, "bad-name", "the key has 257 bytes"),
        (unicodedata.normalize("NFD", "josé"), "profile", "SKIPPED", None, "bad-user", "the user_id is not NFC"),
        ("user\n001", "profile", "SKIPPED", None, "bad-user", "a control character in the user_id"),
        (user(3), "bad_agent_nfd", "SKIPPED", [unicodedata.normalize("NFD", "prüfer")], "bad-subscribers", "its only agent is not NFC: must not become everyone"),
        (user(4), "bad_agent_empty", "SKIPPED", [""], "bad-subscribers", "its only agent has no name: must not become everyone"),
    ]
    for owner, key, value, subscribers, reason, why in by_package:
        at = CLOCK.tick()
        # Of a mesh that has loaded nothing: one unsound row of a user stops its loading.
        backend = syntha.persistence.SQLiteBackend(path)
        m = syntha.ContextMesh(user_id=owner, enable_persistence=False)
        backend.connect()
        m.db_backend = backend
        m.push(key, value, subscribers=subscribers)
        if owner == by_package[8][0]:
            m.register_agent_topics("planner", ["sales"])
            m.set_agent_post_permissions("planner", ["sales"])
            for table in ("agent_topics", "agent_permissions"):
                skipped.append(skip(table, owner, "planner", "bad-user", why))
        m.close()
        skipped.append(skip("context_items", owner, key, reason, why, at, ["bad-name"] if reason == "bad-subscribers" else ()))

    # What only another hand writes.
    directly = [
        (user(0), "bad_value", "SKIPPED {not json", "[]", "bad-value", "not JSON"),
        (user(1), "bad_value_empty", "", "[]", "bad-value", "the value is empty text"),
        (user(2), "bad_value_tail", '{"a":1} SKIPPED', "[]", "bad-value", "text after the JSON"),
        (user(3), "bad_value_bytes", b'"SKIPPED \xff"', "[]", "bad-value", "text that is not UTF-8"),
        (user(4), "bad_subs_text", '"SKIPPED"', "planner", "bad-subscribers", "not JSON"),
        (user(0), "bad_subs_string", '"SKIPPED"', '"planner"', "bad-subscribers", "a JSON string"),
        (user(1), "bad_subs_null", '"SKIPPED"', "null", "bad-subscribers", "JSON null: must not become everyone"),
        (user(2), "bad_subs_empty", '"SKIPPED"', "", "bad-subscribers", "empty text: must not become everyone"),
        (user(3), "bad_subs_object", '"SKIPPED"', "{}", "bad-subscribers", "a JSON object"),
        (user(4), "bad_subs_numbers", '"SKIPPED"', "[1, null]", "bad-subscribers", "a list, not of names"),
    ]
    with contextlib.closing(sqlite3.connect(path)) as db:
        for owner, key, value, subscribers, reason, why in directly:
            at = CLOCK.tick()
            db.execute(
                "INSERT INTO context_items (key, user_id, value, subscribers, ttl, created_at) VALUES (?, ?, CAST(? AS TEXT), ?, NULL, ?)",
                (key, owner, value, subscribers, at),
            )
            skipped.append(skip("context_items", owner, key, reason, why, at))
        db.commit()
    return skipped


def ask(path, entry, canaries):
    """Asks the package, over the reopened file, what each agent sees."""
    user = entry["user_id"]
    m = mesh(path, user)
    for agent in [*AGENTS, STRANGER]:
        seen = m.get_all_for_agent(agent)
        assert all(seen[key] == entry["values"][key] for key in seen), (user, agent)
        assert not set(seen) & set(entry["hidden_keys"]) and not set(seen) & set(entry["expired_keys"])
        text = json.dumps(seen)
        assert not any(canary in text for canary in canaries if canary != entry["canary"])
        entry["visible"][agent] = sorted(seen)
        assert sorted(m.get_topics_for_agent(agent)) == entry["agent_topics"].get(agent, [])
        assert m.get_agent_post_permissions(agent) == entry["permissions"].get(agent, [])
    assert m.size() == entry["importable"], (user, m.size(), entry["importable"])
    m.close()


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--users", type=int, required=True, help="at least 5 (the last four have hostile names)")
    args.add_argument("--items", type=int, required=True, help="importable items in all; traps come on top")
    args.add_argument("--seed", type=int, required=True)
    args.add_argument("--out", required=True)
    args.add_argument("--expect", required=True)
    args = args.parse_args()
    if args.users < 5 or args.items < 8 * args.users:
        sys.exit("at least 5 users, and 8 items for each")
    out, expect_path = os.path.abspath(args.out), os.path.abspath(args.expect)
    for path in (out, expect_path):
        if os.path.lexists(path):
            sys.exit(f"{path} exists already")
    folder = tempfile.mkdtemp(prefix="python-syntha-")
    os.chdir(folder)  # so that no default path of the package means another place
    try:
        path = os.path.join(folder, "fixture.db")
        users = [f"user-{n:03d}" for n in range(args.users - 4)] + HOSTILE
        nobody, skipped = write_nobody(path)
        entries = []
        with contextlib.redirect_stdout(io.StringIO()):
            for n, user in enumerate(users):
                share = args.items // args.users + (n < args.items % args.users)
                entries.append(write_user(path, n, user, share, args.seed))
        wrote = CLOCK.now
        CLOCK.now = ASKED_AT
        for entry in entries:
            ask(path, entry, [other["canary"] for other in entries])
        CLOCK.now = wrote
        with contextlib.closing(sqlite3.connect(path)) as db:
            for key, user, at in db.execute(
                "SELECT key, user_id, created_at FROM context_items WHERE user_id IS NOT NULL AND created_at + ttl < ? ORDER BY rowid",
                (ASKED_AT,),
            ):
                skipped.append(skip("context_items", user, key, "expired", "its TTL has run out", at))
        skipped += write_malformed(path, users)

        with contextlib.closing(sqlite3.connect(path)) as db:
            rows = {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("context_items", "agent_topics", "agent_permissions")}
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        reasons = {}
        for row in skipped:
            if row["table"] == "context_items":
                reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
        importable = sum(entry["importable"] for entry in entries)
        assert rows["context_items"] == importable + sum(reasons.values()), (rows, importable, reasons)
        assert importable == args.items
        assert os.listdir(folder) == ["fixture.db"], os.listdir(folder)
        expect = {
            "made_by": "syntha 0.2.7",
            "arguments": {"users": args.users, "items": args.items, "seed": args.seed},
            "asked_at": ASKED_AT,
            "rows": rows,
            "importable": importable,
            "skipped_by_reason": dict(sorted(reasons.items())),
            "users": {entry["user_id"]: entry for entry in entries},
            "without_user": nobody,
            "skipped": skipped,
        }
        with open(expect_path, "x", encoding="utf-8") as file:
            json.dump(expect, file, ensure_ascii=False, indent=1, allow_nan=False)
            file.write("\n")
        with open(path, "rb") as source, open(out, "xb") as target:
            shutil.copyfileobj(source, target)
        print(json.dumps({"out": out, "rows": rows, "importable": importable, "skipped": reasons}))
    finally:
        os.chdir("/")
        shutil.rmtree(folder)


main()
