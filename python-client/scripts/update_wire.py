"""Writes the protocol's descriptor and its types into the package. Run it after a change of `roost.proto`.

    python scripts/update_wire.py [PATH OF roost.proto]

Needs grpcio-tools (`pip install grpcio-tools`).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet

HERE = Path(__file__).resolve().parent
PROTO = HERE.parents[1] / "proto" / "roost" / "v1" / "roost.proto"
PACKAGE = HERE.parent / "src" / "roost"

_STUBS_HEAD = '''\
"""Types of the messages of `roost.v1`. Written by `scripts/update_wire.py`."""

import builtins
from collections.abc import Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor
'''


def compile_proto(proto: Path) -> bytes:
    """Compiles `proto`: a serialised FileDescriptorSet."""
    from grpc_tools import protoc

    root = proto.parents[2]
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "set"
        code = protoc.main(["protoc", f"-I{root}", f"--descriptor_set_out={out}", str(proto.relative_to(root))])
        if code != 0:
            raise SystemExit(f"protoc failed on {proto} with exit code {code}")
        return out.read_bytes()


def stubs(descriptor: bytes) -> str:
    """The types of the messages in a FileDescriptorSet, clean under `mypy --strict`."""
    (file,) = FileDescriptorSet.FromString(descriptor).file
    enums = (f"{value.name}: int" for enum in file.enum_type for value in enum.value)
    messages = (line for message in file.message_type for line in _message(message))
    return _STUBS_HEAD + "".join(line + "\n" for line in chain(["", *enums] if file.enum_type else [], messages))


def _message(message: DescriptorProto) -> Iterator[str]:
    yield ""
    yield f"class {message.name}(Message):"
    arguments = []
    for field in message.field:
        item = _type(field)
        composite = field.type == FieldDescriptorProto.TYPE_MESSAGE
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            kind = "Composite" if composite else "Scalar"
            attribute, argument = f"Repeated{kind}FieldContainer[{item}]", f"Iterable[{item}] | None"
        else:
            attribute, argument = item, f"{item} | None"
        if field.name == "from":
            continue  # A keyword: read it with getattr, write it with setattr.
        yield f"    {field.name}: {attribute}"
        arguments.append(f"{field.name}: {argument} = ...")
    if not arguments:
        yield "    def __init__(self) -> None: ..."
        return
    yield "    def __init__("
    yield "        self,"
    yield "        *,"
    for argument in arguments:
        yield f"        {argument},"
    yield "    ) -> None: ..."


def _type(field: FieldDescriptorProto) -> str:
    if field.type == FieldDescriptorProto.TYPE_MESSAGE:
        return field.type_name.rpartition(".")[2]
    if field.type == FieldDescriptorProto.TYPE_ENUM:
        return "int"
    scalars = {
        FieldDescriptorProto.TYPE_STRING: "str",
        # Some messages have a field named `bytes`.
        FieldDescriptorProto.TYPE_BYTES: "builtins.bytes",
        FieldDescriptorProto.TYPE_BOOL: "bool",
        FieldDescriptorProto.TYPE_UINT32: "int",
        FieldDescriptorProto.TYPE_UINT64: "int",
    }
    return scalars[field.type]


if __name__ == "__main__":
    compiled = compile_proto(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTO)
    (PACKAGE / "roost.binpb").write_bytes(compiled)
    (PACKAGE / "_wire.pyi").write_text(stubs(compiled))
