"""Acoustic models as torch modules; state-dict names are those of the original toolkits."""
