"""Mutations: bytes that are flipped, cut and repeated; trees of JSON, TOML or YAML with values nobody expects."""

import contextlib
import copy
import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

Mutation = Callable[[random.Random, bytes], bytes]

BITES = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"9" * 5000,
    b"-1",
    b"1e999",
    b"NaN",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\n",
    b'"',
    b"{",
    b"[",
    b"[" * 3000,
    b"}",
    b"../",
    b"/",
    b"\x1b[2J",
    b"%s",
)
YAML_BITES = (
    b"<<: *a",
    b"&a ",
    b"*a",
    b"!!bool x",
    b"!!int ''",
    b"!!float ''",
    b"!!timestamp x",
    b"!!binary x",
    b"!!python/object/apply:os.system [id]",
    b"1:1:1:1:1:1.0",
    b"1:" * 400 + b"1.0",
    b"? ",
    b"- " * 500,
    b"${encoder.feat_in}",
    b"${a.b}",
    b"${oc.env:HOME}",
    b"???",
    b"2020-99-99",
    b".inf",
    b"~",
    b": ",
    b"| \n",
)
GZIP = b"\x1f\x8b"
CHECKSUM = 148  # place in a header of tar
TAR_FIELDS = ((0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (156, 1), (156, 1), (157, 100), (257, 8), (345, 155))
TAR_VALUES = (
    *(b"", b"../../evil", b"/etc/passwd", b"./model_config.yaml", b"model_weights.ckpt", b"a" * 155),
    *(b"00000000000", b"00000000001", b"77777777777", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1"),
    *(bytes([kind]) for kind in b"1234567SLKxgAV"),
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    3.5,
    10**6,
    2**31,
    2**63,
    10**30,
    -(10**30),
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "0",
    "../../evil",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "\x1b[31m",
    "x" * 5000,
    [],
    [[]],
    [0] * 300,
    {},
    {"": 0},
    {"x": {"x": {"x": None}}},
    [None],
    ["a", 1, None],
)


def bitten(bites: tuple[bytes, ...]) -> Mutation:
    """One to four small changes of bytes."""

    def mutate(draw: random.Random, content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            bite(draw, changed, bites)
        return bytes(changed)

    return mutate


def bite(draw: random.Random, changed: bytearray, bites: tuple[bytes, ...]) -> None:
    """Change a few bytes in place, near the front (headers) half of the time."""
    reach = min(len(changed), 256) if draw.random() < 0.5 else len(changed)
    at, size = draw.randrange(reach + 1), draw.choice((1, 1, 2, 4, 16, 300))
    kind = draw.randrange(6)
    if kind == 0 and changed:
        at = min(at, len(changed) - 1)
        changed[at] ^= 1 << draw.randrange(8)
    elif kind == 1:
        changed[at : at + size] = draw.randbytes(size)
    elif kind == 2:
        del changed[at : at + size]
    elif kind == 3:
        changed[at:at] = draw.choice(bites)
    elif kind == 4:
        changed[at:at] = changed[at : at + size] * draw.choice((1, 2, 50))
    else:
        del changed[at:]


bytes_of_any_file = bitten(BITES)
yaml_text = bitten(BITES + YAML_BITES)


def tree(draw: random.Random, root: Any) -> Any:
    """A copy of plain data with one to three places changed."""
    changed = copy.deepcopy(root)
    for _ in range(draw.choice((1, 1, 2, 3))):
        changed = replaced(draw, changed)
    return changed


def replaced(draw: random.Random, root: Any) -> Any:
    """Plain data with one place changed: another value, no value, another name, or nested deeply."""
    places = [(None, None), *spots(root)]
    holder, key = draw.choice(places)
    old = root if holder is None else holder[key]
    kind = draw.randrange(8)
    if kind == 0 and holder is not None:
        del holder[key]
        return root
    if kind == 1 and isinstance(holder, dict):
        holder[draw.choice(("", "x", f"{key}x", "\x1b", "a" * 300))] = holder.pop(key)
        return root
    new = nested(draw, old) if kind == 2 else numbered(draw, old) if kind == 3 else copy.deepcopy(draw.choice(VALUES))
    if holder is None:
        return new
    holder[key] = new
    return root


def spots(root: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every value below ``root``; long lists by their first places."""
    found: list[tuple[Any, Any]] = []
    waiting = [root] if isinstance(root, dict | list) else []
    while waiting:
        holder = waiting.pop()
        keys = list(holder)[:200] if isinstance(holder, dict) else range(min(len(holder), 20))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return found


def nested(draw: random.Random, value: Any) -> Any:
    """The value inside one or many lists."""
    for _ in range(draw.choice((1, 5, 200, 900))):
        value = [value]
    return value


def numbered(draw: random.Random, value: Any) -> Any:
    """A number near or far; other values become text or lists of themselves."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return draw.choice((str(value), [value], {"value": value}))
    return draw.choice((value + 1, value - 1, -value, value * 1000, value + 0.5, str(value)))


def json_tree(draw: random.Random, content: bytes) -> bytes:
    """JSON with changed places, or with changed bytes."""
    if draw.random() < 0.2:
        return bytes_of_any_file(draw, content)
    return json.dumps(tree(draw, json.loads(content))).encode()


def json_lines(draw: random.Random, content: bytes) -> bytes:
    """Lines of JSON with changed places, or with changed bytes."""
    if draw.random() < 0.3:
        return bytes_of_any_file(draw, content)
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = json_tree(draw, lines[at])
    return b"\n".join(lines)


def one_member(draw: random.Random, content: bytes, suffix: str) -> bytes:
    """A zip file whose members of one suffix are spoiled, one of them, inside a whole file; or the file itself."""
    if draw.random() < 0.3:
        return bytes_of_any_file(draw, content)
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        names = old.namelist()
        spoiled = draw.choice([name for name in names if name.endswith(suffix)])
        for name in names:
            data = old.read(name)
            new.writestr(name, bytes_of_any_file(draw, data) if name == spoiled else data)
    return changed.getvalue()


def message(kind: type[Message]) -> Mutation:
    """One to three values changed inside a whole protocol buffer, or changed bytes."""

    def mutate(draw: random.Random, content: bytes) -> bytes:
        if draw.random() < 0.3:
            return bytes_of_any_file(draw, content)
        root = kind.FromString(content)
        for _ in range(draw.choice((1, 1, 2, 3))):
            with contextlib.suppress(ValueError):  # a number that the field's type does not have
                change_field(draw, root)
        return root.SerializePartialToString()

    return mutate


def change_field(draw: random.Random, root: Message) -> None:
    """Change one field of a message or, most often, of a message inside it."""
    holder = root
    while parts := [value for field, value in holder.ListFields() if field.message_type]:
        if draw.random() < 0.2:
            break
        part = draw.choice(parts)
        holder = part if isinstance(part, Message) else draw.choice(part)
    filled = holder.ListFields()
    if not filled:
        return
    field, value = draw.choice(filled)
    kind = draw.randrange(6)
    if kind == 0:
        holder.ClearField(field.name)
    elif field.is_repeated:
        repeated(draw, value, of_messages=field.message_type is not None)
    elif field.message_type:
        value.Clear() if kind == 1 else change_field(draw, value)
    else:
        setattr(holder, field.name, other_scalar(draw, value))


def repeated(draw: random.Random, values: Any, *, of_messages: bool) -> None:
    """Drop, repeat or change one of several values."""
    at, kind = draw.randrange(len(values)), draw.randrange(3)
    if kind == 0:
        del values[at]
    elif kind == 1:
        values.extend([values[at]] * draw.choice((1, 2, 50)))
    elif of_messages:
        change_field(draw, values[at])
    else:
        values[at] = other_scalar(draw, values[at])


def other_scalar(draw: random.Random, value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bytes):
        return bytes_of_any_file(draw, value)
    if isinstance(value, str):
        return draw.choice(("", "x", f"{value}x", "../../evil", "/etc/passwd", "a" * 5000, "\x1b[31m", "Loop"))
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return draw.choice((0.0, -value, value * 1000, 1e30, float("nan"), float("inf")))
    return draw.choice((0, 1, 2, 3, 7, 127, 2**31 - 1, *((value + 1, value - 1, -1) if value else ())))


def tar_header(draw: random.Random, content: bytes) -> bytes:
    """An archive with one header spoiled whose checksum fits again, or with changed bytes."""
    if draw.random() < 0.3:
        return bytes_of_any_file(draw, content)
    packed = content[:2] == GZIP
    changed = bytearray(gzip.decompress(content) if packed else content)
    with tarfile.open(fileobj=io.BytesIO(bytes(changed))) as archive:
        at = draw.choice([member.offset for member in archive])
    for _ in range(draw.choice((1, 1, 2, 4))):
        field, size = draw.choice(TAR_FIELDS)
        start = at + field
        changed[start : start + size] = draw.choice((draw.randbytes(size), *TAR_VALUES))[:size].ljust(size, b"\0")
    changed[at + CHECKSUM : at + CHECKSUM + 8] = b" " * 8
    changed[at + CHECKSUM : at + CHECKSUM + 8] = b"%06o\0 " % sum(changed[at : at + tarfile.BLOCKSIZE])
    return gzip.compress(bytes(changed), 1, mtime=0) if packed else bytes(changed)
