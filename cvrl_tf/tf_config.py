"""The variable TF_CONFIG, which tells a worker about its cluster, checked without TensorFlow."""

import json
import os
from typing import Any

_EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
)


def check() -> None:
    """Check TF_CONFIG, if it is set.

    Raises:
      ValueError: it is malformed.
    """
    text = os.environ.get("TF_CONFIG", "")
    if problem := _problem(text):
        raise ValueError(
            f"TF_CONFIG={text!r}: {problem}. Unset it, or write it like {_EXAMPLE}; index counts "
            "from 0."
        )


def _problem(text: str) -> str | None:
    """Say what is wrong with the content of TF_CONFIG; None for nothing."""
    if not text:
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        return f"it is no JSON ({error})"
    if not isinstance(config, dict):
        return "it is no JSON object"
    cluster, task = config.get("cluster", {}), config.get("task", {})
    if not cluster:
        return None  # no cluster: this process is alone
    return _problem_of_cluster(cluster) or _problem_of_task(cluster, task)


def _problem_of_cluster(cluster: Any) -> str | None:
    if not isinstance(cluster, dict):
        return "its cluster is no object"
    for kind, hosts in cluster.items():
        if not isinstance(hosts, list) or not hosts:
            return f"its cluster has no list of addresses for {kind!r}"
        for host in hosts:
            name, _, port = host.rpartition(":") if isinstance(host, str) else ("", "", "")
            if not name or not port.isdecimal() or not 0 < int(port) < 2**16:
                return f"its cluster has the address {host!r}, which is not HOST:PORT"
    return None


def _problem_of_task(cluster: dict[str, list[str]], task: Any) -> str | None:
    if not isinstance(task, dict) or task.get("type") not in cluster:
        return f"its task has no type, one of {', '.join(cluster)}"
    index, count = task.get("index"), len(cluster[task["type"]])
    if not isinstance(index, int) or not 0 <= index < count:
        return f"its task has the index {index!r}, which is not in 0..{count - 1}"
    return None
