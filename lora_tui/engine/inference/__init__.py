"""Using a model: decoding, evaluation by generation, and chat."""
