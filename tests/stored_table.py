"""Scale tables as a file or a bundle holds them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from trtasr.pipeline.lock import read_scales, with_weights
from trtasr.quant.scales import StoredTable, table_of
from trtasr.values import ScaleTable


def read_table(path: Path) -> ScaleTable:
    """A table with the corrected weights beside it, if it names any."""
    return with_weights(path, *read_scales(path))


def table_from_json(data: Mapping[str, Any]) -> ScaleTable:
    """What `table_to_json` gave."""
    return table_of(msgspec.convert(data, StoredTable))
