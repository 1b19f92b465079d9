"""Every metric of the gateway: its name, type, labels and meaning, defined here and nowhere else.

`docs/reference/metrics.md` is `reference()`; a test holds the two together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from egress_core.live import Live, resolver_counters, worker_counters
from egress_core.ring import DURATION_BOUNDS_US, STEP_BOUNDS_US, Reader, Segment
from egress_gateway.messages import ClusterState
from egress_gateway.report import DIRECTIONS, Report
from egress_gateway.telemetry import exposition
from egress_gateway.telemetry.log import DecisionLog


class Metric(NamedTuple):
    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


Sample = tuple[tuple[str, ...], float]

METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "egress_connections_total",
        "counter",
        ("listener", "rule", "verdict", "reason"),
        "Finished connections by the decision on them; rule is empty where none matched, other beyond the label limit.",
    ),
    Metric("egress_flow_ends_total", "counter", ("end",), "Finished connections by how they ended."),
    Metric(
        "egress_bytes_total",
        "counter",
        ("direction", "rule"),
        "Bytes relayed by finished connections; up is from the client to the destination.",
    ),
    Metric("egress_flow_duration_seconds", "histogram", (), "Time from accept to end of finished connections."),
    Metric("egress_first_bytes_seconds", "histogram", (), "Time from accept until the destination was known."),
    Metric(
        "egress_resolve_seconds", "histogram", (), "Time to resolve the destination's name, cached answers included."
    ),
    Metric("egress_connect_seconds", "histogram", (), "Time to connect to the destination, all attempts together."),
    Metric("egress_active_flows", "gauge", ("worker", "stage"), "Connections open now, by where they stand."),
    Metric(
        "egress_records_dropped_total",
        "counter",
        ("worker",),
        "Finished connections missing from totals and log because the ring was full.",
    ),
    Metric(
        "egress_records_waiting", "gauge", ("for",), "Records in the rings, not yet counted (totals) or logged (log)."
    ),
    Metric(
        "egress_reader_faults_total", "counter", (), "Values in shared memory that no data plane writes; 0 is normal."
    ),
    Metric(
        "egress_label_overflow_total",
        "counter",
        (),
        "Connections counted as other because the label limit was reached.",
    ),
    Metric("egress_label_combinations", "gauge", (), "Combinations of labels in use in the table of totals."),
    Metric("egress_log_lines_total", "counter", (), "Lines that this control process wrote to the decision log."),
    Metric(
        "egress_log_failures_total", "counter", (), "Attempts to write the decision log that failed; they are repeated."
    ),
    Metric(
        "egress_control_restarts_total", "counter", (), "Restarts of the control process under the same data plane."
    ),
    Metric("egress_policy_generation", "gauge", (), "Generation of the policy in force; 0 before the first."),
    Metric(
        "egress_policy_last_reload_success_timestamp_seconds", "gauge", (), "When the policy files last took effect."
    ),
    Metric(
        "egress_config_error", "gauge", (), "1 while the newest policy files are broken and an older policy serves."
    ),
    Metric("egress_reloads_total", "counter", ("result",), "Reloads of the policy by result."),
    Metric("egress_start_time_seconds", "gauge", (), "When the data plane started, in Unix seconds."),
    Metric("egress_build_info", "gauge", ("version", "profile"), "Always 1; the version and build profile are labels."),
)

#: Counter pages of the data plane: word → metric. A word that is not named here is left out of the exposition.
WORKER: Final[Mapping[str, Metric]] = {
    "accepted": Metric("egress_accept_total", "counter", ("worker",), "Connections accepted."),
    "accept_errors": Metric("egress_accept_errors_total", "counter", ("worker",), "Failures of accept4(2)."),
    "out_of_descriptors": Metric(
        "egress_accept_out_of_descriptors_total",
        "counter",
        ("worker",),
        "Connections closed at once because no descriptor was left.",
    ),
    "flows_full": Metric(
        "egress_accept_flows_full_total",
        "counter",
        ("worker",),
        "Connections closed at once because max_flows was reached.",
    ),
    "generation": Metric("egress_worker_generation", "gauge", ("worker",), "Generation that the worker decides by."),
    "rejudged": Metric(
        "egress_rejudged_flows_total", "counter", ("worker",), "Flows judged again after a policy change."
    ),
    "policy_closed": Metric(
        "egress_policy_closed_flows_total", "counter", ("worker",), "Flows that a policy change closed."
    ),
    "datagrams_refused": Metric(
        "egress_datagrams_refused_total", "counter", ("worker",), "Captured datagrams (QUIC) that were refused."
    ),
    "pipe_misses": Metric(
        "egress_relay_pipe_misses_total", "counter", ("worker",), "Bulk moves that copied because no pipe was free."
    ),
    "name_cache_hits": Metric(
        "egress_worker_name_cache_hits_total", "counter", ("worker",), "Names answered from the worker's own cache."
    ),
    "handed_over": Metric(
        "egress_front_connections_total",
        "counter",
        ("worker",),
        "Connections given to the front: HTTP/2, and TLS to the proxy.",
    ),
    "adopted": Metric(
        "egress_front_clients_total",
        "counter",
        ("worker",),
        "Clients that came from the front: HTTP/2 streams, and what was inside TLS.",
    ),
    "sources_full": Metric(
        "egress_limit_sources_full_total",
        "counter",
        ("worker",),
        "Connections refused because 65,536 sources were counted already for `per_source`, of connections or budgets.",
    ),
    "turns": Metric("egress_loop_turns_total", "counter", ("worker",), "Turns of the worker's event loop."),
}
RESOLVER: Final[Mapping[str, Metric]] = {
    "asked": Metric("egress_dns_questions_total", "counter", (), "Questions from workers to the resolver."),
    "hits": Metric("egress_dns_cache_hits_total", "counter", (), "Questions answered from the resolver's cache."),
    "joined": Metric("egress_dns_joined_total", "counter", (), "Questions that joined a query under way."),
    "queries": Metric("egress_dns_queries_total", "counter", (), "Queries sent to the name servers."),
    "answered": Metric("egress_dns_answered_total", "counter", (), "Queries answered with addresses."),
    "no_name": Metric("egress_dns_no_name_total", "counter", (), "Queries answered with no such name or no address."),
    "timeout": Metric("egress_dns_timeouts_total", "counter", (), "Queries that no name server answered in time."),
    "failed": Metric("egress_dns_failures_total", "counter", (), "Queries answered with an error, or not sensibly."),
    "stale": Metric(
        "egress_dns_stale_answers_total", "counter", (), "Expired answers served while the servers were away."
    ),
    "names": Metric("egress_dns_cached_names", "gauge", (), "Names in the resolver's cache."),
    "query_microseconds": Metric("egress_dns_query_seconds_total", "counter", (), "Time that queries took, added up."),
    "given_up": Metric(
        "egress_dns_given_up_total",
        "counter",
        (),
        "Questions that waited in vain for their query to begin: too many were under way, of their domain or of all.",
    ),
    "client_queries": Metric("egress_dns_listener_queries_total", "counter", (), "Messages to dns listeners."),
    "client_answered": Metric(
        "egress_dns_listener_answered_total",
        "counter",
        (),
        "Questions answered with addresses, or that there are none.",
    ),
    "client_refused": Metric("egress_dns_listener_refused_total", "counter", (), "Questions refused by policy."),
    "client_screened": Metric(
        "egress_dns_listener_screened_total",
        "counter",
        (),
        "Those of the refused whose name is allowed and whose addresses are not: private ones, say.",
    ),
    "client_failed": Metric(
        "egress_dns_listener_failed_total", "counter", (), "Questions that the name servers failed to answer."
    ),
    "client_malformed": Metric(
        "egress_dns_listener_malformed_total", "counter", (), "Messages that are no query, or of a kind not answered."
    ),
    "client_overload": Metric(
        "egress_dns_listener_overload_total", "counter", (), "Questions not asked further: too many were waiting."
    ),
    "handed_names": Metric(
        "egress_dns_handed_names", "gauge", (), "Names remembered for the addresses that sources were told."
    ),
    "flows_named": Metric(
        "egress_dns_named_flows_total", "counter", (), "Captured connections to an address that their source was told."
    ),
}
_CLASS = ("link", "rule", "direction")
#: What the data plane reports of links and of classes, which are the rules with `bandwidth`.
SHAPING: Final[tuple[Metric, ...]] = (
    Metric("egress_link_bandwidth_bytes_per_second", "gauge", ("link",), "What a link has, in each direction."),
    Metric("egress_class_max_bytes_per_second", "gauge", ("link", "rule"), "The ceiling of a class; none, no sample."),
    Metric("egress_class_guarantee_bytes_per_second", "gauge", ("link", "rule"), "What a class is promised."),
    Metric("egress_class_flows", "gauge", ("link", "rule"), "Connections of a class that are open."),
    Metric("egress_class_bytes_total", "counter", _CLASS, "Bytes that a class has sent; its rate is theirs."),
    Metric("egress_class_borrowed_bytes_total", "counter", _CLASS, "Those of them beyond its guarantee on its link."),
    Metric("egress_class_waiting_flows", "gauge", _CLASS, "Connections of a class that wait for their turn to send."),
    Metric(
        "egress_class_held_seconds",
        "histogram",
        _CLASS,
        "How long connections waited for a turn to send: the delay that a class adds. Nothing is ever dropped.",
    ),
)
_WAY = ("rule", "direction")
#: What the data plane reports of budgets. There are at most 4,096 rules that have one.
BUDGETS: Final[tuple[Metric, ...]] = (
    Metric("egress_budget_used_bytes", "gauge", _WAY, "Bytes of a rule's budget used in the present period."),
    Metric("egress_budget_limit_bytes", "gauge", _WAY, "Bytes that the rule may move in a period."),
    Metric("egress_budget_period_end_timestamp_seconds", "gauge", _WAY, "When the present period ends."),
    Metric("egress_budget_over", "gauge", _WAY, "1 while the budget is spent."),
    Metric("egress_budget_sources", "gauge", ("rule",), "Sources counted of a rule that gives each a budget."),
    Metric("egress_budget_sources_over", "gauge", ("rule",), "Sources of the rule whose own budget is spent."),
    Metric(
        "egress_budget_store_failures_total",
        "counter",
        (),
        "Attempts to write what is used of budgets that failed; they are repeated, and what is used counts in memory.",
    ),
    Metric("egress_budget_store_failing", "gauge", (), "1 while the last attempt has failed."),
)
#: What the data plane reports of limits that gateways share; without one there is no sample.
CLUSTER: Final[tuple[Metric, ...]] = (
    Metric("egress_cluster_store_up", "gauge", (), "1 while the store of shared limits answers."),
    Metric("egress_cluster_replicas", "gauge", (), "Gateways that were there in the last round, this one included."),
    Metric("egress_cluster_safe_share", "gauge", (), "1 while shared limits are divided evenly, as the store is away."),
    Metric("egress_cluster_rounds_total", "counter", (), "Rounds in which gateways told each other what they want."),
    Metric("egress_cluster_round_failures_total", "counter", (), "Rounds that came to nothing."),
)
#: Classes with labels of their own, in the order of the policy; those behind are `other` together.
MOST_CLASSES: Final = 256


@dataclass
class ControlState:
    """What the control plane knows that is not in shared memory; kept up to date by its service."""

    version: str = ""
    profile: str = ""
    generation: int = 0
    last_success: float = 0.0
    config_error: bool = False
    reloads: Counter[str] = field(default_factory=Counter)


class Metrics:
    """Renders the exposition. `counters` is `_dataplane.counters()`."""

    def __init__(self, segment: Segment, reader: Reader, live: Live, log: DecisionLog,
                 counters: Mapping[str, Sequence[str]], state: ControlState) -> None:  # fmt: skip
        self._segment, self._reader, self._live, self._log, self._state = segment, reader, live, log, state
        self._worker_words, self._resolver_words = counters["worker"], counters["resolver"]

    def render(self, report: Report | None) -> str:
        """The text that `/metrics` answers; without a report it says nothing of classes."""
        out: list[str] = []
        histograms = {f"egress_{'flow_' if key == 'duration' else ''}{key}_seconds": value
                      for key, value in self._reader.histograms().items()}  # fmt: skip
        samples = self._samples()
        for metric in METRICS:
            out.append(exposition.head(metric.name, metric.kind, metric.help))
            if metric.kind == "histogram":
                bounds = DURATION_BOUNDS_US if metric.name == "egress_flow_duration_seconds" else STEP_BOUNDS_US
                out.extend(exposition.histogram(metric.name, bounds, *histograms[metric.name]))
                continue
            for labels, value in samples[metric.name]:
                out.append(exposition.sample(metric.name, dict(zip(metric.labels, labels, strict=True)), value))
        out.extend(self._pages())
        if report is not None:
            out.extend(_shaping(report))
            out.extend(_budgets(report))
            if report.cluster is not None:
                out.extend(_cluster(report.cluster))
        return "".join(out)

    def _samples(self) -> dict[str, list[Sample]]:
        reader, state = self._reader, self._state
        connections: Counter[tuple[str, ...]] = Counter()
        ends: Counter[tuple[str, ...]] = Counter()
        moved: Counter[tuple[str, ...]] = Counter()
        for rule, listener, verdict, reason, end, count, up, down in reader.totals():
            connections[listener, rule, verdict, reason] += count
            ends[end,] += count
            moved["up", rule] += up
            moved["down", rule] += down
        fold, log = reader.backlog()
        active: list[Sample] = [((str(worker), stage), float(count)) for worker, row in enumerate(self._live.stages())
                  for stage, count in row.items()]  # fmt: skip

        def one(value: float) -> list[Sample]:
            return [((), value)]

        return {
            "egress_connections_total": list(connections.items()),
            "egress_flow_ends_total": list(ends.items()),
            "egress_bytes_total": list(moved.items()),
            "egress_active_flows": active,
            "egress_records_dropped_total": [((str(worker),), n) for worker, n in enumerate(reader.dropped())],
            "egress_records_waiting": [(("totals",), fold), (("log",), log)],
            "egress_reader_faults_total": one(reader.faults),
            "egress_label_overflow_total": one(reader.overflowed),
            "egress_label_combinations": one(reader.combinations[0]),
            "egress_log_lines_total": one(self._log.lines),
            "egress_log_failures_total": one(self._log.failures),
            "egress_control_restarts_total": one(reader.attaches - 1),
            "egress_policy_generation": one(state.generation),
            "egress_policy_last_reload_success_timestamp_seconds": one(state.last_success),
            "egress_config_error": one(int(state.config_error)),
            "egress_reloads_total": [((result,), n) for result, n in state.reloads.items()],
            "egress_start_time_seconds": one(self._segment.boot_unix_ns / 1e9),
            "egress_build_info": [((state.version, state.profile), 1)],
        }

    def _pages(self) -> Iterator[str]:
        workers = worker_counters(self._segment, self._worker_words)
        for word, metric in WORKER.items():
            if word in self._worker_words:
                yield exposition.head(metric.name, metric.kind, metric.help)
                # The segment has room for more workers than run; one that decides by no generation is not there.
                for worker, page in enumerate(page for page in workers if page.get("generation", 1)):
                    yield exposition.sample(metric.name, {"worker": str(worker)}, page[word])
        resolver = resolver_counters(self._segment, self._resolver_words)
        for word, metric in RESOLVER.items():
            if word in self._resolver_words:
                yield exposition.head(metric.name, metric.kind, metric.help)
                scale = 1e-6 if word == "query_microseconds" else 1
                yield exposition.sample(metric.name, {}, resolver[word] * scale)


def _shaping(report: Report) -> Iterator[str]:
    bounds_us = [bound * 1000 for bound in report.held_bounds_ms]
    samples: dict[str, Counter[tuple[str, ...]]] = {metric.name: Counter() for metric in SHAPING}
    held: dict[tuple[str, ...], tuple[list[int], int]] = {}
    for link in report.links:
        samples["egress_link_bandwidth_bytes_per_second"][link.name,] = link.bandwidth // 8
    for place, one in enumerate(report.classes):
        own = place < MOST_CLASSES
        labels: tuple[str, ...] = (one.link or "", one.rule) if own else ("", "other")
        samples["egress_class_flows"][labels] += one.flows
        samples["egress_class_guarantee_bytes_per_second"][labels] += one.guarantee // 8
        if one.max is not None and own:
            samples["egress_class_max_bytes_per_second"][labels] = one.max // 8
        for direction in DIRECTIONS:
            way, key = one.way(direction), (*labels, direction)
            samples["egress_class_bytes_total"][key] += way.bytes
            samples["egress_class_borrowed_bytes_total"][key] += way.borrowed
            samples["egress_class_waiting_flows"][key] += way.waiting
            buckets, ns = held.get(key, ([0] * len(way.held), 0))
            held[key] = ([a + b for a, b in zip(buckets, way.held, strict=True)], ns + way.held_ns)
    for metric in SHAPING:
        yield exposition.head(metric.name, metric.kind, metric.help)
        if metric.kind == "histogram":
            for key, (buckets, ns) in held.items():
                named = dict(zip(metric.labels, key, strict=True))
                yield from exposition.histogram(metric.name, bounds_us, buckets, ns / 1000, named)
            continue
        for key, value in samples[metric.name].items():
            yield exposition.sample(metric.name, dict(zip(metric.labels, key, strict=True)), value)


def _budgets(report: Report) -> Iterator[str]:
    samples: dict[str, list[Sample]] = {metric.name: [] for metric in BUDGETS}
    for one in report.budgets:
        for direction in DIRECTIONS:
            if (way := one.way(direction)) is not None:
                values: dict[str, float] = {"used_bytes": way.used, "limit_bytes": way.limit, "over": int(way.over),
                          "period_end_timestamp_seconds": way.ends}  # fmt: skip
                for what, value in values.items():
                    samples[f"egress_budget_{what}"].append(((one.rule, direction), value))
        if one.sources is not None:
            samples["egress_budget_sources"].append(((one.rule,), one.sources.counted))
            samples["egress_budget_sources_over"].append(((one.rule,), one.sources.over))
    if report.store is not None:
        samples["egress_budget_store_failures_total"].append(((), report.store.failures))
        samples["egress_budget_store_failing"].append(((), int(report.store.failing)))
    for metric in BUDGETS:
        yield exposition.head(metric.name, metric.kind, metric.help)
        for labels, value in samples[metric.name]:
            yield exposition.sample(metric.name, dict(zip(metric.labels, labels, strict=True)), value)


def _cluster(cluster: ClusterState) -> Iterator[str]:
    values = (
        cluster.rounds > 0 and cluster.away_ms is None,
        cluster.seen,
        cluster.keeps == "safe",
        cluster.rounds,
        cluster.failures,
    )
    for metric, value in zip(CLUSTER, values, strict=True):
        yield exposition.head(metric.name, metric.kind, metric.help)
        yield exposition.sample(metric.name, {}, int(value))


def reference() -> str:
    """The text of docs/reference/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Served as Prometheus text by the admin address at `/metrics`. Generated from the definitions;",
        "counters of finished connections survive restarts of the control process.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for metric in (*METRICS, *WORKER.values(), *RESOLVER.values(), *SHAPING, *BUDGETS, *CLUSTER):
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"
