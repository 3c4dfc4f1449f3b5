"""The bundled small checkpoints and the scripts that made them."""
