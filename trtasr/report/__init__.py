"""Tables and HTML from result dataclasses; computes nothing."""
