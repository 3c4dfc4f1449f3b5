"""Plain-text form of the roofline estimate."""

from collections.abc import Sequence

from trtasr.report.table import align
from trtasr.results import Bound, Roofline

LABELS = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8 by the T4's rules"}
SHOWN = 10


def roofline_text(estimate: Roofline) -> str:
    """Totals, the slowest layers, what memory bounds, and what INT8 depthwise kernels would change."""
    totals = estimate.totals_ms
    tokens = f", {estimate.tokens} tokens assumed for each" if estimate.tokens else ""
    shape = f"{estimate.seconds:g} s of audio, batch {estimate.batch}{tokens}"
    lines = [
        f"ESTIMATE for a Tesla T4, {shape}: lower bounds of the layers with weights (not of products in attention), "
        "from peak arithmetic and memory bandwidth, nothing measured",
        totals_table(estimate),
        "",
        "slowest layers of the INT8 engine:",
        slowest_table(estimate.int8),
        "",
        memory_sentence(estimate.int8),
        depthwise_sentence(estimate.int8, totals),
    ]
    return "\n".join(lines)


def totals_table(estimate: Roofline) -> str:
    """Lower bounds of the whole graph in each precision, as a table."""
    rows = [["estimate", "ms", "memory-bound", "audio s per s"]]
    columns = {"fp32": estimate.fp32, "fp16": estimate.fp16, "int8": estimate.int8}
    for name, bounds in columns.items():
        total = estimate.totals_ms[name]
        share = sum(item.milliseconds for item in bounds if item.memory_bound) / total if total else 0.0
        speed = 1e3 * estimate.batch * estimate.seconds / total if total else 0.0
        rows.append([LABELS[name], f"{total:.3f}", f"{100 * share:.0f} %", f"{speed:.0f}"])
    return align(rows, right={1, 2, 3})


def slowest_table(bounds: Sequence[Bound]) -> str:
    """The layers that take longest, as a table."""
    rows = [["layer", "precision", "us", "bound by"]]
    for item in sorted(bounds, key=lambda item: -item.milliseconds)[:SHOWN]:
        rows.append(
            [
                item.node,
                item.precision.upper(),
                f"{1e3 * item.milliseconds:.1f}",
                "memory" if item.memory_bound else "arithmetic",
            ]
        )
    return align(rows, right={2})


def memory_sentence(bounds: Sequence[Bound]) -> str:
    """How many layers wait for memory rather than for arithmetic."""
    limited = [item for item in bounds if item.memory_bound]
    depthwise = sum(item.depthwise for item in limited)
    return (
        f"{len(limited)} of {len(bounds)} layers are memory-bound ({depthwise} of them depthwise): "
        "faster arithmetic does not help them, fewer bytes do"
    )


def depthwise_sentence(bounds: Sequence[Bound], totals: dict[str, float]) -> str:
    """What an INT8 kernel for depthwise convolutions would gain."""
    if not any(item.depthwise for item in bounds):
        return "no depthwise convolutions: nothing is kept from INT8 for lack of such a kernel"
    gain = totals["int8"] - totals["int8_depthwise"]
    share = 100 * gain / totals["int8"] if totals["int8"] else 0.0
    return (
        f"an INT8 depthwise kernel, which sm_75 lacks, would take off {gain:.3f} of {totals['int8']:.3f} ms "
        f"({share:.0f} %)"
    )
