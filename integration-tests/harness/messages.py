"""Python classes of `proto/roost/v1/roost.proto`, generated on import into a directory that is then forgotten.

The scenarios speak the protocol from its definition alone, so that they also check the project's own Python client.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from grpc_tools import protoc

PROTO = Path(__file__).parents[2] / "proto"


def generate() -> ModuleType:
    with tempfile.TemporaryDirectory() as out:
        # Under another package name than the client's `roost`.
        code = protoc.main(["protoc", f"-I{PROTO}", f"--python_out={out}", "roost/v1/roost.proto"])
        if code:
            raise RuntimeError(f"protoc refused {PROTO}/roost/v1/roost.proto")
        spec = importlib.util.spec_from_file_location("roost_v1_messages", Path(out) / "roost/v1/roost_pb2.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module


pb = generate()
"""The messages: `pb.PlanRequest` and the others."""
