"""What Keras wants of a model beyond its call: training, data, callbacks, saving."""
