"""Forecasts of what a configuration will do, without torch or network.

`forecast` joins `training` (data, steps, memory, time) and `generation` (files, calls, tokens, dollars) with warnings;
`types` holds what they return.
"""
