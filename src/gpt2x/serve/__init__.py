"""A server with OpenAI's API, over batches of texts that are written together."""
