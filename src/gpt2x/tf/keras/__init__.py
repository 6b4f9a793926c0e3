"""The models under Keras: forms of inputs, fit, losses, data, callbacks, optimizers, files."""
