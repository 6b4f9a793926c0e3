"""Models as SavedModels, for TensorFlow Serving."""

from gpt2x.tf.serving.export import TextGenerator
from gpt2x.tf.serving.functions import ServingMixin, write_saved_model

__all__ = ["TextGenerator", "ServingMixin", "write_saved_model"]
