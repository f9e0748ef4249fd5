"""The messages of `roost.v1`, built at import from the committed descriptor `roost.binpb`.

Generated protobuf code works with a narrow band of protobuf versions; a descriptor works with all of them. The types
stand in `_wire.pyi`. Both files are written by `scripts/update_wire.py` and never by hand.
"""

from __future__ import annotations

from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def _load() -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files(__package__ or "roost").joinpath("roost.binpb").read_bytes()
    ).file
    # A pool of our own: another package in the process may carry another version of the same messages.
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindFileByName(files[-1].name)
    globals()["DESCRIPTOR"] = descriptor
    for name, message in descriptor.message_types_by_name.items():
        globals()[name] = message_factory.GetMessageClass(message)
    for enum in descriptor.enum_types_by_name.values():
        globals().update({value.name: value.number for value in enum.values})


_load()
