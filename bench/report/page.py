"""The page: targets, tables, charts, and how it was measured."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from report import budgets, charts, cluster, scenarios
from report.figures import METRICS, ratios, spread, table, values
from report.results import FILE, Results
from report.targets import PEERS
from report.targets import targets as all_targets

Json = dict[str, Any]
TITLES = {
    "connect": "New connections",
    "message": "Messages",
    "low-latency": "One request at a time, `low_latency` on",
    "bulk": "Bulk",
    "bulk-bbr": "Bulk under BBR",
    "tunnel": "CONNECT",
    "ways": "What each way in costs",
    "refusals": "How soon a client is refused",
    "telemetry": "Decision log on and off",
    "budgets": "Budgets",
    "workers": "Two workers and one",
    "memory": "Memory of an idle flow",
    "policies": "Names in the policy",
    "reload": "A policy that changes under load",
    "changes": "The same change, by everybody who can",
    "syscalls": "System calls for each connection",
    "caps": "The same cap, by everybody who can",
    "shaping": "Shaping",
    "cluster": "One limit over several gateways",
}
NOTES = {
    "connect": "TLS hello of 517 bytes, reply of 512 bytes. Latency is from connect to the first byte.",
    "message": "Ping-pong on held flows. Latency is from a message to its echo.",
    "low-latency": "The peers have no such option.",
    "bulk": "With many flows client and backend fill their CPU before a proxy that splices fills its own: "
    "`limit` says so, and CPU per GiB is the figure that counts.",
    "bulk-bbr": "Where connections have BBR for congestion control, which paces each flow by a timer: with one flow "
    "all wait for these timers, and CPU per GiB is several times as much, for direct connections too.",
    "tunnel": "CONNECT, 200, then the same. Of the peers only Envoy speaks it.",
    "ways": "32 in flight, backend closes first, as in the first table. tinyproxy and squid are asked for addresses, "
    "the others for names. HAProxy and nginx route a plain request to one of four backends by its Host; what was "
    "captured costs the kernel's connection tracking as well.",
    "refusals": "One client after another, from its connect to the first byte of the refusal, for a name that the "
    "configuration does not have. The client is Python. The gateway writes a record of each.",
    "telemetry": "Same gateway; the decision log is off in the second.",
    "budgets": "Same gateway; in the others each of the four rules, and its one source, has a budget in both "
    "directions that is never spent. Then what takes time, each time with a gateway of its own and four greedy "
    "connections of one source, whose other end is Python. *kill -9*: from the moment at which the clients had "
    "sent as many bytes as the next gateway finds in its store, to the kill; what was under way counts as lost. "
    "`slow 8 Mbit/s`: from the moment at which the clients had received the budget (300 MB), to the beginning of "
    "the last 50 ms with more than twice this rate. The others: from the moment at which the clients had sent the "
    "budget, to the end of the last of the four; to the refusal of a connection, tried one after the other; to the "
    "line in the log, looked for every millisecond; after that, to the metric, asked for over the control socket.",
    "workers": "Both may use two CPUs. On a machine with two, the generator needs one of them.",
    "memory": "Bytes a flow, from the state before to the state with all flows. PSS counts shared pages once. The "
    "kernel's part is of the whole machine: with `direct` one connection, with a proxy two and its buffers.",
    "policies": "One rule with a list of so many names.",
    "reload": "By command, spread over the rounds; the gateway with its control plane has one CPU.",
    "changes": "A route comes or goes, and a label of the others changes. HAProxy and nginx start a new worker each "
    "time and keep the old one for its flows; Envoy ends the flows of a chain that changed, here after 2 s instead of "
    "600. The gateway reads 10,000 rules and sees the change by itself.",
    "syscalls": "Of the data plane, by `strace -c -f`, over the connections it accepted; 8 in flight.",
    "caps": "A limit on what clients receive, for each of the four names. nginx's is of each connection, so it has no "
    "part in 16 flows. HAProxy is 2.8, because Debian's 2.6 has no bwlim; Envoy refills every 50 ms, as it comes. "
    "Measured for 4 s after the first second, by a receiver that reads at once and counts by the millisecond. A burst "
    "is the most bytes beyond rate × time in any window of whole milliseconds; at first, and after a pause of 2 s, "
    "from the moment at which the sender sends again, with nothing under way before. Everybody has real-time priority "
    "(SCHED_RR): it is timers that are measured, and what else a machine does would be, too.",
    "shaping": "Classes of one gateway, each scenario once, 10 s where nothing changes meanwhile. Rates are what "
    "clients, or for `up` the backend, received; what the messages use is taken from what is configured. The worst "
    "error of any 10 s and 1 s counts windows from every millisecond on. Allowed in 1 s: 2 % or two turns, whichever "
    "is more. Within: that, and 1 % over the whole. Messages go over another flow, of the same class or a class of the "
    "same link; alone: before the bulk begins. All have real-time priority, as in the next table, and both ends of the "
    "messages a higher one than those of the bulk. Where there are only two CPUs these share one: a message does not "
    "wait until an end of the bulk has had its turn, but for what the kernel does for it meanwhile. Idle flows have "
    "sent their hello, and nothing since; they are spread over four classes, one of them the one that is measured. "
    "Idle classes are rules with a bandwidth of their own and without connections.",
    "cluster": "A limit of 100 Mbit/s that gateways share through a real Redis, with `replicas: 2`; four greedy "
    "connections through each, read by Python. Measured is what all together received, and the error is of that, over "
    "the time and over any second of it; shares are each gateway's part. What the messages use, 0.1 Mbit/s, is taken "
    "from what is configured before the error and the shares are. Jain's index is over all connections that were open "
    "all the time, through whichever gateway. A message of 64 bytes goes through the first gateway every 5 ms, over "
    "one more connection of the same class, by a process of its own; that and the backend have a higher real-time "
    "priority than all else. One that joins is there when a tenth of a second has 95 % of its half; one that dies is "
    "killed, and the other is there when it has 95 % of all: the time until then is a line of its own. While Redis is "
    "away each keeps its half.",
}
#: Row, case, metric, title, digits.
CHARTS = [
    ("connect", "32 in flight, backend closes first", "rate", "New connections per second (more is better)", 0),
    ("connect", "32 in flight, backend closes first", "cpu_us", "Proxy CPU per connection, µs (less is better)", 1),
    ("message", "64 B, 64 flows", "rate", "64-byte messages per second, 64 flows (more is better)", 0),
    ("bulk", "down, 8 flows", "cpu_s_gib", "Bulk down, proxy CPU s per GiB (less is better)", 3),
    (
        "caps",
        "100 Mbit/s, 1 flow",
        "mean_1s_pct",
        "A cap of 100 Mbit/s: mean error of any second, % (less is better)",
        2,
    ),
    ("caps", "100 Mbit/s, 1 flow", "pause_ms", "The same: burst after a pause, ms of the rate (less is better)", 1),
    ("caps", "1,000 Mbit/s, 1 flow", "cpu_s_gib", "A cap of 1 Gbit/s: proxy CPU s per GiB (less is better)", 3),
    ("memory", "8,000 idle flows", "user_bytes", "User memory of an idle flow, bytes (less is better)", 0),
]


def cases(results: Results, row: str) -> list[str]:
    return list(dict.fromkeys(one["case"] for one in results.samples(row)))


def case_table(samples: list[Json]) -> str:
    who = list(dict.fromkeys(one["peer"] for one in sorted(samples, key=lambda one: one["round"])))
    who.sort(key=lambda name: (not name.startswith("egress"), PEERS.index(name) if name in PEERS else len(PEERS)))
    columns = [metric for metric in METRICS if any(one.get(metric.key) is not None for one in samples)]
    verdicts = any("verdict" in one for one in samples)
    body = []
    for name in who:
        own = [one for one in samples if one["peer"] == name]
        line = [name, *(spread(values(own, name, metric.key), metric.show) for metric in columns)]
        if verdicts:
            told = Counter(one["verdict"] for one in own).most_common()
            line.append(", ".join(word if number == len(own) else f"{word} {number}×" for word, number in told))
        if any("failed" in one for one in samples):
            line.append(f"{sum(one.get('failed', 0) for one in own):,}")
        if any("each" in one for one in samples):
            line.append(", ".join(f"{call} {number:g}" for one in own for call, number in one["each"].items()))
        body.append(line)
    head = ["", *(metric.heading for metric in columns)]
    head += ["limit"] * verdicts + ["failed"] * any("failed" in one for one in samples)
    head += ["of which"] * any("each" in one for one in samples)
    return table(head, body)


def beside(samples: list[Json]) -> str:
    """Ours against the best peer of each round."""
    told = []
    for metric in METRICS:
        found = ratios(samples, "egress", PEERS, metric) if metric.compared else []
        if found:
            told.append(f"{metric.heading} {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})")
    return "Ours over the best peer of the same round: " + ", ".join(told) + "." if told else ""


def beside_first(row: str, results: Results) -> str:
    """Our CPU in each case against the first one's, in the same round."""
    first, *others = cases(results, row)
    base = values(results.samples(row, first), "egress", "cpu_us")
    told = []
    for case in others:
        own = values(results.samples(row, case), "egress", "cpu_us")
        found = [own[number] / base[number] for number in own if number in base]
        if found:
            told.append(f"{case} {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})")
    return f"Our CPU against that of *{first}*: " + "; ".join(told) + "." if told else ""


def section(row: str, results: Results) -> str:
    stored = results.rows[row]
    parts = [f"## {TITLES[row]}", NOTES[row]]
    parts.append(f"{stored['date']}, commit {stored['commit']}, {stored['rounds']} rounds of {stored['seconds']:g} s.")
    if row == "shaping":
        return "\n\n".join([*parts, scenarios.figures(results.samples(row))])
    if row == "cluster":
        return "\n\n".join([*parts, cluster.figures(results.samples(row))])
    timed = [one for one in results.samples(row) if budgets.takes_time(one)] if row == "budgets" else []
    for case in cases(results, row):
        samples = [one for one in results.samples(row, case) if one not in timed]
        if samples:
            parts += [f"### {case}", case_table(samples), beside(samples)]
            parts.append(budgets.beside(samples) if row == "budgets" else "")
    if timed:
        parts += ["### What is lost, and how soon it acts", budgets.figures(timed)]
    if row == "ways":
        parts.append(beside_first(row, results))
    return "\n\n".join(part for part in parts if part)


def targets(results: Results) -> str:
    """All of them on the page of all rows; of those rows that there are otherwise."""
    body = []
    for target in all_targets():
        if target.row not in results.rows and not set(TITLES) <= set(results.rows):
            continue
        value = target.reached(results)
        wanted = f"{target.way} {target.bound:g}" + (" ×" if target.against else "")
        outcome = "not measured" if value is None else ("yes" if target.is_met(value) else "**no**")
        body.append([target.text, wanted, "-" if value is None else f"{value:,.3g}", outcome])
    return table(["what", "to reach", "reached", "met"], body) if body else ""


def draw(folder: Path, results: Results, rows: set[str]) -> list[str]:
    """Writes the charts of some rows; their lines of Markdown."""
    lines = []
    for row, case, key, title, digits in CHARTS:
        if row not in rows:
            continue
        samples = results.samples(row, case)
        figures = []
        for name in ("egress", *PEERS):
            found = values(samples, name, key).values()
            if found:
                figures.append((name, statistics.median(found), min(found), max(found)))
        if figures:
            file = f"{row}-{key.replace('_', '-')}.svg"
            (folder / file).write_text(charts.bars(title, figures, digits))
            lines.append(f"![{title}]({file})")
    return lines


def how(results: Results) -> str:
    """Machines, versions and commands. Rows of several runs are told apart."""
    machines = {
        f"{of['cpus']} CPUs ({of['model']}{', virtual' if of['virtual'] else ''}), {of['memory_gib']} GiB, "
        f"Linux {of['kernel']}, {of['congestion_control']}"
        for of in (row["machine"] for row in results.rows.values())
    }
    versions = {f"{name} {one}" for row in results.rows.values() for name, one in row["versions"].items()}
    missing = {f"{name}: {why}" for row in results.rows.values() for name, why in row["missing"].items()}
    lines = [f"- Machine: {'; '.join(sorted(machines))}.", f"- Versions: {', '.join(sorted(versions))}."]
    lines.append("- Not measured: " + ("; ".join(sorted(missing)) + "." if missing else "nothing that was to be."))
    return "\n".join(lines)


#: Rows that have a page of their own, and its head.
ASIDE = ("caps", "cluster", "shaping")
SHAPING = """# Shaping

Written by `make bench ROWS="caps shaping cluster" WRITE=1`; do not edit. How it is measured otherwise, and all raw
figures: [benchmarks](README.md).
"""

HEAD = """# Benchmarks

Written by `make bench`; do not edit. All raw figures are in [{file}]({file}).

Each proxy passes TLS through by SNI, for four names to four local backends, with one worker, pinned to a CPU. The
gateway does it with 10,000 other rules, records, metrics, screening and the decision log switched on, and its control
plane's CPU is counted as its own. Client and backend share another CPU where there are only two. Everybody is loaded
once in each round, in turn; a figure is the median of the rounds, with the least and the most; a ratio is taken within
a round, then its median. `machine` is all CPU that the machine used. `limit` is what was full: the proxy's CPU, the
generator's (`generator-bound`: the proxy could do more), neither (`idle`: the round trip), or neither because others
used the machine (`disturbed`). Below 10 % is noise.

```sh
make bench                                # everything, an hour; writes this page and that of shaping
make bench ROWS="connect bulk" ROUNDS=3   # some rows, printed only; WRITE=1 puts them into this page
```
"""


def components(results: Results) -> str:
    if not results.components:
        return ""
    stored = results.components
    body = []
    for one in stored["tests"]:
        median, least, most = (f"{one[key] * 1e3:,.4g}" for key in ("median_s", "min_s", "max_s"))
        extra = (f"{key} {value:,.4g}" for key, value in one["extra"].items() if isinstance(value, int | float))
        body.append([f"`{one['name']}`", f"{median} ({least} to {most})", ", ".join(extra)])
    when = f"By pytest-benchmark, {stored['date']}, commit {stored['commit']}."
    return "\n\n".join(["## Components", when, table(["", "ms", ""], body)])


def write(folder: Path, results: Results) -> None:
    aside = [row for row in ASIDE if row in results.rows]
    parts = [
        HEAD.format(file=FILE).rstrip(),
        how(results),
        "Traffic shaping has [a page of its own](shaping.md)." if aside else "",
        "## To be reached",
        targets(results),
        *draw(folder, results, set(TITLES) - set(ASIDE)),
    ]
    parts += [section(row, results) for row in TITLES if row in results.rows and row not in ASIDE]
    parts.append(components(results))
    (folder / "README.md").write_text("\n\n".join(part for part in parts if part) + "\n")
    if aside:
        parts = [SHAPING.rstrip(), *draw(folder, results, set(ASIDE))]
        parts += scenarios.draw(folder, results.samples("shaping"))
        parts += [section(row, results) for row in reversed(aside)]
        (folder / "shaping.md").write_text("\n\n".join(part for part in parts if part) + "\n")
