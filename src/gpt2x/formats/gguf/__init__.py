"""Formats of llama.cpp: GGUF."""
