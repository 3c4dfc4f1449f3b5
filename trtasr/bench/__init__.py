"""Latency and word error rate."""
