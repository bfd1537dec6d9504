"""Client of an OpenAI-compatible endpoint.

`endpoint` sends requests and handles failures, `wire` knows the forms of requests and answers, `rate_limit` how many
requests may be in flight and how long to wait.
"""
