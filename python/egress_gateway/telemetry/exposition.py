"""The Prometheus text format, version 0.0.4: the only place that knows how it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def escape_label(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {escape_help(text)}\n# TYPE {name} {kind}\n"


def sample(name: str, labels: Mapping[str, str], value: float | int) -> str:
    inside = ",".join(f'{key}="{escape_label(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value}\n" if inside else f"{name} {value}\n"


def histogram(
    name: str, bounds_us: Sequence[int], buckets: Sequence[int], sum_us: float, labels: Mapping[str, str] | None = None
) -> Iterable[str]:
    """Microseconds in, seconds out; `buckets` has one more than `bounds_us`, and is not cumulative."""
    running, labels = 0, labels or {}
    for bound, count in zip(bounds_us, buckets, strict=False):
        running += count
        yield sample(f"{name}_bucket", {**labels, "le": repr(bound / 1e6)}, running)
    running += buckets[-1]
    yield sample(f"{name}_bucket", {**labels, "le": "+Inf"}, running)
    yield sample(f"{name}_sum", labels, sum_us / 1e6)
    yield sample(f"{name}_count", labels, running)
