"""Plain data and protocols that the app and the engine share; nothing in here computes."""
