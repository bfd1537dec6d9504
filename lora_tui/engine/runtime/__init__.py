"""The engine's thread, and what it gives every job: context, commands, progress, process-wide settings."""
