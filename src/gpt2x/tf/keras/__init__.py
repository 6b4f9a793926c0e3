"""Training with Keras: fit, losses, data, callbacks, optimizers, and Keras's own files."""
