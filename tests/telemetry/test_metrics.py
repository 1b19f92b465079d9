"""The exposition is what Prometheus reads, and its reference says all of it."""

from pathlib import Path

from egress_gateway.messages import Store
from egress_gateway.report import Allowance, Budget, Class, Link, Report, Slow, Sources, Used, Way
from egress_gateway.telemetry import metrics
from egress_gateway.telemetry.log import DecisionLog
from prometheus_client.parser import text_string_to_metric_families
from segment_writer import VOCABULARY, SegmentWriter, record

from egress_core.live import Live
from egress_core.ring import Reader, Segment


def render(writer: SegmentWriter, told: Report | None = None) -> dict[tuple[str, ...], float]:
    segment = Segment(writer.fd)
    reader = Reader(segment, VOCABULARY, log=False)
    reader.drain(1000)
    state = metrics.ControlState(version="1", generation=4, config_error=True)
    state.reloads["changed"] += 2
    counters = {"worker": list(metrics.WORKER), "resolver": list(metrics.RESOLVER)}
    text = metrics.Metrics(
        segment, reader, Live(segment, VOCABULARY), DecisionLog(reader, "off"), counters, state
    ).render(told)
    out = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type != "unknown", family.name
        for s in family.samples:
            out[(s.name, *s.labels.values())] = s.value
    return out


def test_prometheus_reads_it() -> None:
    writer = SegmentWriter(workers=2)
    for i in range(3):
        writer.push(record(i), i % 2)
    writer.push(record(9, rule_name=b'a"\\\n', verdict=2, reason=4, end=2))
    writer.write_live(0)
    got = render(writer)
    assert got["egress_connections_total", "tls", "web", "allow", "rule"] == 3
    assert got["egress_connections_total", "tls", 'a"\\\n', "deny", "default_deny"] == 1
    assert got["egress_flow_ends_total", "refused"] == 1 and got["egress_bytes_total", "down", "web"] == 3000
    assert got["egress_flow_duration_seconds_count",] == 4 and got["egress_flow_duration_seconds_sum",] == 0.006
    assert got["egress_active_flows", "0", "relaying"] == 1 and got["egress_config_error",] == 1
    assert got["egress_reloads_total", "changed"] == 2 and got["egress_control_restarts_total",] == 0


def test_the_reference_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs/reference/metrics.md"
    assert page.read_text() == metrics.reference(), "write metrics.reference() to docs/reference/metrics.md"


def test_classes_are_told_with_what_they_borrowed_and_how_long_they_held_back() -> None:
    def way(count: int) -> Way:
        return Way(bytes=count, borrowed=count // 2, waiting=3, allowed=None, held=[2, 1, 4], held_ns=9_000_000_000)

    def one(rule: str, count: int, most: int | None = None) -> Class:
        return Class(
            rule=rule, link="internet", max=most, guarantee=8000, priority="high", weight=1, share_by="source",
            flows=5, up=way(count), down=way(2 * count),
        )  # fmt: skip

    many = [one(f"r{n}", 10, 16_000) for n in range(metrics.MOST_CLASSES + 2)]
    told = Report(at_ns=1, links=[Link(name="internet", bandwidth=80_000)], classes=many, held_bounds_ms=[1, 500])
    got = render(SegmentWriter(), told)
    assert got["egress_link_bandwidth_bytes_per_second", "internet"] == 10_000
    assert got["egress_class_max_bytes_per_second", "internet", "r0"] == 2000
    assert got["egress_class_bytes_total", "internet", "r255", "down"] == 20
    assert got["egress_class_borrowed_bytes_total", "internet", "r0", "up"] == 5
    assert got["egress_class_waiting_flows", "internet", "r0", "up"] == 3
    assert got["egress_class_held_seconds_bucket", "internet", "r0", "up", "0.5"] == 3
    assert got["egress_class_held_seconds_count", "internet", "r0", "up"] == 7
    assert got["egress_class_held_seconds_sum", "internet", "r0", "up"] == 9
    # Those beyond the limit are there together.
    assert got["egress_class_bytes_total", "", "other", "down"] == 40
    assert got["egress_class_held_seconds_count", "", "other", "up"] == 14
    assert ("egress_class_bytes_total", "internet", "r256", "down") not in got


def test_budgets_are_told_with_what_is_used_of_them() -> None:
    used = Used(used=7, limit=5, per="day", ends=1_800_000_000, over=True)
    sources = Sources(up=Allowance(bytes=5, per="hour"), down=None, counted=9, over=2)
    one = Budget(rule="r", then=Slow(slow=8000), audit=False, up=used, down=None, sources=sources)
    store = Store(path="/x", failing=True, failures=3)
    got = render(SegmentWriter(), Report(at_ns=1, links=[], classes=[], held_bounds_ms=[], budgets=[one], store=store))
    for metric, value in (("used_bytes", 7), ("limit_bytes", 5), ("period_end_timestamp_seconds", 1.8e9), ("over", 1)):
        assert got[f"egress_budget_{metric}", "r", "up"] == value
        assert (f"egress_budget_{metric}", "r", "down") not in got
    assert (got["egress_budget_sources", "r"], got["egress_budget_sources_over", "r"]) == (9, 2)
    assert (got[("egress_budget_store_failures_total",)], got[("egress_budget_store_failing",)]) == (3, 1)
