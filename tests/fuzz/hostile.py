"""What a bad disk, another program or an enemy makes of a good file: bytes, trees, texts."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

NEST: Any = []
for _ in range(60):
    NEST = [NEST]
SCALARS: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3.5, 10**5, 2**31, 2**40, 2**63, 10**30, -(10**12), 1e-320, 1e300, float("inf"),
    float("-inf"), float("nan"), "", " ", "x", "x" * 5000, "\x00", "a\nb", "²", "..", "/", "~nosuchuser/x", "${NOPE}",
    "null", "1e9", "-1", "0x10", "../../../etc/passwd", "/dev/zero", "http://a:b@c/d", "é" * 90, "\x1b[2J", "[", "{}",
]  # fmt: skip
VALUES: list[Any] = [*SCALARS, [], {}, [[]], [None], [1, "x"], {"a": {}}, {"": 1}, list(range(3000)), NEST]

values = st.sampled_from(VALUES)


def paths(tree: Any, above: tuple = ()) -> list[tuple]:
    """Where something stands in a tree, the root left out."""
    below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path for key, value in below for path in [(*above, key), *paths(value, (*above, key))]]


@st.composite
def spoilt_tree(draw: st.DrawFn, tree: Any) -> Any:
    """One to three places changed, removed, renamed or swapped; now and then the whole."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        found = paths(tree)
        if not found or draw(st.integers(0, 40)) == 0:
            return draw(values)
        path = draw(st.sampled_from(found))
        holder = tree
        for step in path[:-1]:
            holder = holder[step]
        match draw(st.sampled_from(["set", "set", "set", "drop", "rename", "swap", "double"])):
            case "set":
                holder[path[-1]] = copy.deepcopy(draw(values))
            case "drop":
                del holder[path[-1]]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["", "x", "keys", "__class__", "²", "a.b"]))] = holder.pop(path[-1])
            case "swap":
                other = draw(st.sampled_from(found))
                node = tree
                for step in other:
                    try:
                        node = node[step]
                    except (KeyError, IndexError, TypeError):
                        break
                holder[path[-1]] = copy.deepcopy(node)
            case _ if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[path[-1]]))
    return tree


@st.composite
def spoilt_bytes(draw: st.DrawFn, data: bytes, most: int = 1 << 20) -> bytes:
    """Bits flipped, bytes set, pieces cut, doubled or overwritten: as disks, copies and enemies do it."""
    spoilt = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        if not spoilt:
            break
        # where formats keep their sizes is where they break: half of the blows fall on the head or the tail
        head, tail = min(len(spoilt), 200) - 1, max(0, len(spoilt) - 200)
        at = draw(st.one_of(st.integers(0, head), st.integers(tail, len(spoilt) - 1), st.integers(0, len(spoilt) - 1)))
        match draw(st.sampled_from(["flip", "byte", "word", "cut", "drop", "double", "zero"])):
            case "flip":
                spoilt[at] ^= 1 << draw(st.integers(0, 7))
            case "byte":
                spoilt[at] = draw(st.sampled_from([0, 1, 10, 34, 45, 57, 91, 123, 127, 128, 255]))
            case "word":
                word = draw(st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]))
                spoilt[at : at + 8] = word.to_bytes(8, "little")[: max(1, len(spoilt) - at)]
            case "cut":
                del spoilt[at:]
            case "drop":
                del spoilt[at : at + draw(st.integers(1, 64))]
            case "double":
                piece = spoilt[at : at + draw(st.integers(1, 200))]
                spoilt[at:at] = piece
            case _:
                spoilt[at : at + 16] = bytes(len(spoilt[at : at + 16]))
    return bytes(spoilt[:most])


def spoilt_json(text: str) -> st.SearchStrategy[bytes]:
    """Now the tree, now the bytes, now something that only looks like JSON."""
    trees = spoilt_tree(json.loads(text)).map(lambda tree: json.dumps(tree).encode())
    odd = st.sampled_from([b"", b"[" * 50_000, b'"', b"\xff\xfe", b"NaN", b"1" * 5000, b'{"a":' * 3000, b"null"])
    return st.one_of(trees, trees, spoilt_bytes(text.encode()), odd)
