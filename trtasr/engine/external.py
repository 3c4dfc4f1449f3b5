"""Weights that an ONNX model keeps in other files."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import TensorProto


def external_files(model: Any) -> list[str]:
    """Names of the files that hold tensors of a model, as it spells them; an empty one where it gives none.

    Tensors are found wherever they are: initializers, attributes, subgraphs, functions.

    Args:
        model: onnx.ModelProto, its weights not loaded.
    """
    kept = (tensor for tensor in tensors(model) if tensor.data_location == TensorProto.EXTERNAL)
    return list(dict.fromkeys(name for tensor in kept for name in locations(tensor)))


def locations(tensor: Any) -> list[str]:
    """The file of an external tensor; all of them where it names more than one."""
    return [entry.value for entry in tensor.external_data if entry.key == "location"] or [""]


def tensors(message: Message) -> Iterator[Any]:
    """Every TensorProto inside a message."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if isinstance(value, Message) else value:
                yield from tensors(item)
