#!/usr/bin/env python3
"""The rules of docs/audit.md, read by another program than the one that writes trails.

    verify.py [--key-file FILE] FOLDER...

One line for each folder: "ok FIRST LAST", or "FILE:LINE what is wrong". Ends with 1 if any is broken.
Standard library only.
"""

import hashlib
import hmac
import json
import os
import re
import sys

SEAL = re.compile(rb',"hash":"([0-9a-f]{64})"\}\n\Z')
NAME = re.compile(r"audit-(\d{12,})-\d{8}T\d{6}Z\.jsonl\Z")
NONE = "0" * 64


class Broken(Exception):
    def __init__(self, file, line, what):
        super().__init__(f"{file}:{line} {what}")


class Chain:
    def __init__(self, key):
        self.key = key
        self.name = "sha256" if key is None else "hmac-sha256"

    def hash(self, data):
        if self.key is None:
            return hashlib.sha256(data).hexdigest()
        return hmac.new(self.key, data, hashlib.sha256).hexdigest()

    def read(self, line, file, number):
        """A line's members, if it has the hash that it states."""
        seal = SEAL.search(line)
        if seal is None:
            raise Broken(file, number, "is not a whole record")
        if self.hash(line[: seal.start()]) != seal.group(1).decode():
            raise Broken(file, number, "was changed")
        return json.loads(line)


def whole_lines(data):
    """The lines with their newlines, and what stands behind the last."""
    end = data.rfind(b"\n") + 1
    return data[:end].splitlines(keepends=True), data[end:]


def verify(folder, chain):
    try:
        with open(os.path.join(folder, "head.json"), "rb") as file:
            head = chain.read(file.read(), "head.json", 1)
    except FileNotFoundError:
        raise Broken("head.json", 1, "is missing") from None
    names = sorted((int(found.group(1)), found.group(0)) for found in map(NAME.match, os.listdir(folder)) if found)
    seq, prev, first, file, number = 0, NONE, None, "", 0
    wanted, deleted, met = None, set(), False
    for index, (_, file) in enumerate(names):
        with open(os.path.join(folder, file), "rb") as opened:
            lines, rest = whole_lines(opened.read())
        number = 0
        for number, line in enumerate(lines, 1):
            record = chain.read(line, file, number)
            if number == 1:
                if (record["event"], record.get("file"), record.get("chain"), record.get("trail")) != (
                    "file",
                    file,
                    chain.name,
                    1,
                ):
                    raise Broken(file, 1, "is not the first line of this file")
                if first is None and record["seq"] > 1:
                    seq, prev = record["seq"] - 1, record["prev"]
                    wanted = (file, record.get("after_file"), seq)
            if record["seq"] != seq + 1:
                raise Broken(file, number, f"has number {record['seq']} where {seq + 1} is due")
            if record["prev"] != prev:
                raise Broken(file, number, "does not follow the record before it")
            seq, prev = record["seq"], record["hash"]
            first = first or seq
            if seq == head["seq"]:
                if prev != head["last"]:
                    raise Broken(file, number, "is another record than head.json names")
                met = True
            if record["event"] == "deleted":
                deleted.add((record["file"], record["through"]))
        if rest and not (met and index + 1 == len(names)):
            raise Broken(file, number + 1, "is not a whole record")
    if not met:
        raise Broken(file, number + 1, f"is missing: head.json names record {head['seq']}")
    if wanted is not None and wanted[1:] not in deleted:
        raise Broken(wanted[0], 1, "follows a file that the hub did not delete")
    return first, seq


def main(arguments):
    key = None
    if arguments[:1] == ["--key-file"]:
        with open(arguments[1], "rb") as file:
            key = file.read()
        key = key[:-1] if key.endswith(b"\n") else key
        arguments = arguments[2:]
    chain = Chain(key)
    status = 0
    for folder in arguments:
        try:
            first, last = verify(folder, chain)
            print(f"ok {first} {last}")
        except Broken as broken:
            print(broken)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
