#!/usr/bin/env python3
"""Makes two-keys.json: ciphertexts whose tag is right under two keys, which AES-GCM allows to one who knows both.

The way of Dodis, Grubbs, Ristenpart and Woodage ("Fast Message Franking", 2018, the invisible salamanders): GCM's tag is
linear in each block of the ciphertext, so one block is solved for that makes the tags under both keys the same.
"""
import json

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import envelope

POLYNOMIAL = 0xE1 << 120


def multiply(a, b):
    product = 0
    for bit in range(127, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (POLYNOMIAL if b & 1 else 0)
    return product


def power(a, exponent):
    product = 1 << 127
    for _ in range(exponent):
        product = multiply(product, a)
    return product


def inverse(a):
    # a^(2^128 - 2)
    product = 1 << 127
    for _ in range(127):
        a = multiply(a, a)
        product = multiply(product, a)
    return product


def encrypt_block(key, block):
    return int.from_bytes(Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block), "big")


def two_keys(key_a, key_b, nonce, data, ciphertext):
    """The ciphertext, with one block more, and the tag that is right under both keys."""
    ciphertext += bytes(16)
    lengths = (len(data) * 8).to_bytes(8, "big") + (len(ciphertext) * 8).to_bytes(8, "big")
    padded = data + bytes(-len(data) % 16) + ciphertext + lengths
    blocks = [int.from_bytes(padded[at:at + 16], "big") for at in range(0, len(padded), 16)]

    def hash_key(key):
        return encrypt_block(key, bytes(16))

    def tag(key):
        state, h = 0, hash_key(key)
        for block in blocks:
            state = multiply(state ^ block, h)
        return state ^ encrypt_block(key, nonce + b"\0\0\0\1")

    # The block before the lengths counts with the square of the hash key.
    factor = power(hash_key(key_a), 2) ^ power(hash_key(key_b), 2)
    blocks[-2] = multiply(tag(key_a) ^ tag(key_b), inverse(factor))
    assert tag(key_a) == tag(key_b)
    return ciphertext[:-16] + blocks[-2].to_bytes(16, "big") + tag(key_a).to_bytes(16, "big")


def main():
    subkeys, salt, epoch = [bytes([1] * 32), bytes([2] * 32)], bytes(range(24)), 1
    vectors = []
    for algorithm, part in ((1, "body"), (2, "body"), (2, "wrap")):
        place = {"part": part, "deployment": "11" * 16, "owner": "22" * 32, "life": "33" * 16, "extra": ""}
        if part == "wrap":
            place |= {"provider": "passphrase", "what": "root", "key_epoch": 1}
        else:
            place |= {"space": 2, "name": "44" * 32, "seq": 0, "version": 1, "body_version": 1,
                      "expires": None}
        binding = envelope.read_binding(place)
        (key_a, commits_a), (key_b, commits_b) = (envelope.keys(key, algorithm, epoch, salt) for key in subkeys)
        data = envelope.associated_data(binding, algorithm, epoch)
        sealed = two_keys(key_a, key_b, salt[12:], data, bytes(16))
        head = bytes([1, algorithm]) + epoch.to_bytes(4, "big") + salt
        for commitment, opens in ((commits_a, [True, algorithm == 1]), (commits_b, [algorithm == 1, True])):
            vectors.append({"algorithm": algorithm, "binding": place, "padded": False,
                            "sealed": (head + commitment + sealed).hex(),
                            "subkeys": [key.hex() for key in subkeys], "opens": opens})
            if algorithm == 1:
                break
    print("[\n" + ",\n".join("  " + json.dumps(vector) for vector in vectors) + "\n]")


if __name__ == "__main__":
    main()
