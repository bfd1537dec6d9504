"""Exceptions for errors a user can cause, each with the exit status it ends the program with.

A message is one or two lines: what is wrong, where (file, line, key), what to do. Everything else that is raised is a
bug of ours; the command line reports it by its log file. Small and apart because nearly every module imports it.
"""

from lora_tui.secrets import redact


class LoraTuiError(Exception):
    """The run failed for a reason that the message explains, without secrets whoever shows or stores it. Exit status 1.

    What a server, a library or the system said may be part of the message, keys and all.
    """

    exit_status = 1

    def __str__(self) -> str:
        return redact(super().__str__())


class UsageError(LoraTuiError):
    """The command line or the configuration is wrong. Exit status 2."""

    exit_status = 2


class ConfigError(UsageError):
    """A configuration key is unknown, of the wrong type, or impossible."""


class OtherRunError(UsageError):
    """What a run is to go on with is not what it began with, so it would be another run. Exit status 2."""


class UnreachableError(LoraTuiError):
    """An endpoint, model or key cannot be reached or is refused. Exit status 3."""

    exit_status = 3
