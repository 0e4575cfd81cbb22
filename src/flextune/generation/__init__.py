"""Generation: completions of a benchmark's problems by a model, with or without an adapter."""
