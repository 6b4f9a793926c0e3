"""The parameters of GPT-2: names and layouts in every framework, and what fills them."""
