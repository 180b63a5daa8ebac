"""Errors that a user can act on: one sentence that names the file and the way out."""


class InputError(Exception):
    """Something the user gave cannot be used; the message is one sentence that names it and says what to do.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


class OutputError(InputError):
    """A result cannot be written: it exists already, its folder is missing, or the disk is full."""
