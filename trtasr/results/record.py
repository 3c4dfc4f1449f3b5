"""One record: everything that a compile built and measured, as ``bundle.json`` has it."""

SIDECAR = "bundle.json"
