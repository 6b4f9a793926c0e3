"""What other libraries for PyTorch expect of a model."""
