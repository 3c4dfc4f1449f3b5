"""A pycuda whose GPU is host memory; see driver.py."""
