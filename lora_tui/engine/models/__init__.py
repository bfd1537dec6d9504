"""Base models and adapters: finding, sizing and loading them.

Without torch: `builtin` fetches the model that needs no account, `hub_info` says what a model name means,
`architecture` counts parameters, `activation_memory` bytes; `adapter_source` finds adapters.
With torch: `base_model` and `adapters` load both, under the `build_lock`.
"""
