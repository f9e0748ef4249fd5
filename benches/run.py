"""Runs benchmarks and writes what they say to benches/RESULTS.md, one section each: `python benches/run.py serve cold`.

Without names all of them run. Flags behind `--` go to each: `python benches/run.py serve cold -- --rounds 7`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import executables, report

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
NAMES = ("serve", "local", "small", "projection", "disk", "cold", "decode", "plan", "ray_data")
HEAD = """# What was measured

Each section is written by `python benches/run.py NAME`, and says when, at which commit and on what class of
machine. GB are Arrow bytes. A ratio is the median of the rounds' ratios; the readers of a ratio took turns in one run.
Compare figures only within a section.
"""


def run(name: str, flags: list[str]) -> tuple[str, int]:
    """One benchmark; answers its section and exit code (1: a bar was missed)."""
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as lines:
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", lines.name, *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        cases = [json.loads(line) for line in lines.read().splitlines()]
        if done.returncode not in (0, 1) or not cases:
            raise SystemExit(f"{name} failed with exit code {done.returncode}")
    table = "\n".join(line for line in done.stdout.splitlines() if line.startswith("|"))
    charts = "\n".join(line for line in done.stdout.splitlines() if line.startswith("!["))
    missed = [line for line in done.stdout.splitlines() if line.startswith("bar missed: ")]
    machine, rounds = cases[0]["machine"], cases[0]["rounds"]
    shown = " ".join(["python", f"benches/{name}.py", *flags])
    facts = f"`{shown}`, {datetime.date.today()}, commit {commit()}, {report.describe(machine)}, {rounds} rounds."
    if note := report.busy_note(machine["busy_cores_at_start"], machine["cores"]):
        facts += f" {note}"
    section = f"## {name}\n\n{facts}\n\n{table}\n"
    if charts:
        section += f"\n{charts}\n"
    if missed:
        section += "\n" + "\n".join(f"- {line}" for line in missed) + "\n"
    return section, done.returncode


def commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=executables.ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "none") + (" with changes" if git("status", "--porcelain") else "")


def merge(old: str, sections: dict[str, str]) -> str:
    """`old` with the sections that were measured anew; the others stay, while there are such benchmarks."""
    kept = {
        m[1]: m[0].rstrip() + "\n" for m in re.finditer(r"^## (\w+)\n.*?(?=^## |\Z)", old, re.DOTALL | re.MULTILINE)
    }
    kept |= sections
    return "\n".join([HEAD, *(kept[name] for name in NAMES if name in kept)])


def main() -> int:
    arguments, flags = sys.argv[1:], []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, flags = arguments[:cut], arguments[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)} (default: all)")
    names = parser.parse_args(arguments).names
    if unknown := [n for n in names if n not in NAMES]:
        parser.error(f"there is no benchmark {unknown[0]}: choose from {', '.join(NAMES)}")
    code = 0
    for name in names:
        section, missed = run(name, flags)
        code = max(code, missed)
        old = RESULTS.read_text() if RESULTS.exists() else ""
        RESULTS.write_text(merge(old, {name: section}))
    return code


if __name__ == "__main__":
    sys.exit(main())
