"""Lines in an SVG: how cost grows. Knows nothing of what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 420, 280, 56, 44, 34, 16
COLOURS = ("#0b6e4f", "#b5451b", "#777777")
Points = Sequence[tuple[float, float]]


def svg(panels: Sequence[tuple[str, str, str, Mapping[str, Points]]]) -> str:
    """Panels side by side, each with a title, the names of its axes, and lines by name."""
    body = "".join(_panel(index * WIDTH, *panel) for index, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" fill="#333">'
        f'<rect width="100%" height="100%" fill="#fff"/>{body}</svg>\n'
    )


def _panel(left: float, title: str, across: str, up: str, lines: Mapping[str, Points]) -> str:
    most_x = max(x for points in lines.values() for x, _ in points)
    most_y = max(y for points in lines.values() for _, y in points)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + LEFT + x / most_x * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / most_y * (HEIGHT - BOTTOM - TOP),
        )

    parts = [f'<text x="{left + LEFT}" y="20" font-weight="bold">{escape(title)}</text>']
    for step in range(5):
        x, y = most_x * step / 4, most_y * step / 4
        px, py = place(x, y)
        x0, y0 = place(0, 0)
        parts.append(f'<line x1="{x0}" x2="{left + WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 6}" y="{py + 4:.1f}" text-anchor="end">{y:.3g}</text>')
        parts.append(f'<text x="{px:.1f}" y="{y0 + 16}" text-anchor="middle">{x:.4g}</text>')
    parts.append(f'<text x="{left + WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>')
    middle = HEIGHT / 2
    turned = f'transform="rotate(-90 {left + 14} {middle})"'
    parts.append(f'<text x="{left + 14}" y="{middle}" text-anchor="middle" {turned}>{escape(up)}</text>')
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(x, y) for x, y in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in (place(*p) for p in points)
        ]
        parts.append(f'<text x="{left + LEFT + 10}" y="{TOP + 14 + 16 * number}" fill="{colour}">{escape(name)}</text>')
    return "".join(parts)
