"""A table with a column for each program, and how many times better exeio is than the others."""

from typing import Dict, List, NamedTuple, Optional

BARE = "bare limit"


class Line(NamedTuple):
    """A line of the table: a figure of each program, None where it cannot do it. `better` is "less" or "more"."""

    what: str
    unit: str
    figures: Dict[str, Optional[float]]
    better: str = "less"


def shown(figure: Optional[float], unit: str) -> str:
    """A figure with three digits and its unit."""
    if figure is None:
        return "–"
    if unit == "s" and figure < 1:
        return f"{figure * 1e3:.3g} ms" if figure >= 0.001 else f"{figure * 1e6:.3g} µs"
    if figure >= 100:
        return f"{figure:,.0f} {unit}".rstrip()
    return f"{figure:.3g} {unit}".rstrip()


def cell(line: Line, name: str) -> str:
    """The figure of a program and how many times better exeio's is."""
    figure, ours = line.figures.get(name), line.figures.get("exeio")
    text = shown(figure, line.unit)
    if name == "exeio" or not figure or not ours:
        return text
    ratio = figure / ours if line.better == "less" else ours / figure
    if ratio < 0.01:
        return f"{text} (< 0.01 ×)"
    return f"{text} ({ratio:,.0f} ×)" if ratio >= 10 else f"{text} ({ratio:.2g} ×)"


def table(lines: List[Line], names: List[str]) -> str:
    """The table in Markdown, a column for each name."""
    rows = [["", *names], ["---", *["---:" for _ in names]]]
    rows += [[line.what, *(cell(line, name) for name in names)] for line in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def behind(lines: List[Line]) -> List[str]:
    """The rows in which a peer is better than exeio, with its name."""
    found = []
    for line in lines:
        ours = line.figures.get("exeio")
        for name, figure in line.figures.items():
            if name in ("exeio", BARE) or figure is None or ours is None:
                continue
            if figure < ours if line.better == "less" else figure > ours:
                found.append(f"{line.what}: {name}")
    return found
