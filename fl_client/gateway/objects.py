"""The objects of which a reply consists, as Flower writes them: a head that names the kind, the children and the length
of the body, a zero byte, the body.

Each has to be so byte for byte, so that nothing hides where no reader looks. Here are those whose body is JSON or
numbers; of the others ``contents`` knows.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from fl_client.gateway import arrays
from fl_client.messages import BLOB

HEAD = re.compile(rb"([A-Za-z]{1,40}) ((?:[0-9a-f]{64},)*[0-9a-f]{64}|) (0|[1-9][0-9]{0,14})\0")
RECORDS = {"metrics", "facts", "update", "parcel", "fault"}  # as ``messages`` names them
LONGEST = 1 << 16  # bytes of a table


class TooLong(ValueError):
    """A table that is longer than any of a silo's is."""


class Object(NamedTuple):
    """One object of a reply."""

    kind: str
    children: list[str]
    body: bytes

    def whole(self) -> bytes:
        """Return it as Flower writes it."""
        head = f"{self.kind} {','.join(self.children)} {len(self.body)}\0"
        return head.encode() + self.body


def read(content: bytes) -> Object:
    """Return an object; raises ``ValueError`` on what is none."""
    head = HEAD.match(content)
    if head is None or len(content) - head.end() != int(head[3]):
        raise ValueError("no object")
    names = head[2].decode().split(",") if head[2] else []
    return Object(head[1].decode(), names, content[head.end() :])


def table(text: bytes | str) -> dict[str, Any]:
    """Return the table that a text is, as Python writes it in JSON; raises ``ValueError`` on anything beside it."""
    if len(text) > LONGEST:
        raise TooLong(f"a table of {len(text)} bytes; {LONGEST} may leave")
    try:
        said = json.loads(text)
    except RecursionError as error:
        raise ValueError("no table") from error
    written = text if isinstance(text, str) else text.decode()
    if not isinstance(said, dict) or json.dumps(said) != written:
        raise ValueError("no table as Python writes it")
    return said


def records(found: Object) -> bool:
    """Return whether the records of a reply are those that replies here have."""
    names = table(found.body)
    return set(names) <= RECORDS and sorted(set(map(str, names.values()))) == sorted(found.children)


def array_record(found: Object) -> bool:
    """Return whether arrays travel as one blob."""
    return len(found.children) == 1 and table(found.body) == {"blob": found.children[0]}


def array(found: Object) -> bool:
    """Return whether an array is such a blob, all of it in one chunk."""
    said = table(found.body)
    shape = said.get("shape")
    blob = {"dtype": "uint8", "shape": shape, "stype": BLOB, "arraychunk_ids": [0]}
    if said != blob or not isinstance(shape, list) or len(found.children) != 1:
        return False
    return len(shape) == 1 and all(type(number) is int for number in shape + said["arraychunk_ids"])


def chunk(found: Object) -> bool:
    """Return whether a chunk is the whole of such a blob; raises ``ValueError`` where it is none."""
    arrays.header(memoryview(found.body))
    return not found.children
