"""Rounds, medians and what is printed of them: one JSON line a case for machines, one table for people."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import executables

Sample = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Bar:
    """The least that the ratio `ours / theirs` of `figure` must reach, or the most that it may be."""

    ours: str
    theirs: str
    figure: str
    least: float | None = None
    most: float | None = None


@dataclasses.dataclass(frozen=True)
class Limit:
    """The most that `figure` of `reader` may be."""

    reader: str
    figure: str
    most: float


def rounds(count: int, readers: Mapping[str, Callable[[], Sample]], note: str) -> dict[str, list[Sample]]:
    """Runs every reader once a round, so that a machine that slows down slows all alike.

    Each round starts with another reader.
    """
    names = list(readers)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for i in range(count):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            print(
                f"\r\033[K{note}: round {i + 1} of {count}, {name}" if sys.stderr.isatty() else "",
                end="",
                file=sys.stderr,
            )
            samples[name].append(readers[name]())
    print("\r\033[K" if sys.stderr.isatty() else "", end="", file=sys.stderr, flush=True)
    return samples


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _significant(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: _significant(v) for k, v in value.items()}
    return value


def _ratio(goal: Bar | Limit, samples: Mapping[str, list[Sample]]) -> tuple[str, dict[str, object]]:
    """A goal's name, and its ratio with whether the bar was met, if it has one."""
    if isinstance(goal, Limit):
        ratio = _spread([s[goal.figure] / goal.most for s in samples[goal.reader]])
        return f"{goal.reader} / {_shown(goal.most)} {unit(goal.figure)}", _judged(ratio, most=1.0)
    pairs = zip(samples[goal.ours], samples[goal.theirs], strict=True)
    ratio = _spread([_quotient(ours[goal.figure], theirs[goal.figure]) for ours, theirs in pairs])
    name = f"{goal.ours} / {goal.theirs}"
    if goal.figure != next(iter(samples[goal.ours][0])):
        name += f", {unit(goal.figure)}"
    return name, _judged(ratio, goal.least, goal.most)


def _quotient(ours: float, theirs: float) -> float:
    # The kernel counts CPU time in hundredths of a second: a short read may take none.
    return ours / theirs if theirs else math.inf


def _judged(ratio: dict[str, float], least: float | None = None, most: float | None = None) -> dict[str, object]:
    if least is not None:
        return {**ratio, "bar": least, "bar_is": "least", "met": ratio["median"] >= least}
    if most is not None:
        return {**ratio, "bar": most, "bar_is": "most", "met": ratio["median"] <= most}
    return dict(ratio)


class Report:
    """Collects the cases of one benchmark and prints them."""

    def __init__(self, name: str, json_path: Path | None) -> None:
        self.name = name
        self._json = json_path.open("a") if json_path else sys.stdout
        self._rows: list[list[str]] = []
        self._busy = busy_cores()
        self.missed: list[str] = []

    def case(
        self,
        case: str,
        samples: Mapping[str, list[Sample]],
        goals: Sequence[Bar | Limit],
        facts: Mapping[str, object],
    ) -> None:
        """Adds a case. A ratio is the median of the rounds' ratios: what moved the whole machine drops out."""
        figures = {
            name: {figure: _spread([s[figure] for s in taken]) for figure in taken[0]}
            for name, taken in samples.items()
        }
        ratios = dict(_ratio(goal, samples) for goal in goals)
        for pair, ratio in ratios.items():
            if not ratio.get("met", True):
                self.missed.append(
                    f"{case}: {pair} is {ratio['median']:.2f}, the bar is at {ratio['bar_is']} {ratio['bar']}"
                )
        line = {
            "name": self.name,
            "case": case,
            "figures": figures,
            "ratios": ratios,
            "rounds": len(next(iter(samples.values()))),
            "facts": dict(facts),
            "machine": {**machine(), "busy_cores_at_start": self._busy},
        }
        print(json.dumps(_significant(line)), file=self._json, flush=True)
        self._add_rows(case, figures, ratios)

    def _add_rows(
        self,
        case: str,
        figures: Mapping[str, Mapping[str, Mapping[str, float]]],
        ratios: Mapping[str, Mapping[str, object]],
    ) -> None:
        for i, (name, taken) in enumerate(figures.items()):
            (first, spread), *others = taken.items()
            parts = [f"{_shown(spread['median'])} {unit(first)} ({_shown(spread['min'])}–{_shown(spread['max'])})"]
            parts += [f"{_shown(s['median'])} {unit(figure)}" for figure, s in others]
            self._rows.append([case if i == 0 else "", name, ", ".join(parts)])
        for pair, ratio in ratios.items():
            bar = ""
            if "bar" in ratio:
                at = "≥" if ratio["bar_is"] == "least" else "≤"
                bar = f", bar {at} {ratio['bar']}: {'met' if ratio['met'] else 'MISSED'}"
            self._rows.append(["", pair, f"**{ratio['median']:.2f} ×** ({ratio['min']:.2f}–{ratio['max']:.2f}){bar}"])

    def table(self) -> str:
        """Markdown: medians; of the first figure and of ratios also the least and the most of the rounds."""
        return table(["case", "reader", "median (min–max)"], self._rows)

    def finish(self) -> int:
        """Prints the table; the exit code says whether every bar was met."""
        out = sys.stderr if self._json is sys.stdout else sys.stdout
        print(f"\n{self.name} on {describe(machine())}\n\n{self.table()}", file=out)
        if note := busy_note(self._busy, os.cpu_count() or 1):
            print(f"\n{note}", file=out)
        for missed in self.missed:
            print(f"bar missed: {missed}", file=out)
        return 1 if self.missed else 0


def busy_cores(seconds: float = 0.5) -> float:
    """How many cores are at work now, before the benchmark is: load averages remember the one before."""

    def ticks() -> tuple[int, int]:
        line = Path("/proc/stat").read_text().splitlines()[0]
        user, nice, system, idle, wait, *others = map(int, line.split()[1:9])
        return user + nice + system + sum(others), idle + wait

    busy, idle = ticks()
    time.sleep(seconds)
    busy, idle = (after - before for after, before in zip(ticks(), (busy, idle), strict=True))
    return (os.cpu_count() or 1) * busy / max(1, busy + idle)


def busy_note(busy: float, cores: int) -> str:
    """What to say of a machine that had something else to do; nothing of one that had not."""
    if busy < cores / 5:
        return ""
    return (
        f"The machine was busy ({busy:.1f} of {cores} cores before the start): measure again on a quiet one. Load"
        " shifts ratios too."
    )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def unit(figure: str) -> str:
    """How a figure's name reads as a unit."""
    return {
        "gb_per_s": "GB/s",
        "rows_per_s": "rows/s",
        "seconds": "s",
        "server_cpu_s_per_gb": "server CPU-s/GB",
        "client_cpu_s_per_gb": "client CPU-s/GB",
        "requests_per_s": "requests/s",
        "p50_ms": "ms p50",
        "p99_ms": "ms p99",
        "disk_mb": "MB on disk",
        "fetch_s": "s fetching",
        "decode_s": "s decoding",
        "write_s": "s writing",
        "cpu_s_per_gb": "CPU-s/GB",
        "cpu_s": "CPU-s",
        "origin_mb": "MB from origin",
        "origin_requests": "requests",
        "peak_mib": "MiB peak",
        "page_mb": "MB answered",
        "first_batch_ms": "ms to the first batch",
        "p99_wait_ms": "ms p99 wait",
        "spilled_mib": "MiB spilled",
        "origin_cpu_s": "CPU-s of the origin",
        "utilisation_percent": "% utilisation",
        "waiting_percent": "% waiting",
    }.get(figure, figure)


def table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * w for w in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in lines)


def machine() -> dict[str, object]:
    """The machine's class: nothing that tells one machine from another of its kind."""
    return {"cpu": _cpu(), "cores": os.cpu_count() or 1, "memory_gib": _memory_gib(), "system": platform.system()}


def describe(facts: Mapping[str, object]) -> str:
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def arguments(description: str) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of each case; the median is shown (default %(default)s)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="append the JSON lines to FILE, not to standard output"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=executables.ROOT / ".cache/bench",
        help="where data sets are kept (default: .cache/bench)",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="TPC-H scale factor (default %(default)s)")
    parser.add_argument("--image-mb", type=int, default=1000, help="megabytes of images (default %(default)s)")
    return parser
