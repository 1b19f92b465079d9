"""Bars and lines as SVG, by hand: a chart of five bars needs no library."""

from __future__ import annotations

from html import escape

WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 720, 150, 90, 22, 10, 44
OURS, THEIRS, INK, SPREAD = "#1f6feb", "#9aa4b2", "#1c2128", "#444c56"
#: Of a line chart: the height of its field, what is below and left of it, and the colours of its lines.
FIELD, BELOW, BESIDE, LINES = 220, 34, 60, ("#1f6feb", "#d1570a", "#2da44e", "#8250df")


def _head(title: str, height: int) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="13" fill="{INK}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]


def bars(
    title: str, figures: list[tuple[str, float, float, float]], digits: int, left: int = LEFT, ours: str = "egress"
) -> str:
    """Of each one: label, median, least, most. Ours are those that begin with `ours`; labels need `left`."""
    most = max((high for *_, high in figures), default=1) or 1
    room = WIDTH - left - RIGHT
    height = TOP + len(figures) * (BAR + GAP) + GAP
    parts = _head(title, height)
    for number, (label, median, low, high) in enumerate(figures):
        y = TOP + number * (BAR + GAP)
        at = {value: left + room * value / most for value in (low, median, high)}
        colour = OURS if label.startswith(ours) else THEIRS
        middle = y + BAR / 2
        parts += [
            f'<text x="{left - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{left}" y="{y}" width="{at[median] - left:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<line x1="{at[low]:.1f}" x2="{at[high]:.1f}" y1="{middle}" y2="{middle}" '
            f'stroke="{SPREAD}" stroke-width="2"/>',
            f'<text x="{at[high] + 6:.1f}" y="{middle + 4:.1f}">{median:,.{digits}f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def lines(title: str, series: list[tuple[str, list[float]]], step: float) -> str:
    """Of each one: label, and its values, `step` seconds from one to the next."""
    length = max((len(values) for _, values in series), default=1)
    most = max((max(values, default=0) for _, values in series), default=1) or 1
    across, foot = WIDTH - BESIDE - GAP, TOP + GAP + FIELD
    parts = _head(title, foot + BELOW)
    for share in (0.0, 0.5, 1.0):
        y = foot - FIELD * share
        parts += [
            f'<line x1="{BESIDE}" x2="{WIDTH - GAP}" y1="{y:.1f}" y2="{y:.1f}" stroke="{THEIRS}" stroke-width="0.5"/>',
            f'<text x="{BESIDE - 8}" y="{y + 4:.1f}" text-anchor="end">{most * share:,.0f}</text>',
        ]
    for second in range(0, int(length * step) + 1, 2):
        x = BESIDE + across * second / (length * step)
        parts.append(f'<text x="{x:.1f}" y="{foot + 18}" text-anchor="middle">{second} s</text>')
    for number, (label, values) in enumerate(series):
        colour = LINES[number % len(LINES)]
        points = " ".join(
            f"{BESIDE + across * (at + 0.5) / length:.1f},{foot - FIELD * value / most:.1f}"
            for at, value in enumerate(values)
        )
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<text x="{WIDTH - GAP}" y="{TOP + 12 + 16 * number}" text-anchor="end" fill="{colour}">'
            f"{escape(label)}</text>",
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
