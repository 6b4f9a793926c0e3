"""The files that hold weights: one module per format reads (and writes) them."""
