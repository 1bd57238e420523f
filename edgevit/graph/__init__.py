"""The Program, an exported graph with its card, and where it comes from."""
