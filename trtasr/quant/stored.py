"""The arrays of a scale table that JSON is too large for, by name: corrected weights and biases, products."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trtasr.quant.scales import along, quantize_weight
from trtasr.values import FloatArray, Product, ScaleTable, WeightScale

CODES, SCALES, BIAS, SMOOTHING = ENDS = "|codes", "|scales", "|bias", "|smoothing"  # of the names of a product's arrays
MOST = 1e30  # of a number; float32 holds 127 times it

AnyArray = npt.NDArray[Any]


def arrays_of(table: ScaleTable) -> dict[str, AnyArray]:
    """Codes and biases of what is corrected; of every product ``<layer>|codes``, ``|scales`` and so on."""
    found: dict[str, AnyArray] = {}
    for name, values in table.corrected.items():
        entry = table.weights.get(name)
        found[name] = np.asarray(quantize_weight(values, entry.scales, entry.axis) if entry else values, order="C")
    for layer, product in table.products.items():
        arrays = product.codes, product.scales, product.bias, product.smoothing
        found |= {f"{layer}{end}": np.asarray(values, order="C") for end, values in zip(ENDS, arrays, strict=True)}
    return found


def with_arrays(table: ScaleTable, arrays: Mapping[str, AnyArray]) -> ScaleTable:
    """The table with what `arrays_of` has made of it.

    Raises:
        ValueError: an array of another kind or shape, or a product that lacks one.
    """
    layers = {name.removesuffix(CODES) for name in arrays if name.endswith(CODES)}
    own = {f"{layer}{end}" for layer in layers for end in ENDS}
    if missing := sorted(own - arrays.keys()):
        raise ValueError(f"{missing[0]} is missing")
    products = {layer: checked(layer, *product_arrays(layer, arrays)) for layer in sorted(layers)}
    corrected = {
        name: corrected_values(name, values, table.weights.get(name))
        for name, values in arrays.items()
        if name not in own
    }
    return replace(table, corrected=corrected, products=products)


def product_arrays(layer: str, arrays: Mapping[str, AnyArray]) -> Iterator[AnyArray]:
    """Codes, scales, bias and smoothing of a layer."""
    return (arrays[f"{layer}{end}"] for end in ENDS)


def checked(layer: str, codes: AnyArray, scales: AnyArray, bias: AnyArray, smoothing: AnyArray) -> Product:
    """A product whose numbers can be used.

    Raises:
        ValueError: they cannot.
    """
    if codes.dtype != np.int8 or codes.ndim < 2 or scales.ndim != 1 or scales.size not in codes.shape:
        raise ValueError(f"{layer}: codes are not INT8, or their scales not one per output channel")
    for values in (scales, bias, smoothing):
        if values.dtype != np.float32 or not np.isfinite(values).all():
            raise ValueError(f"{layer}: scales, bias or smoothing are not finite float32 numbers")
    if not ((scales > 0) & (scales < MOST)).all() or bias.shape not in ((0,), scales.shape):
        raise ValueError(f"{layer}: a scale is not positive or too large, or the bias not one per output channel")
    if not ((smoothing >= 1) & (smoothing < MOST)).all() or smoothing.ndim != 1:
        raise ValueError(f"{layer}: a factor of smoothing is below 1 or too large")
    return Product(codes, scales, bias, smoothing)


def corrected_values(name: str, stored: AnyArray, entry: WeightScale | None) -> FloatArray:
    """float32 values of a stored array: a weight's codes times its scales, or a bias as it is.

    Args:
        name: of the initializer.
        stored: INT8 codes of a weight, float32 [O] of a bias.
        entry: scales, if the table has them: it is a weight then.

    Raises:
        ValueError: neither.
    """
    if entry is None:
        if stored.dtype != np.float32 or stored.ndim != 1 or not np.isfinite(stored).all():
            raise ValueError(f"{name}: no weight of the table, and no finite float32 bias")
        return stored
    if stored.dtype != np.int8 or entry.scales.shape != stored.shape[entry.axis : entry.axis + 1]:
        raise ValueError(f"{name}: not INT8 codes of the table's {entry.scales.size} channels")
    return stored * along(entry.scales, entry.axis, stored.ndim)
