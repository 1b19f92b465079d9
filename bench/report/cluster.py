"""The row of a limit that gateways share: how far all of them together were from it."""

from __future__ import annotations

from typing import Any

from report.figures import signed, table

HEAD = ["what happens", "seconds", "error %", "any 1 s, most %", "least %", "shares", "there after, ms"]


def figures(samples: list[dict[str, Any]]) -> str:
    def line(one: dict[str, Any]) -> list[str]:
        back = one.get("back_ms")
        return [
            one["case"],
            f"{one['seconds']:.1f}",
            signed(one["error_pct"]),
            signed(one["over_pct"]),
            signed(one["under_pct"]),
            ", ".join(f"{share:.3f}" for share in one["shares"]),
            "" if back is None else f"{back:,.0f}",
        ]

    return table(HEAD, [line(one) for one in samples])
