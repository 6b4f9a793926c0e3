"""The parameters of GPT-2: names and layouts in every framework, and how they are loaded."""
