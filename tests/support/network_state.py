"""What a network namespace has of devices, addresses, routes, rules and neighbours, for a comparison with later."""

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

COMMANDS = (
    "ip -j link", "ip -j address", "ip -j -4 route show table all", "ip -j -6 route show table all", "ip -j -4 rule",
    "ip -j -6 rule", "tc -j qdisc",
)  # fmt: skip
SHORT_LIVED = 60
"""Seconds: for so long what a sandbox still sends is refused after its end, docs/network.md."""


def say(command: str) -> str:
    """What a command says in this process' own namespace."""
    return subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout


def network_state(say: Callable[[str], str] = say) -> Counter[str]:
    """All of it, each thing a line; the elements of sets without those that end by themselves before long.

    What a rule or counter has seen is no part of it, and neither are the numbers that the kernel gives it.

    Args:
        say: What a command says in the namespace.
    """
    found: Counter[str] = Counter()
    for command in COMMANDS:
        for one in json.loads(say(command) or "[]"):
            found[f"{command.split(maxsplit=2)[2]}: {json.dumps(one, sort_keys=True)}"] += 1
    for one in json.loads(say("ip -j neighbour") or "[]"):
        if "PERMANENT" in one["state"]:  # the others come and go
            found[f"neighbour: {json.dumps(one, sort_keys=True)}"] += 1
    found["namespaces that a device leads to"] = len(say("ip netns list-id").splitlines())
    for one in json.loads(say("nft -j list ruleset"))["nftables"]:
        for kind, fields in one.items():
            elements = fields.pop("elem", []) if kind in ("set", "map") else []
            name = f"{kind}: {json.dumps(_lasting(fields), sort_keys=True)}"
            found[name] += 1
            for element in elements:
                if not _is_short_lived(element):
                    found[f"{name}: {json.dumps(element, sort_keys=True)}"] += 1
    return found


def _lasting(fields: Any) -> Any:
    if isinstance(fields, list):
        return [_lasting(one) for one in fields]
    if isinstance(fields, dict):
        passing = ("handle", "packets", "bytes")
        return {name: _lasting(value) for name, value in fields.items() if name not in passing}
    return fields


def _is_short_lived(element: object) -> bool:
    return any(found["timeout"] <= SHORT_LIVED for found in _with_an_end(element))


def _with_an_end(element: Any) -> Iterator[dict[str, Any]]:
    """The part of an element that says when it ends; of a map's it is within the key."""
    if isinstance(element, list):
        element = element[0]
    if isinstance(element, dict) and "expires" in element.get("elem", {}):
        yield element["elem"]
