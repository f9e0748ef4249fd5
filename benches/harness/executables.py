"""Finds the workspace's executables: by environment variable, else where cargo puts them, else by building them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class MissingExecutable(RuntimeError):
    """Something to run is not there; the message says how to get it."""


def _built(variable: str, package: str, name: str) -> Path:
    given = os.environ.get(variable)
    if given:
        if not os.access(given, os.X_OK):
            raise MissingExecutable(f"{variable} names {given}, which is no executable")
        return Path(given).resolve()
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = target / "release" / name
    if not path.exists():
        cargo = shutil.which("cargo")
        if cargo is None:
            raise MissingExecutable(f"{path} does not exist and cargo is not on PATH; build it, or set {variable}")
        print(f"building {name} ...", file=sys.stderr)
        subprocess.run([cargo, "build", "--release", "-p", package, "--bin", name], cwd=ROOT, check=True)
    return path


def roost() -> Path:
    return _built("ROOST_BIN", "roost-server", "roost")


def s3_proxy() -> Path:
    return _built("S3_PROXY_BIN", "roost-s3-proxy", "s3-proxy")


def bench(name: str) -> Path:
    """One of this package's own executables."""
    return _built(f"BENCH_{name.upper()}_BIN", "roost-benches", f"bench-{name}")


def from_pypi(name: str) -> Path:
    """A program that a Python package brought: beside this interpreter first."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise MissingExecutable(f"{name} is missing: pip install -r {ROOT.name}/benches/requirements.txt")
    return Path(path)


def shown(path: Path) -> str:
    """`path` as a person would type it: relative where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)
