"""Base models and adapters: where they are, what they are made of, and how they are loaded onto a device."""
