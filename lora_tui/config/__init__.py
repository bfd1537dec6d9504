"""The configuration: one TOML file, strict, every key with its default, bounds and description.

- `models` has the keys, one class a section, `values` the types of value, `keys` all of them by dotted name.
- `written` tells which keys somebody has set, and which are left for a run to choose.
- `load` lays files, environment and ``--set`` over each other; `document` reads TOML with the line of every key;
  `problems` words what is refused, `advice` what will surprise.
- `save` changes keys in a file, `edit` its text; `reference` is the documented file; `explain` is for forms.
- `paths` are the user's folders.

Callers import from the module that defines a name, so that whoever only wants `paths` does not load pydantic. Nothing
in this package imports torch, transformers, openai or Textual.
"""
