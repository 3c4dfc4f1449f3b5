"""Write a graph of any size: beyond what one protobuf message can hold, the weights lie in a file beside it."""

from pathlib import Path

import onnx

LARGEST = 1_900_000_000  # bytes; protobuf ends at 2^31
SMALL = 1024  # bytes; smaller constants stay in the graph: shapes and axes decide what it computes


def store(model: onnx.ModelProto, path: Path) -> None:
    """Write ``path``, and ``<path>.data`` with its weights where they are too large for one file.

    Args:
        model: graph; not changed.
        path: file to write.
    """
    if sum(len(item.raw_data) for item in model.graph.initializer) <= LARGEST:
        onnx.save(model, path)
        return
    weights = path.with_name(f"{path.name}.data")
    weights.unlink(missing_ok=True)  # onnx appends
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=weights.name,
        size_threshold=SMALL,
    )
    onnx.load_external_data_for_model(model, str(path.parent))  # saving has taken the values out
