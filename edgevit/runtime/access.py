"""Who may say what, where certificates tell who speaks: rules that each session enforces on its own links.

A worker obeys the coordinator alone: no other device can assign it anything, ask for its status, or give it
files. Under a device's name only that device speaks. Between workers only tensors pass.
"""

from __future__ import annotations

from collections.abc import Collection

from edgevit.runtime.transport import ROOT

#: The name on the certificate of whoever runs plans.
COORDINATOR = "coordinator"

_TENSORS = ("put", "declare_subscriber")
_ALL = (
    *_TENSORS,
    *("query", "declare_queryable", "reply"),
    *("liveliness_token", "liveliness_query", "declare_liveliness_subscriber"),
)

Rules = dict[str, object]


def worker_rules(name: str) -> Rules:
    """For the session of a worker: the coordinator may say all, anyone else send tensors.

    Args:
        name: of the worker.
    """
    own = [f"{ROOT}/worker/{name}/*", f"{ROOT}/alive/{name}/*", f"{ROOT}/coordinator/*", f"{ROOT}/run/**"]
    return _rules(
        [_rule("orders", _ALL, own), _rule("tensors", _TENSORS, [f"{ROOT}/run/*/*/*/*"])],
        [{"id": "coordinator", "cert_common_names": [COORDINATOR]}, {"id": "anyone"}],
        [("orders", "coordinator"), ("tensors", "anyone")],
    )


def coordinator_rules(deployment: str, devices: Collection[str]) -> Rules:
    """For the session of a coordinator: each device speaks under its own name, of this deployment.

    Args:
        deployment: its name.
        devices: names of the plan's devices.
    """
    own = f"{ROOT}/run/{deployment}"
    rules: list[dict[str, object]] = []
    subjects: list[dict[str, object]] = []
    policies: list[tuple[str, str]] = []
    for device in devices:
        keys = [f"{ROOT}/worker/{device}/*", f"{ROOT}/alive/{device}/*"]
        keys += [f"{own}/artefact/*", f"{own}/answer", f"{own}/*/{device}/*", f"{ROOT}/coordinator/*"]
        rules.append(_rule(device, _ALL, keys))
        subjects.append({"id": device, "cert_common_names": [device]})
        policies.append((device, device))
    return _rules(rules, subjects, policies)


def _rule(name: str, messages: Collection[str], keys: list[str]) -> dict[str, object]:
    return {
        "id": name,
        "permission": "allow",
        "messages": list(messages),
        "flows": ["ingress", "egress"],
        "key_exprs": keys,
    }


def _rules(
    rules: list[dict[str, object]], subjects: list[dict[str, object]], policies: list[tuple[str, str]]
) -> Rules:
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": rules,
        "subjects": subjects,
        "policies": [{"rules": [rule], "subjects": [subject]} for rule, subject in policies],
    }
