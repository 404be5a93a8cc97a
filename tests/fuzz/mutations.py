"""Changes to a file: bytes flipped, cut, repeated and put in, and values of its text replaced by awkward ones."""

from __future__ import annotations

import random
import re
import struct

AWKWARD_VALUES = (
    b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"9223372036854775808", b"1" * 5000, b"[]", b"{}", b'""', b"[" * 100_000,
    b'{"a":' * 50_000, b'"\\ud800"', b'"\\u0000"', b'"../../etc/passwd"', b'"C:\\\\windows"', b'"/dev/zero"', b'"~nobody/x"',
    b'"' + b"x" * 300 + b'"', b'"\xff\xfe"', b"0.1", b'"F32"', b"[[[]]]", b"[1, [2], {}]",
)  # fmt: skip
AWKWARD_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**31, 2**63 - 1, 2**64 - 1)
_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null|\[\]|\{\}')
_HEAD_BYTES = 4096


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """Change a file in one to four ways, mostly near its start, where headers are."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        raw = rng.choice(_WAYS)(raw, rng)
    return raw


def _place(raw: bytes, rng: random.Random) -> int:
    end = len(raw) if rng.random() < 0.3 else min(len(raw), _HEAD_BYTES)
    return rng.randrange(max(end, 1))


def _flip(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8, 32)) if raw else 0):
        changed[_place(raw, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: _place(raw, rng)]


def _remove(raw: bytes, rng: random.Random) -> bytes:
    at = _place(raw, rng)
    return raw[:at] + raw[at + rng.choice((1, 4, 16, 300)) :]


def _repeat(raw: bytes, rng: random.Random) -> bytes:
    at = _place(raw, rng)
    return raw[:at] + raw[at : at + rng.choice((1, 8, 200))] * rng.choice((2, 3, 50)) + raw[at:]


def _write_number(raw: bytes, rng: random.Random) -> bytes:
    layout = rng.choice(("<B", "<H", "<I", "<Q", ">I", ">Q"))
    size = struct.calcsize(layout)
    at = 0 if rng.random() < 0.2 else _place(raw, rng)
    number = rng.choice(AWKWARD_NUMBERS) & (256**size - 1)
    return raw[:at] + struct.pack(layout, number) + raw[at + size :]


def _blank(raw: bytes, rng: random.Random) -> bytes:
    at, length = _place(raw, rng), rng.choice((4, 64, 1024))
    return raw[:at] + rng.choice((b"\0", b"\xff")) * min(length, len(raw) - at) + raw[at + length :]


def _replace_value(raw: bytes, rng: random.Random) -> bytes:
    """Put an awkward value, or another one of the file, in place of a value of its text."""
    head = raw[: 16 * _HEAD_BYTES]
    values = list(_VALUE.finditer(head))
    if not values:
        return _flip(raw, rng)
    one, other = rng.choice(values), rng.choice(values).group()
    new = rng.choice(AWKWARD_VALUES) if rng.random() < 0.7 else other
    changed = raw[: one.start()] + new + raw[one.end() :]
    return _fix_header_length(raw, changed)


def _fix_header_length(raw: bytes, changed: bytes) -> bytes:
    """Keep the length that a safetensors file begins with true, so that what lies behind it is looked at."""
    if len(raw) < 9 or raw[8:9] != b"{":
        return changed
    length = struct.unpack("<Q", raw[:8])[0] + len(changed) - len(raw)
    return struct.pack("<Q", min(max(length, 0), 2**64 - 1)) + changed[8:]


_WAYS = (
    _flip,
    _flip,
    _cut,
    _remove,
    _repeat,
    _write_number,
    _blank,
    _replace_value,
    _replace_value,
    _replace_value,
)
