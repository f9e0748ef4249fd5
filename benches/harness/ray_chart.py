"""Bar charts of readers, as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

COLOURS = {"roost": "#c2410c", "late": "#c2410c", "ray": "#64748b", "pyarrow": "#94a3b8", "filecache": "#94a3b8"}


def bars(path: Path, title: str, figures: Mapping[str, Mapping[str, float]], unit: str) -> None:
    """One group of bars a reader: `figures[reader][case]`."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(case for taken in figures.values() for case in taken))
    height = 0.8 / max(1, len(cases))
    fig, axes = plt.subplots(figsize=(9, 1.0 + 0.34 * len(figures) * max(1, len(cases)) ** 0.6))
    for number, case in enumerate(cases):
        places = [row + number * height for row, taken in enumerate(figures.values()) if case in taken]
        values = [taken[case] for taken in figures.values() if case in taken]
        colours = [_colour(name) for name, taken in figures.items() if case in taken]
        drawn = axes.barh(places, values, height * 0.92, label=case, color=colours, alpha=1 - 0.25 * number)
        axes.bar_label(
            drawn, [f"{value:.3g}" + (f"  {case}" if len(cases) > 1 else "") for value in values], padding=3, size=8
        )
    axes.set_yticks([row + height * (len(cases) - 1) / 2 for row in range(len(figures))], list(figures))
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same figures give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "roost"}):
        fig.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(fig)


def _colour(name: str) -> str:
    return next((colour for start, colour in COLOURS.items() if name.startswith(start)), "#64748b")
