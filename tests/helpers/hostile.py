"""Random changes of plain data, as damage or an attacker would make them."""

from __future__ import annotations

import copy
import random
from typing import Any

NUMBERS = [0, -1, 1, 7, 10**7, 10**12, -(10**18), 2**63, 10**40, 0.5, -0.0, 1e308, float("inf"), float("nan")]
TEXTS = ["", "os.system", "${oc.env:HOME}", "???", "[/b]", "\x1b[2J", "a" * 5000, "\ud800", "null", "1"]
EVIL = [
    {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["owned"]}},
    {
        "_target_": "streamnest.files.atomic_write.write_whole",
        "path": {"_target_": "pathlib.Path", "_args_": ["owned"]},
        "text": "",
    },
    {"_target_": "streamnest.checkpoint.loading.torch.load", "f": "owned"},
    {"_target_": ["os.system"]},
]


def deep(depth: int = 200) -> Any:
    """Returns nested lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def mutated(value: Any, rng: random.Random) -> Any:
    """Returns a copy of plain data with one to three changes."""
    value = {"root": copy.deepcopy(value)}
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = [place for place in _places(value) if place[0] is not value]
        _change(*(rng.choice(places) if places else (value, "root")), rng)
        value.setdefault("root", None)
    return value["root"]


def _change(node: Any, key: Any, rng: random.Random) -> None:
    evil = copy.deepcopy(EVIL)
    kind = rng.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[rng.choice(["unknown", "_target_", "_partial_", "", "a.b", "[/b]"])] = rng.choice(
            [*evil, *TEXTS, *NUMBERS]
        )
    elif kind == 2:
        node[key] = rng.choice([[node[key]], {"a": node[key]}, {str(node[key])[:20]: 1}])
    elif kind == 3:
        node[key] = rng.choice(evil)
    elif kind == 4:
        node[key] = rng.choice(TEXTS)
    elif kind == 5:
        node[key] = rng.choice([None, True, False, [], {}, deep(), [1] * 2000])
    else:
        node[key] = rng.choice(NUMBERS)


def _places(value: Any) -> list[tuple[Any, Any]]:
    found = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        found += [(value, key), *_places(inner)]
    return found


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Returns a copy of the content of a file with a flipped bit, some zeros, or its end missing."""
    found, at = bytearray(data), rng.randrange(len(data))
    kind = rng.randrange(8)
    if kind == 0:
        return bytes(found[:at])
    if kind == 1:
        found[at : at + 64] = bytes(len(found[at : at + 64]))
    else:
        found[at] ^= 1 << rng.randrange(8)
    return bytes(found)
