"""Plain data and protocols that the app and the engine share: `backend` is what the app asks, `reply` what a chat says.

Nothing in here computes, and nothing heavy is imported.
"""
