"""Methods and behaviour that other libraries for PyTorch expect of a model."""
