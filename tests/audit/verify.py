#!/usr/bin/env python3
"""The verifier of trail files, a second time, from docs/audit-v1.md alone.

    verify.py trail FILE KEYS [KEPT [SCOPE]]   verifies a file, prints its report, ends with 1 if something is wrong
    verify.py serve                            answers one JSON request a line, for the test that compares the two

Needs the package `cryptography`.
"""
import base64
import binascii
import hashlib
import json
import re
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CREATE, CHANGE, NOTE, SNAPSHOT, RESTORE = 1, 2, 3, 4, 5
HEAD, FLOOR, ERASED, LOST = 1, 2, 3, 4
LINE, LEAVES, CHANGES = 32 * 1024 * 1024, 1 << 62, 65536
# What follows the code of a change: its size, and whether it is something that is held.
SIZES = {1: 25 + 8 + 32 + 32 + 4, 2: 25 + 8 + 32 + 4, 3: 25 + 64, 4: 25, 5: 17, 6: 1, 7: 25 + 8 + 64 + 16}
REWRITE, HELD = 3, 7
ABSENT = {"torn-end", "short", "floor", "unended", "missing", "unproven", "unlinked", "replayed"}


class Bad(Exception):
    """Not of the format."""


def need(held):
    if not held:
        raise Bad


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def from_hex(text):
    need(isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text))
    return bytes.fromhex(text)


def from_b64(text):
    need(isinstance(text, str))
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Bad from error
    need(base64.b64encode(data).decode() == text)
    return data


# Lines

MEMBERS = {
    "trail": ({"v", "origin", "deployment", "owner"}, {"from", "before"}),
    "link": ({"seq", "text"}, {"salt", "details"}),
    "leaf": ({"index", "leaf"}, set()),
    "proof": ({"index", "size", "hashes"}, set()),
    "consistency": ({"from", "size", "hashes"}, set()),
    "checkpoint": ({"note"}, set()),
    "end": ({"seq", "head"}, set()),
}


def once(pairs):
    need(len({name for name, _ in pairs}) == len(pairs))
    return dict(pairs)


def refuse(_):
    raise Bad


def whole(text):
    need(not text.startswith("-"))
    return int(text)


def number(item, name, least, most):
    need(type(item[name]) is int and least <= item[name] <= most)


def parse(line):
    need(len(line) <= LINE)
    try:
        item = json.loads(line.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse,
                          parse_float=refuse, parse_int=whole)
        json.dumps(item, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Bad from error
    need(isinstance(item, dict) and isinstance(item.get("t"), str) and item["t"] in MEMBERS)
    must, may = MEMBERS[item["t"]]
    need(must <= item.keys() - {"t"} <= must | may)
    kind, seqs = item["t"], (1 << 63) - 1
    if kind == "trail":
        number(item, "v", 1, 1)
        need(isinstance(item["origin"], str) and ("from" in item) == ("before" in item))
        item["deployment"], item["owner"] = from_hex(item["deployment"]), from_hex(item["owner"])
        if "from" in item:
            number(item, "from", 2, seqs)
            item["before"] = from_hex(item["before"])
    elif kind == "link":
        number(item, "seq", 1, seqs)
        need(("salt" in item) == ("details" in item))
        item["text"] = from_b64(item["text"])
        if "salt" in item:
            item["salt"], item["details"] = from_b64(item["salt"]), from_b64(item["details"])
            need(len(item["salt"]) == 16)
    elif kind == "end":
        number(item, "seq", 0, seqs)
        item["head"] = from_hex(item["head"])
    elif kind == "leaf":
        number(item, "index", 0, LEAVES - 1)
        item["leaf"] = from_b64(item["leaf"])
        need(len(item["leaf"]) == 90 and item["leaf"][0] == 1 and item["leaf"][1] in (HEAD, FLOOR, ERASED, LOST))
    elif kind == "checkpoint":
        need(isinstance(item["note"], str))
    else:
        number(item, "size", 0, LEAVES)
        name, least = ("index", 0) if kind == "proof" else ("from", 1)
        number(item, name, least, item["size"] - (kind == "proof"))
        need(isinstance(item["hashes"], list) and len(item["hashes"]) <= 64)
        item["hashes"] = [from_b64(hash) for hash in item["hashes"]]
        need(all(len(hash) == 32 for hash in item["hashes"]))
    return item


# Links

class Link:
    def __init__(self, text):
        head = struct.Struct(">BBBQ16sQQQQ16sI32s")
        need(len(text) >= head.size)
        (form, self.kind, flags, self.seq, self.life, self.epoch, self.at, _, _, self.batch, self.events,
         self.details) = head.unpack_from(text)
        need(form == 1 and 1 <= self.kind <= 5 and flags <= 7)
        self.more = bool(flags & 1)
        need(not self.more or self.kind in (SNAPSHOT, RESTORE))
        need((self.events == 0) == (self.details == bytes(32)))
        self.row = bool(flags & 6)
        at = head.size + 16 * (flags >> 1 & 1) + 16 * (flags >> 2 & 1)
        need(len(text) >= at + 4)
        (count,) = struct.unpack_from(">I", text, at)
        need(count <= CHANGES)
        at, self.changes = at + 4, []
        for _ in range(count):
            need(at < len(text) and text[at] in SIZES)
            self.changes.append(text[at])
            at += 1 + SIZES[text[at]]
        need(at == len(text))

    def raises(self):
        return self.row or any(change != REWRITE for change in self.changes)


def wrong(link, last, first):
    held = [change == HELD for change in link.changes]
    if link.kind in (CREATE, CHANGE) and any(held) or link.kind in (SNAPSHOT, RESTORE) and not all(held):
        return "kind"
    if link.kind == NOTE and (held or link.row):
        return "kind"
    if last is None:
        begins = link.kind not in (CHANGE, NOTE) or not first
        return None if begins and (link.kind != CREATE or link.seq == 1) else "kind"
    same_life, same_epoch = link.life == last.life, link.epoch == last.epoch
    if last.more:
        same = same_life and same_epoch and (link.kind, link.batch) == (last.kind, last.batch)
        return None if same else "pieces"
    if link.kind == CREATE:
        return "kind"
    if same_life == (link.kind == RESTORE):
        return "life"
    rises = link.kind == RESTORE or link.kind == CHANGE and link.raises()
    return None if (link.epoch > last.epoch if rises else same_epoch) else "epoch"


class Chain:
    def __init__(self, header):
        self.owner, self.start, self.late = header["owner"], header.get("from", 1), "from" in header
        genesis = sha(b"syntha/audit/v1/genesis\0", header["deployment"], self.owner)
        self.heads = [header.get("before", genesis)]
        self.lives, self.last, self.lost, self.ended = [], None, None, None
        self.findings, self.anchored, self.erased = [], None, False

    def find(self, problem, seq=None, until=None):
        if len(self.findings) < 16:
            self.findings.append((problem, seq, seq if until is None else until))

    def link(self, item):
        if self.ended:
            return self.find("misplaced", item["seq"])
        if self.lost is not None:
            return None
        seq = self.start + len(self.heads) - 1
        try:
            link = Link(item["text"])
        except Bad:
            link = None
        if item["seq"] != seq or link and link.seq != seq:
            self.lost = seq
            return self.find("number", seq)
        size = struct.pack(">Q", len(item["text"]))
        self.heads.append(sha(b"\0", size, self.heads[-1], item["text"]))
        last, self.last = self.last, link
        self.lives.append(link.life if link else self.lives[-1] if self.lives else None)
        if not link:
            return self.find("text", seq)
        if "details" in item and sha(b"\2", item["salt"], item["details"]) != link.details:
            self.find("details", seq)
        problem = wrong(link, last, seq == self.start and not self.late)
        if problem:
            self.find(problem, seq if problem == "kind" else max(seq - 1, self.start), seq)
        return None

    def finish(self, era):
        last, good, told, floor = self.start + len(self.heads) - 2, self.start - 1, False, not self.late
        for leaf in era.leaves if era else []:
            seq = leaf.seq
            if leaf.kind == FLOOR:
                floor = floor or (seq, leaf.head) == (self.start, self.heads[0])
                seq = max(seq - 1, 0)
            if told or seq < self.start - 1 or self.lost is not None and seq >= self.lost:
                continue
            if seq > last or self.heads[seq - self.start + 1] != leaf.head:
                told = True
                self.find("short" if seq > last else "head", min(good + 1, seq), seq)
                continue
            good = max(good, seq)
            if leaf.kind == FLOOR:
                floor = floor or seq >= self.start
                continue
            if seq >= self.start and self.lives[seq - self.start] != leaf.life:
                self.find("life", seq)
            if leaf.proven and seq >= self.start:
                self.anchored = max(self.anchored or 0, seq)
            if leaf.kind == ERASED:
                self.erased = True
                if last > seq and self.lost is None:
                    self.find("erased", seq + 1, last)
        if era and era.rewound is not None:
            self.find("rewound", era.rewound)
        if not floor:
            self.find("floor", self.start)
        self.findings = [(problem, min(seq, good + 1) if problem == "number" else seq, until)
                         for problem, seq, until in self.findings]
        if self.lost is None and self.ended and self.last and self.last.more:
            self.find("pieces", last + 1)
        if not self.ended:
            self.find("unended", last + 1)
        elif self.lost is None and not told:
            seq, head = self.ended
            if seq != last:
                self.find("end", min(good + 1, max(seq, last)), max(seq, last))
            elif head != self.heads[-1]:
                self.find("end", min(good + 1, max(last, self.start)), last)
        self.findings.sort(key=lambda finding: -1 if finding[1] is None else finding[1])
        return {"owner": self.owner.hex(), "to": last, "head": self.heads[-1].hex(), "anchored": self.anchored,
                "erased": self.erased, "findings": self.findings}


# The log

def node(left, right):
    return sha(b"\1", left, right)


def root_of(hashes):
    """RFC 6962, section 2.1."""
    if not hashes:
        return sha()
    while len(hashes) > 1:
        odd = hashes[-1:] if len(hashes) % 2 else []
        hashes = [node(*pair) for pair in zip(hashes[::2], hashes[1::2])] + odd
    return hashes[0]


def included(hashes, index, size, leaf, root):
    """RFC 9162, section 2.1.3.2."""
    at, last, made = index, size - 1, leaf
    for hash in hashes:
        if last == 0:
            return False
        if at % 2 or at == last:
            made = node(hash, made)
            while at and at % 2 == 0:
                at, last = at >> 1, last >> 1
        else:
            made = node(made, hash)
        at, last = at >> 1, last >> 1
    return last == 0 and made == root


def consistent(hashes, old, new, old_root, new_root):
    """RFC 9162, section 2.1.4.2."""
    if old == new:
        return not hashes and old_root == new_root
    hashes = [old_root, *hashes] if old & (old - 1) == 0 else list(hashes)
    if not hashes:
        return False
    at, last = old - 1, new - 1
    while at % 2:
        at, last = at >> 1, last >> 1
    first = second = hashes[0]
    for hash in hashes[1:]:
        if last == 0:
            return False
        if at % 2 or at == last:
            first, second = node(hash, first), node(hash, second)
            while at and at % 2 == 0:
                at, last = at >> 1, last >> 1
        else:
            second = node(second, hash)
        at, last = at >> 1, last >> 1
    return last == 0 and (first, second) == (old_root, new_root)


def read_keys(text):
    """From which size of the log on each key signs: name, id and public key."""
    keys = []
    for line in text.splitlines():
        if line.strip() and not line.strip().startswith("#"):
            size, key = line.split()
            name, key_id, public = key.split("+", 2)
            public = base64.b64decode(public, validate=True)
            key_id = bytes.fromhex(key_id)
            need(public[0] == 1 and sha(name.encode(), b"\n", public)[:4] == key_id)
            keys.append((int(size), name, key_id, Ed25519PublicKey.from_public_bytes(public[1:])))
    return keys


def signed_by(key, text, signatures):
    _, name, key_id, public = key
    for signer, blob in signatures:
        if signer == name and blob[:4] == key_id:
            try:
                public.verify(blob[4:], text.encode())
                return True
            except InvalidSignature:
                return False
    return False


def read_note(note):
    """Origin, size, root, the signed text, and the signatures."""
    need(all(char >= " " or char == "\n" for char in note) and len(note.encode()) <= 1_000_000)
    text, gap, tail = note.rpartition("\n\n")
    need(gap and tail.endswith("\n"))
    signatures = []
    for line in tail[:-1].split("\n"):
        match = re.fullmatch("\u2014 ([^\\s+]+) ([A-Za-z0-9+/]+=*)", line)
        need(match)
        signatures.append((match[1], from_b64(match[2])))
        need(len(signatures[-1][1]) >= 5)
    need(len(signatures) <= 100)
    lines = text.split("\n")
    need(len(lines) >= 3 and lines[0] and all(lines[3:]) and re.fullmatch("0|[1-9][0-9]{0,19}", lines[1]))
    root = from_b64(lines[2])
    need(len(root) == 32 and int(lines[1]) <= LEAVES)
    return lines[0], int(lines[1]), root, text + "\n", signatures


class Leaf:
    def __init__(self, index, data, proven):
        self.index, self.data, self.proven, self.kind = index, data, proven, data[1]
        self.owner, self.life, self.seq, self.head = struct.unpack(">32s16sQ32s", data[2:])


class Era:
    def __init__(self):
        self.leaves, self.rewound = [], None

    def erased(self):
        return bool(self.leaves) and self.leaves[-1].kind == ERASED

    def ended(self):
        return bool(self.leaves) and self.leaves[-1].kind in (ERASED, LOST)


class Log:
    def __init__(self, keys):
        self.keys, self.leaves, self.proofs, self.growth, self.notes = keys, {}, [], [], []
        self.found, self.points, self.rebuilt = [], [], 0

    def judge(self, known, origin, scope):
        for note in self.notes:
            try:
                named, size, root, text, signatures = read_note(note)
            except Bad:
                self.found.append("note")
                continue
            of_size = [key for key in self.keys if key[0] <= size][-1:]
            if origin is not None and named != origin:
                self.found.append("foreign")
            elif not self.keys:
                self.points.append((size, 1, root, False))
            elif any(signed_by(key, text, signatures) for key in of_size):
                self.points.append((size, 1, root, True))
            else:
                other = any(signed_by(key, text, signatures) for key in self.keys)
                self.found.append("key" if other else "signature")
        if known:
            named, size, root, _, _ = read_note(known)
            if origin is not None and named != origin:
                self.found.append("foreign")
            else:
                if max((point[0] for point in self.points if point[3]), default=-1) < size:
                    self.found.append("replayed")
                self.points.append((size, 0, root, True))
        self.points.sort(key=lambda point: point[:2])
        proven = self.prove(self.link(self.rebuild()), scope)
        eras = {}
        for index in sorted(self.leaves):
            if self.keys and index not in proven:
                continue
            leaf = Leaf(index, self.leaves[index], index in proven)
            of = eras.setdefault(leaf.owner, [])
            if not of or of[-1].ended():
                of.append(Era())
            before = [other for other in of[-1].leaves if other.kind != FLOOR][-1:]
            if leaf.kind != FLOOR and before and leaf.seq < before[0].seq and of[-1].rewound is None:
                of[-1].rewound = leaf.seq
            of[-1].leaves.append(leaf)
            if leaf.kind == LOST and (not known or index >= read_note(known)[1]):
                self.found.append("lost")
        return eras

    def rebuild(self):
        hashes = []
        while len(hashes) in self.leaves:
            hashes.append(sha(b"\0", self.leaves[len(hashes)]))
        good, self.whole = [], 0
        for point in self.points:
            size, _, root, signed = point
            if any(other[0] == size and other[2] != root for other in good):
                self.found.append("fork")
            elif size <= len(hashes) and root_of(hashes[:size]) != root:
                self.found.append("root")
            else:
                good.append(point)
                if size <= len(hashes):
                    self.whole, self.rebuilt = size, max(self.rebuilt, size if signed else 0)
        return good

    def link(self, good):
        for before, after in zip(good, good[1:]):
            if before[0] in (0, after[0]) or after[0] <= self.whole:
                continue
            proofs = [hashes for old, new, hashes in self.growth if (old, new) == (before[0], after[0])]
            if not proofs:
                self.found.append("unlinked")
            elif not consistent(proofs[0], before[0], after[0], before[2], after[2]):
                self.found.append("consistency")
        return [point for point in good if point[3]]

    def prove(self, points, scope):
        proven, roots = {index for index in self.leaves if index < self.rebuilt}, {}
        for point in points:
            roots.setdefault(point[0], point[2])
        for index, size, hashes in self.proofs:
            if index not in self.leaves or size not in roots:
                self.found += ["unproven"] if self.keys else []
            elif included(hashes, index, size, sha(b"\0", self.leaves[index]), roots[size]):
                proven.add(index)
            else:
                self.found.append("proof")
        top = max((point[0] for point in points), default=0)
        lacking = any(index < top and index not in proven for index in self.leaves)
        lacking |= scope != "part" and self.rebuilt < top and len([i for i in self.leaves if i < top]) < top
        if lacking and "root" not in self.found:
            self.found.append("unproven")
        return proven


def verify(data, keys, known=None, scope="all"):
    log, chains, found, begun, astray, owners = Log(read_keys(keys)), [], [], None, False, set()
    lines = data.split(b"\n")
    if lines[-1]:
        found.append("torn-end")
    for place, line in enumerate(lines):
        torn = place == len(lines) - 1
        if torn and not line:
            break
        try:
            item = parse(line)
        except Bad:
            found += [] if torn else ["unreadable"]
            continue
        kind = item["t"]
        if kind == "trail":
            begun = begun or (item["origin"], item["deployment"])
            foreign = begun != (item["origin"], item["deployment"])
            astray = foreign or item["owner"] in owners
            if astray:
                found.append("foreign" if foreign else "misplaced")
            else:
                owners.add(item["owner"])
                chains.append(Chain(item))
        elif kind in ("link", "end"):
            if astray:
                continue
            if not chains:
                found.append("misplaced")
            elif kind == "link":
                chains[-1].link(item)
            elif chains[-1].ended:
                chains[-1].find("misplaced")
            else:
                chains[-1].ended = (item["seq"], item["head"])
        elif kind == "leaf":
            found += ["misplaced"] if item["index"] in log.leaves else []
            log.leaves[item["index"]] = item["leaf"]
        elif kind == "checkpoint":
            log.notes.append(item["note"])
        elif kind == "proof":
            log.proofs.append((item["index"], item["size"], item["hashes"]))
        else:
            log.growth.append((item["from"], item["size"], item["hashes"]))
    eras, users = log.judge(known, begun and begun[0], scope), []
    for chain in chains:
        of = eras.get(chain.owner, [])
        shared = [era for era in of if {leaf.life for leaf in era.leaves} & set(chain.lives)]
        living = [era for era in of[-1:] if not era.ended()]
        users.append(chain.finish((shared or living or [None])[-1]))
    found += log.found
    if scope == "all":
        found += ["missing" for owner, of in eras.items() if owner not in owners and not of[-1].erased()]
    everything = found + [finding[0] for user in users for finding in user["findings"]]
    verdict = "clean" if not everything else "torn" if "torn-end" in everything and set(everything) <= ABSENT else "bad"
    return {"verdict": verdict, "users": users, "findings": sorted(set(found)), "rebuilt": log.rebuilt}


def serve():
    for line in sys.stdin:
        ask = json.loads(line)
        report = verify(base64.b64decode(ask["trail"]), ask["keys"], ask["known"], ask["scope"])
        print(json.dumps(report), flush=True)


def main(path, keys, kept=None, scope="part"):
    with open(path, "rb") as trail, open(keys, encoding="utf-8") as trusted:
        known = open(kept, encoding="utf-8").read() if kept else None
        report = verify(trail.read(), trusted.read(), known, scope)
    print(json.dumps(report, indent=1))
    return report["verdict"] != "clean"


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    elif sys.argv[1:2] == ["trail"] and 4 <= len(sys.argv) <= 6:
        sys.exit(main(*sys.argv[2:]))
    else:
        sys.exit(__doc__)
