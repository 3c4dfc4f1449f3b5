"""Checkpoint readers: untrusted archives in, typed configuration and weights out."""
