#!/usr/bin/env python3
"""Envelope v1 and sealed stream v1, a second time, from docs/envelope-v1.md alone.

    envelope.py check vectors.json    checks the golden vectors
    envelope.py two two-keys.json     checks the blobs that are right under two keys
    envelope.py serve                 answers one JSON request a line, for the test that compares the two

Needs the package `cryptography`. For tests: it wipes nothing.
"""
import hashlib
import hmac
import json
import os
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

VERSION, RECORD, COMMITTING = 1, 1, 2
PARTS = {"head": 1, "body": 2, "note": 3, "wrap": 4, "frame": 5, "details": 6}
PURPOSES = ("value", "history", "audit", "deployment", "note")
MAGIC = b"syntha-sealed\0\0\x01"
FRAME = 64 * 1024


class Refused(Exception):
    """The blob does not open."""


def number(value, size):
    return value.to_bytes(size, "big")


def expand(key, info, length=32):
    return HKDFExpand(SHA256(), length, info).derive(key)


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


# Names and subkeys

def subkey(data_key, purpose):
    return expand(data_key, b"syntha/v1/purpose/" + purpose.encode())


def stored_name(root, space, name):
    return mac(expand(root, b"syntha/v1/name"), number(space, 1) + name)


def archive_key(root):
    return expand(root, b"syntha/v1/archive")


def details_key(root):
    return expand(root, b"syntha/v1/details")


# Padding

def padded_len(length):
    marked = length + 1
    if marked <= 64:
        return 64
    exponent = marked.bit_length() - 1
    unit = 1 << (exponent - exponent.bit_length())
    return (marked + unit - 1) // unit * unit


def pad(content):
    return (content + b"\x80").ljust(padded_len(len(content)), b"\0")


def unpad(padded):
    marked = padded.rstrip(b"\0")
    if not marked.endswith(b"\x80"):
        raise Refused("not padded")
    return marked[:-1]


# Envelopes. A binding is a dict with its part's name and its fields; byte strings are bytes.

def associated_data(binding, algorithm, epoch):
    part = PARTS[binding["part"]]
    fields = [b"syntha", number(VERSION, 1), number(algorithm, 1), number(epoch, 4), number(part, 1)]
    if part <= 3:
        expires = binding["expires"]
        fields += [binding["deployment"], binding["owner"], binding["life"], number(binding["space"], 1),
                   binding["name"], number(binding["seq"], 8), number(binding["version"], 8),
                   number(binding["body_version"], 8), b"" if expires is None else number(expires, 8),
                   binding["extra"]]
    elif part == 4:
        fields += [binding["provider"].encode(), binding["deployment"], binding["owner"],
                   binding["what"].encode(), binding["life"], number(binding["key_epoch"], 4),
                   binding["extra"]]
    elif part == 6:
        fields += [binding["deployment"], binding["owner"], binding["id"]]
    else:
        fields += [binding["header"], number(binding["counter"], 8), number(binding["last"], 1)]
    return b"".join(number(len(field), 4) + field for field in fields)


def keys(key, algorithm, epoch, salt):
    info = b"syntha/v1/rec" + number(algorithm, 1) + number(epoch, 4) + salt[:12]
    derived = expand(key, info, 64 if algorithm == COMMITTING else 32)
    return derived[:32], derived[32:]


def seal(key, algorithm, epoch, binding, salt, content):
    if binding["part"] == "wrap" and algorithm != COMMITTING:
        raise ValueError("a wrap commits to its key")
    own, commitment = keys(key, algorithm, epoch, salt)
    ciphertext = AESGCM(own).encrypt(salt[12:], content, associated_data(binding, algorithm, epoch))
    return number(VERSION, 1) + number(algorithm, 1) + number(epoch, 4) + salt + commitment + ciphertext


def open_(key, algorithm, binding, sealed):
    head = 30 + (32 if algorithm == COMMITTING else 0)
    if len(sealed) < head + 16 or sealed[0] != VERSION or sealed[1] != algorithm:
        raise Refused("not such a blob")
    if binding["part"] == "wrap" and algorithm != COMMITTING:
        raise Refused("a wrap commits to its key")
    epoch, salt = int.from_bytes(sealed[2:6], "big"), sealed[6:30]
    own, commitment = keys(key, algorithm, epoch, salt)
    if not hmac.compare_digest(commitment, sealed[30:head]):
        raise Refused("another key")
    try:
        return AESGCM(own).decrypt(salt[12:], sealed[head:], associated_data(binding, algorithm, epoch))
    except InvalidTag:
        raise Refused("changed, or elsewhere") from None


# Sealed streams. `source` is the key source of the header: its code and what follows it.

def stream_key(source_key, salt, head):
    info = b"syntha/v1/stream" + head
    derived = HKDF(SHA256(), 64, salt, info).derive(source_key)
    return derived[:32], derived[32:]


def frame(header, counter, last):
    return {"part": "frame", "header": header, "counter": counter, "last": last}


def seal_stream(source_key, content, deployment, owner, source, data):
    salt = os.urandom(32)
    fields = number(content, 1) + deployment + owner + salt + source
    head = MAGIC + number(len(fields) + 32, 4) + fields
    key, commitment = stream_key(source_key, salt, head)
    head += commitment
    header, out = hashlib.sha256(head).digest(), [head]
    for counter in range(len(data) // FRAME + 1):
        piece = data[counter * FRAME:(counter + 1) * FRAME]
        binding = frame(header, counter, len(piece) < FRAME)
        sealed = seal(key, RECORD, 0, binding, os.urandom(24), piece)
        out += [number(len(sealed), 4), sealed]
    return b"".join(out)


def open_stream(source_key, stream):
    length = int.from_bytes(stream[16:20], "big")
    end = 20 + length
    if stream[:16] != MAGIC or length < 82 + 32 or len(stream) < end:
        raise Refused("not a sealed stream")
    key, commitment = stream_key(source_key, stream[69:101], stream[:end - 32])
    if not hmac.compare_digest(commitment, stream[end - 32:end]):
        raise Refused("another key")
    header, counter, content = hashlib.sha256(stream[:end]).digest(), 0, b""
    while True:
        length = int.from_bytes(stream[end:end + 4], "big")
        sealed = stream[end + 4:end + 4 + length]
        if len(stream) < end + 4 or len(sealed) != length or length > FRAME + 46 or sealed[2:6] != bytes(4):
            raise Refused("cut")
        end += 4 + length
        last = length < FRAME + 46
        content += open_(key, RECORD, frame(header, counter, last), sealed)
        counter += 1
        if last:
            break
    if end != len(stream):
        raise Refused("more after the end")
    return content


# The test's side

BYTES = ("deployment", "owner", "life", "name", "extra", "header", "id")


def read_binding(fields):
    return {name: bytes.fromhex(value) if name in BYTES else value for name, value in fields.items()}


def do_seal(ask):
    content = bytes.fromhex(ask["content"])
    return seal(bytes.fromhex(ask["subkey"]), ask["algorithm"], ask["epoch"], read_binding(ask["binding"]),
                bytes.fromhex(ask["salt"]), pad(content) if ask["padded"] else content)


def do_open(ask):
    content = open_(bytes.fromhex(ask["subkey"]), ask["algorithm"], read_binding(ask["binding"]),
                    bytes.fromhex(ask["sealed"]))
    return unpad(content) if ask["padded"] else content


def do_seal_stream(ask):
    return seal_stream(bytes.fromhex(ask["key"]), ask["content"], bytes.fromhex(ask["deployment"]),
                       bytes.fromhex(ask["owner"]), bytes.fromhex(ask["source"]), bytes.fromhex(ask["data"]))


def do_open_stream(ask):
    return open_stream(bytes.fromhex(ask["key"]), bytes.fromhex(ask["stream"]))


VERBS = {"seal": do_seal, "open": do_open, "seal_stream": do_seal_stream, "open_stream": do_open_stream}


def answer(ask):
    try:
        return {"bytes": VERBS[ask["do"]](ask).hex()}
    except Refused:
        return {"refused": True}


def serve():
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def expect(held, what):
    if not held:
        sys.exit(f"differs: {what}")


def check(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    for vector in vectors["subkeys"]:
        expect(subkey(bytes.fromhex(vector["key"]), vector["purpose"]).hex() == vector["subkey"], vector)
    for vector in vectors["roots"]:
        expect(archive_key(bytes.fromhex(vector["root"])).hex() == vector["archive_key"], vector)
    for vector in vectors["details_keys"]:
        expect(details_key(bytes.fromhex(vector["root"])).hex() == vector["details_key"], vector)
    for vector in vectors["names"]:
        stored = stored_name(bytes.fromhex(vector["root"]), vector["space"], vector["name"].encode())
        expect(stored.hex() == vector["stored"], vector)
    for vector in vectors["padding"]:
        content = bytes.fromhex(vector["content"])
        expect(pad(content).hex() == vector["padded"] and unpad(pad(content)) == content, vector)
    for vector in vectors["not_padded"]:
        try:
            unpad(bytes.fromhex(vector))
        except Refused:
            continue
        expect(False, vector)
    by_name = {}
    for vector in vectors["sealed"]:
        name, binding = vector["name"], read_binding(vector["binding"])
        by_name[name] = vector
        made = associated_data(binding, vector["algorithm"], vector["epoch"]).hex()
        expect(made == vector["associated_data"], f"associated data of {name}")
        expect(do_seal(vector).hex() == vector["sealed"], f"sealing {name}")
        expect(do_open(vector).hex() == vector["content"], f"opening {name}")
    for vector in vectors["refused"]:
        ask = {**by_name[vector["of"]], **vector["with"], "do": "open"}
        expect(answer(ask) == {"refused": True}, f"{vector['of']}: {vector['what']}")
    counts = {name: len(value) for name, value in vectors.items()}
    print(json.dumps(counts))


def check_two(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    for vector in vectors:
        asked = ({**vector, "subkey": key, "do": "open"} for key in vector["subkeys"])
        expect(["bytes" in answer(ask) for ask in asked] == vector["opens"], vector)
    print(len(vectors))


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    elif len(sys.argv) == 3 and sys.argv[1] == "check":
        check(sys.argv[2])
    elif len(sys.argv) == 3 and sys.argv[1] == "two":
        check_two(sys.argv[2])
    else:
        sys.exit(__doc__)
