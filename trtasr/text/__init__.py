"""Tokens, greedy CTC decoding and text normalization."""
