"""An OpenAI-compatible endpoint: requests, rate limits, what its replies and refusals mean."""
