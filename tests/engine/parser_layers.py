"""Layers as the ONNX parser of TensorRT writes them."""

from trtasr.engine.parsed import ParsedLayer


def one_dimensional(numbers, node, reads, writes):
    """A convolution over time, between two layers of the parser's own; `numbers` end their names."""
    axes, wide, narrow = (
        f"axes{numbers[0]}",
        f"ONNXTRT_unsqueezeTensor{numbers[0]}",
        f"ONNXTRT_squeezeTensor{numbers[1]}",
    )
    return [
        ParsedLayer(axes, "", (), (f"{axes}_output",)),
        ParsedLayer(wide, "", (reads, f"{axes}_output"), (f"{wide}_output",)),
        ParsedLayer(node, node, (f"{wide}_output",), (f"{node}_output",)),
        ParsedLayer(narrow, "", (f"{node}_output", f"{axes}_output"), (writes,)),
    ]


def single(node, reads, writes):
    """Any other node."""
    return [ParsedLayer(node, node, (reads,), (writes,))]
