"""The row of a limit that gateways share: how far all of them together were from it."""

from __future__ import annotations

from typing import Any

from report.figures import known, signed, table

HEAD = [
    "what happens",
    "seconds",
    "configured Mbit/s",
    "measured",
    "error %",
    "any 1 s, most %",
    "least %",
    "shares",
    "Jain's index",
    "messages, p99 µs",
    "there after, ms",
]


def figures(samples: list[dict[str, Any]]) -> str:
    def line(one: dict[str, Any]) -> list[str]:
        return [
            one["case"],
            f"{one['seconds']:.1f}",
            f"{one['configured_mbit_s']:,g}",
            f"{one['mbit_s']:,.4g}",
            signed(one["error_pct"]),
            *("" if one[key] is None else signed(one[key]) for key in ("over_pct", "under_pct")),
            ", ".join(f"{share:.3f}" for share in one["shares"]),
            known(one["jain"], 4),
            known(one["p99_us"], 0),
            known(one.get("back_ms"), 0),
        ]

    return table(HEAD, [line(one) for one in samples])
