"""What is measured: each row is a workload, some of its cases, and who takes part."""

from __future__ import annotations

from collections.abc import Callable

from rows import budgets, caps, changes, cluster, memory, policies, refusals, reload, shaping, syscalls, traffic, ways
from rows.bench import Bench

#: In the order of the page.
ROWS: dict[str, Callable[[Bench], None]] = {
    **traffic.ROWS,
    "budgets": budgets.run,
    "ways": ways.run,
    "refusals": refusals.run,
    "memory": memory.run,
    "policies": policies.run,
    "reload": reload.run,
    "changes": changes.run,
    "syscalls": syscalls.run,
    "caps": caps.run,
    "shaping": shaping.run,
    "cluster": cluster.run,
}
