"""Files: read whole when they may come from anywhere, written whole or not at all."""
