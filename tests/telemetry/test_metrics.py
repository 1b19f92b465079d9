"""The exposition is what Prometheus reads, and its reference says all of it."""

from pathlib import Path

from egress_gateway.telemetry import metrics
from egress_gateway.telemetry.log import DecisionLog
from prometheus_client.parser import text_string_to_metric_families
from segment_writer import VOCABULARY, SegmentWriter, record

from egress_core.live import Live
from egress_core.ring import Reader, Segment


def render(writer: SegmentWriter) -> dict[tuple[str, ...], float]:
    segment = Segment(writer.fd)
    reader = Reader(segment, VOCABULARY, log=False)
    reader.drain(1000)
    state = metrics.ControlState(version="1", generation=4, config_error=True)
    state.reloads["changed"] += 2
    counters = {"worker": list(metrics.WORKER), "resolver": list(metrics.RESOLVER)}
    text = metrics.Metrics(
        segment, reader, Live(segment, VOCABULARY), DecisionLog(reader, "off"), counters, state
    ).render()
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
