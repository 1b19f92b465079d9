"""The page of the benchmarks says what was measured: ratios are taken within a round against the best of it, what was
not measured is called so, and every target names a row, case and figure that there are."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from egress_gateway.check import check
from peers.gateway import Place, policy
from peers.peer import NAMES
from report import charts, page
from report.figures import METRICS, ratios, spread
from report.results import Results
from report.targets import targets
from rows import ROWS, budgets, caps, cluster, memory, refusals, shaping
from rows.bench import Bench
from rows.scenarios import SCENARIOS
from rows.traffic import Traffic

RATE, CPU = (next(one for one in METRICS if one.key == key) for key in ("rate", "cpu_us"))


def sample(peer: str, number: int, rate: float, cpu: float) -> dict[str, object]:
    of = {"row": "connect", "case": "128 in flight, backend closes first", "failed": 0, "verdict": "proxy-bound"}
    return {**of, "peer": peer, "round": number, "rate": rate, "cpu_us": cpu}


SAMPLES = [
    *(sample("egress", number, rate, cpu) for number, rate, cpu in ((0, 100, 10), (1, 50, 20))),
    *(sample("nginx", number, rate, cpu) for number, rate, cpu in ((0, 50, 20), (1, 40, 40))),
    *(sample("haproxy", number, rate, cpu) for number, rate, cpu in ((0, 80, 5), (1, 25, 50))),
    *(sample("direct", number, 1_000, 0) for number in (0, 1)),
]


@pytest.fixture
def results() -> Results:
    found = Results.empty()
    found.put("connect", SAMPLES, 2, 1.0)
    return found


def test_a_ratio_is_against_the_best_of_the_same_round() -> None:
    assert ratios(SAMPLES, "egress", ["nginx", "haproxy", "envoy"], RATE) == [100 / 80, 50 / 40]
    assert ratios(SAMPLES, "egress", ["nginx", "haproxy", "envoy"], CPU) == [10 / 5, 20 / 40]
    assert ratios(SAMPLES, "egress", ["envoy"], RATE) == []


def test_a_spread_shows_the_least_and_the_most() -> None:
    assert spread({0: 1.0, 1: 5.0, 2: 2.0}, RATE.show) == "2 (1 to 5)"
    assert spread({0: 1.0}, RATE.show) == "1"
    assert spread({}, RATE.show) == "-"


def test_the_page_says_what_is_met_and_what_is_not_measured(results: Results, tmp_path: Path) -> None:
    text = page.targets(results)
    assert "| new connections per second, against the best | at least 1.05 × | 1.25 | yes |" in text
    assert "| the same against Envoy | at least 2 × | - | not measured |" in text
    assert "| proxy CPU per connection | at most 0.85 × | 1.25 | **no** |" in text
    results.write(tmp_path)
    again = Results.read(tmp_path)
    assert again.samples("connect") == SAMPLES
    page.write(tmp_path, again)
    assert "| egress | 75 (50 to 100) |" in (tmp_path / "README.md").read_text()
    for chart in tmp_path.glob("*.svg"):
        ElementTree.parse(chart)


def test_rows_that_were_not_measured_again_stay(results: Results) -> None:
    other = Results.empty()
    other.put("bulk", [], 1, 1.0)
    assert set(results.with_rows_of(other).rows) == {"connect", "bulk"}


def test_every_target_names_what_there_is() -> None:
    cases = {name: {case.name for case in row.cases} for name, row in ROWS.items() if isinstance(row, Traffic)}
    cases["budgets"] = set(budgets.cases())
    cases["memory"] = {f"{memory.FLOWS:,} idle flows"}
    cases["caps"] = {case for case, *_ in caps.cases()}
    cases["policies"] = {"load", "32 in flight"}
    cases["refusals"] = set(refusals.TOLD.values())
    loads = ("message, 64 flows", "connect, 32 flows")
    cases["reload"] = {load + pace for load in loads for pace in ("", ", one a second")}
    known = {metric.key for metric in METRICS} | {"failed"}
    for target in targets():
        assert target.case in cases[target.row], target
        assert target.metric in known, target
    for row, case, key, *_ in page.CHARTS:
        assert case in cases[row]
        assert key in known
    assert set(page.TITLES) == set(page.NOTES) == set(ROWS)


def test_every_scenario_has_a_policy_that_loads(tmp_path: Path) -> None:
    """Guarantees that do not fit their link, for one, would be an error."""
    for scenario in SCENARIOS:
        for terms in (scenario.terms, *(terms for _, terms in scenario.changes)):
            place = Place(tmp_path, 1, 2)
            place.policy.write_text(policy(place, [9, 9, 9, 9], shaping.options(scenario, terms)))
            assert check([place.policy]).policy.names >= len(NAMES), scenario.name


def test_the_page_of_shaping_says_what_is_within(tmp_path: Path) -> None:
    """A group that has 98 % of its rate is not, whatever its windows are like."""
    scenario = SCENARIOS[0]
    group = scenario.groups[0]
    told = {"jain": 1.0, "reached_ms": None, "failed": 0}
    samples = []
    for number, error in enumerate((0.002, -0.02)):
        rate = shaping.expected(scenario, group, group.expected[0])
        span = {"rate_bps": rate * 8 * (1 + error), "expected_bps": rate * 8, "error": error, "burst": 0}
        span |= {"error_10s": error, "error_1s": error}
        figures = shaping.of_span(scenario, group, group.expected[0], told, span)
        samples.append({"case": f"number {number}", "peer": group.name, "round": 0, "series": [1e6, 2e6], **figures})
    found = Results.empty()
    found.put("shaping", samples, 1, 1.0)
    page.write(tmp_path, found)
    text = (tmp_path / "shaping.md").read_text()
    assert "| number 0 | the class | 100 | 99.94 | +0.20 | +0.20 | +0.20 | 2.0 | yes |" in text
    assert "| number 1 | the class | 100 | 97.75 | -2.00 | -2.00 | -2.00 | 2.0 | **no** |" in text
    for chart in tmp_path.glob("*.svg"):
        ElementTree.parse(chart)
    assert len(list(tmp_path.glob("shaping-*.svg"))) == 3


def test_the_row_of_gateways_counts_whoever_was_open_all_the_time(tmp_path: Path) -> None:
    """Of two gateways one dies after two seconds: from then on its connections are no part of the index."""
    bench = Bench(tmp_path, None, None, 1, 1.0, None)  # type: ignore[arg-type]
    times = [number / 100 for number in range(600)]
    octets = int(cluster.BULK * 1e6 / 8 / 100 / 4)
    lives, starves, dies = (
        cluster.Received(
            opened=-1.0, times=times, sums=[min(at, till) * each for at in range(601)], ended=till / 100 + 0.1
        )
        for each, till in ((2 * octets, 600), (octets, 600), (octets, 200))
    )
    answers = tmp_path / "answers.txt"
    answers.write_text("\n".join(f"{at:.9f} {100 if at < 2 else 300}" for at in times) + "\n5.9")
    run = cluster.Run(bench, [[lives, starves], [dies]], answers)
    run.measure("before", 0.0, 2.0)
    run.measure("until", 2.0, 2.5, back_ms=500.0)
    run.measure("after", 2.5, 6.0)
    before, until, after = bench.samples
    assert before["error_pct"] == pytest.approx(0, abs=0.1)
    assert (before["jain"], after["jain"]) == pytest.approx((16 / 18, 9 / 10), abs=1e-3)
    assert [one["p99_us"] for one in bench.samples] == [100, 300, 300]
    assert until["over_pct"] is None and until["error_pct"] == pytest.approx(-25, abs=0.1)
    found = Results.empty()
    found.put("cluster", bench.samples, 1, 1.0)
    text = page.section("cluster", found)
    assert "| until | 0.5 | 100 | 74.92 | -25.00 |  |  | 0.750, 0.000 | 0.9000 | 300 | 500 |" in text


def test_a_chart_escapes_its_labels() -> None:
    drawn = charts.bars("a < b & c", [("egress <x>", 1.0, 0.5, 2.0)], 1)
    assert ElementTree.fromstring(drawn) is not None


def test_of_what_must_be_in_time_the_worst_counts(tmp_path: Path) -> None:
    """A budget that acts in time four times of five does not."""
    of = {"row": "budgets", "peer": "egress"}
    took = [{**of, "case": budgets.KILLED, "round": number, "ms": ms} for number, ms in enumerate((5, 7, 1_001, 6, 8))]
    cost = [{**of, "case": "64 B, 64 flows", "round": 0, "cpu_us": 10.0}]
    cost.append({**cost[0], "peer": "egress, deny", "cpu_us": 10.2})
    found = Results.empty()
    found.put("budgets", [*cost, *took], 1, 1.0)
    assert "| at most 1000 | 1e+03 | **no** |" in page.targets(found)
    told = page.section("budgets", found)
    assert f"| {budgets.KILLED} | 5 | 1,001 | 7 (5 to 1,001) |" in told
    assert "without: egress, deny 1.020 (1.020 to 1.020)." in told
