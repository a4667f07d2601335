"""Random mutations of values, texts and tables, as from a typing error, a bad disk or an attacker."""

from __future__ import annotations

import csv
import io
import json
import random
import tomllib
from typing import Any

import tomli_w

CANARY_PACKAGE = "canary_package"
"""Importing it creates the marker of :mod:`_fuzz.canary`."""

NUMBERS = (0, 1, -1, 2, 7, 255, 256, 65_537, 2**31, 2**53, 2**63 - 1, -(2**63), 1e-320, 1e308, -1e308, 0.5)
NOT_NUMBERS = (float("nan"), float("inf"), -float("inf"))
TEXTS = (
    "", " ", "x", "x" * 5_000, "../outside", "/proc/version", "/dev/zero", "a/b", "..", ".", "~", "a\x00b",
    "\x1b[2J", "\u202eabc", "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$\\frac{1}{",
    "$a$b", "{{7*7}}", "%s%n", "nan", "1e999", "1_0", "−5", "٣", "²", "true", "none", "None", "é" * 60, "🕹" * 9,
    f"{CANARY_PACKAGE}:Canary-v0", f"{CANARY_PACKAGE}.deep:Canary-v0", "os:CartPole-v1", "ALE/Pong-v5",
    "CartPole-v1", "kung_fu_master", "blip", "../blip", "learning", "stage-01", "1" * 400, "9" * 5_000,
    "a" * 100 + ".toml", "kungfu,boxing", "cuda:7", "cuda:999", "10M",
)  # fmt: skip


def odd_value(draw: random.Random) -> Any:
    """Return a value of a random type, often an invalid one."""
    kind = draw.randrange(8)
    if kind < 3:
        return draw.choice(NUMBERS)
    if kind < 6:
        return draw.choice(TEXTS)
    if kind == 6:
        return draw.choice((True, False, *NOT_NUMBERS))
    return draw.choice(([], {}, [[]], [1, 2, 3], ["a"] * 50, {"a": {"b": 1}}, _deep(draw.choice((5, 40, 200)))))


def _deep(depth: int) -> Any:
    nested: Any = 1
    for _ in range(depth):
        nested = {"a": nested}
    return nested


def tree(draw: random.Random, values: Any) -> Any:
    """Mutate one entry of nested tables and lists, in place if possible; return the whole."""
    places = list(_places(values))
    if not places:
        return odd_value(draw)
    holder, key = draw.choice(places)
    operation = draw.randrange(9)
    if operation < 4:
        holder[key] = odd_value(draw)
    elif operation == 4:
        del holder[key]
    elif operation == 5:
        holder[key] = _nudged(draw, holder[key])
    elif operation == 6:
        other, place = draw.choice(places)
        holder[key] = json.loads(json.dumps(other.get(place) if isinstance(other, dict) else None, default=str))
    elif operation == 7:
        holder[key] = [holder[key]] * draw.choice((1, 2, 300))
    elif isinstance(holder, dict):
        holder[draw.choice((str(key) + "x", "name", "a.b", "", *TEXTS[:8]))] = odd_value(draw)
    return values


def _places(values: Any) -> Any:
    """Yield every (container, key) at any depth."""
    waiting = [values]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


def _nudged(draw: random.Random, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)[: draw.randrange(12)] if isinstance(value, str) else odd_value(draw)
    return draw.choice((-value, value + 1, value - 1, value * 10, value * 10**6, value / 3, str(value)))


def toml(draw: random.Random, text: bytes) -> bytes:
    """Mutate a TOML file: its values, or its bytes."""
    if draw.random() < 0.7:
        values = tomllib.loads(text.decode("utf-8"))
        for _ in range(draw.choice((1, 1, 2, 4))):
            values = tree(draw, values)
        try:
            return tomli_w.dumps(values).encode("utf-8", "surrogatepass")
        except (TypeError, ValueError, AttributeError, RecursionError):
            pass  # not representable in TOML: mutate the bytes instead
    return letters(draw, text)


def json_text(draw: random.Random, text: bytes) -> bytes:
    """Mutate a JSON file: its values, or its bytes."""
    if draw.random() < 0.8:
        values = json.loads(text)
        for _ in range(draw.choice((1, 1, 2, 4))):
            values = tree(draw, values)
        return json.dumps(values, default=str).encode("utf-8", "surrogatepass")
    if draw.random() < 0.1:
        return draw.choice(
            (b"[" * 100_000, b'{"a":' * 50_000, b'"\\ud800"', b"1" * 10_000, b"[" + b"[]," * 10_000 + b"1]")
        )
    return letters(draw, text)


def table(draw: random.Random, text: bytes) -> bytes:
    """Mutate a CSV file: its cells, or its bytes."""
    rows = list(csv.reader(io.StringIO(text.decode("utf-8"), newline="")))
    operation = draw.randrange(8)
    if operation > 5 or not rows:
        return letters(draw, text)
    for _ in range(draw.choice((1, 1, 3, 20))):
        row = draw.choice(rows)
        if operation < 3 and row:
            row[draw.randrange(len(row))] = str(odd_value(draw))
        elif operation == 3:
            rows.insert(draw.randrange(len(rows) + 1), list(row))
        elif operation == 4 and row:
            del row[draw.randrange(len(row))]
        else:
            row.append(str(odd_value(draw)))
    if draw.random() < 0.05:
        rows.append(["9" * 200_000])
    file = io.StringIO()
    csv.writer(file, lineterminator=draw.choice(("\n", "\r\n"))).writerows(rows)
    return file.getvalue().encode("utf-8", "surrogatepass")


def letters(draw: random.Random, content: bytes) -> bytes:
    """Change bytes, whatever they mean."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(changed) + 1)
        end = min(len(changed), at + draw.choice((1, 1, 4, 40)))
        operation = draw.randrange(7)
        if operation == 0 and at < len(changed):
            changed[at] = draw.randrange(256)
        elif operation == 1:
            del changed[at:end]
        elif operation == 2:
            changed[at:at] = changed[at:end] * draw.choice((1, 3, 50))
        elif operation == 3:
            changed[at:at] = draw.choice(TEXTS).encode("utf-8", "surrogatepass")
        elif operation == 4:
            del changed[at:]
        elif operation == 5:
            changed[at:at] = draw.choice(
                (b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b"\xed\xa0\x80", b"[[")
            )
        else:
            changed[:] = draw.choice((bytes(changed), changed.decode("utf-8", "replace").encode("utf-16"), b""))
    return bytes(changed)
