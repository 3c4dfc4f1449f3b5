"""An engine is the sum of its parts, and is measured by itself or by what stands in for it."""

from trtasr.results import Built, Engine, LayerRow

ENCODER, DECODER = (LayerRow(name, "gemm", (), (), ()) for name in ("e", "d"))
PARTS = (Built("encoder.plan", 5, (ENCODER,)), Built("decoder.plan", 7, (DECODER,)))


def test_files_sizes_and_layers_are_those_of_all_parts_in_order():
    engine = Engine("t4", "int8 t4", PARTS)
    assert engine.paths == ("encoder.plan", "decoder.plan")
    assert engine.size_bytes == 12
    assert engine.layers == (ENCODER, DECODER)


def test_what_is_measured_runs_here():
    graphs = ("encoder.qdq.onnx", "decoder.qdq.onnx")
    assert Engine("t4", "int8 t4", PARTS, graphs).measured == ("encoder.plan", "decoder.plan")
    assert Engine("t4", "int8 t4", PARTS, graphs, stand_in="ONNX Runtime").measured == graphs


def test_a_plan_without_masks_is_run_and_counted_beside_the_one_with():
    whole = Built("t4/model.plan", 5, (ENCODER,), unmasked=Built("t4/model.unmasked.plan", 4, (DECODER,)))
    engine = Engine("t4", "int8 t4", (whole,), ("model.qdq.onnx",))
    assert engine.paths == ("t4/model.plan",)
    assert engine.measured == ("t4/model.plan", "t4/model.unmasked.plan")
    assert (engine.size_bytes, engine.layers) == (9, (ENCODER,))
    assert Engine("t4", "int8 t4", (whole,), ("model.qdq.onnx",), stand_in="ORT").measured == ("model.qdq.onnx",)
