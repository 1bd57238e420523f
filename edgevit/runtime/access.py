"""Who may say what, where certificates tell who speaks: rules that each session enforces on its own links.

A worker obeys the coordinator alone: no other device can assign it anything, ask for its status, or give it
files. Under a device's name only that device speaks. Between workers only tensors pass, under keys that name
who gets them and who sends them: a device can listen to those that are for it, and send those that are from
it, and only to and from devices of its own plan. Which these are the coordinator says before it assigns
anything (`edgevit.runtime.messages.Admission`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from edgevit.runtime.messages import COORDINATOR
from edgevit.runtime.transport import ROOT

#: What a worker says of whom it lets in: everyone where no certificates tell who speaks, and at first no one.
EVERYONE, NO_ONE = "everyone", "no-one"

_INGRESS, _EGRESS = "ingress", "egress"
_ALL = (
    *("put", "declare_subscriber"),
    *("query", "declare_queryable", "reply"),
    *("liveliness_token", "liveliness_query", "declare_liveliness_subscriber"),
)

Rules = dict[str, object]


def group_of(devices: Collection[str]) -> str:
    """What devices that let one another in are called: the same for the same ones.

    Args:
        devices: their names; none for `NO_ONE`.

    >>> group_of(["b", "a"]) == group_of(["a", "b"]) != group_of(["a"])
    True
    """
    if not devices:
        return NO_ONE
    return hashlib.sha256("/".join(sorted(devices)).encode("utf-8")).hexdigest()[:16]


def worker_rules(name: str, devices: Collection[str]) -> Rules:
    """For the session of a worker: the coordinator may say all, devices of the plan send and get tensors.

    Args:
        name: of the worker.
        devices: of its plan; none before it has one.
    """
    own = [f"{ROOT}/worker/{name}/*", f"{ROOT}/alive/{name}/*/*", f"{ROOT}/coordinator/*"]
    own += [f"{ROOT}/run/*/artefact/*", f"{ROOT}/run/*/answer/{name}", _tensors(name, COORDINATOR)]
    policies = {COORDINATOR: [_rule("orders", _ALL, (_INGRESS, _EGRESS), own)]}
    for other in sorted(set(devices) - {name}):
        to, of = [_tensors(other, name)], [_tensors(name, other)]
        # Whoever gets tensors says so to who sends them.
        policies[other] = [
            _rule(f"sends-to-{other}", ("put",), (_EGRESS,), to),
            _rule(f"is-asked-by-{other}", ("declare_subscriber",), (_INGRESS,), to),
            _rule(f"gets-from-{other}", ("put",), (_INGRESS,), of),
            _rule(f"asks-{other}", ("declare_subscriber",), (_EGRESS,), of),
        ]
    return _rules(policies)


def coordinator_rules(deployment: str, devices: Collection[str]) -> Rules:
    """For the session of a coordinator: each device speaks under its own name, of this deployment.

    Args:
        deployment: its name.
        devices: names of the plan's devices.
    """
    own = f"{ROOT}/run/{deployment}"
    policies = {}
    for device in devices:
        keys = [f"{ROOT}/worker/{device}/*", f"{ROOT}/alive/{device}/*/*", f"{ROOT}/coordinator/*"]
        keys += [f"{own}/artefact/*", f"{own}/answer/{device}", f"{own}/*/{device}/*/{COORDINATOR}"]
        policies[device] = [_rule(device, _ALL, (_INGRESS, _EGRESS), keys)]
    return _rules(policies)


def _tensors(receiver: str, sender: str) -> str:
    """Keys of all tensors that one sends to another, as `edgevit.runtime.transport.task_key` has them."""
    return f"{ROOT}/run/*/*/{receiver}/*/{sender}"


def _rule(name: str, messages: Collection[str], flows: Collection[str], keys: list[str]) -> dict[str, object]:
    return {
        "id": name,
        "permission": "allow",
        "messages": list(messages),
        "flows": list(flows),
        "key_exprs": keys,
    }


def _rules(policies: dict[str, list[dict[str, object]]]) -> Rules:
    """Rules by the name on the certificate of who is at the other end; anyone else may nothing."""
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": [rule for rules in policies.values() for rule in rules],
        "subjects": [{"id": name, "cert_common_names": [name]} for name in policies],
        "policies": [
            {"rules": [rule["id"] for rule in rules], "subjects": [name]} for name, rules in policies.items()
        ],
    }
