"""Bars as SVG, by hand: a chart of five bars needs no library."""

from __future__ import annotations

from html import escape

WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 720, 150, 90, 22, 10, 44
OURS, THEIRS, INK, SPREAD = "#1f6feb", "#9aa4b2", "#1c2128", "#444c56"


def bars(title: str, figures: list[tuple[str, float, float, float]], digits: int) -> str:
    """Of each one: label, median, least, most. Ours is the one that begins with `egress`."""
    most = max((high for *_, high in figures), default=1) or 1
    room = WIDTH - LEFT - RIGHT
    height = TOP + len(figures) * (BAR + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="13" fill="{INK}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (label, median, low, high) in enumerate(figures):
        y = TOP + number * (BAR + GAP)
        at = {value: LEFT + room * value / most for value in (low, median, high)}
        colour = OURS if label.startswith("egress") else THEIRS
        middle = y + BAR / 2
        parts += [
            f'<text x="{LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{at[median] - LEFT:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<line x1="{at[low]:.1f}" x2="{at[high]:.1f}" y1="{middle}" y2="{middle}" '
            f'stroke="{SPREAD}" stroke-width="2"/>',
            f'<text x="{at[high] + 6:.1f}" y="{middle + 4:.1f}">{median:,.{digits}f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
