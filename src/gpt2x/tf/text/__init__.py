"""The in-graph tokenizer, of core TensorFlow operations."""
