"""Both graphs of an encoder-decoder quantized for a target, as files."""

import onnx

from trtasr.graph.own_part import own_part
from trtasr.targets.place import place


def placed_pair(graphs, table, target, folder):
    """Write both graphs; the encoder's path."""
    folder.mkdir()
    for path in (graphs.encoder, graphs.decoder):
        fp32 = onnx.load(path)
        onnx.save(place(fp32, own_part(table, fp32), target, []).model, folder / path.name)
    return folder / graphs.encoder.name
