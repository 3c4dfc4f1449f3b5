"""The pipeline: from a recipe to a measured bundle, one stage per file; `compile` is the whole of it."""
