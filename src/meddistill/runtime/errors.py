"""The errors that a user can mend.

Every message says what was found, where, what was expected and how to mend it. The command line prints the
message without a traceback and leaves with :attr:`MeddistillError.exit_code`; any other exception is a bug.
"""


class MeddistillError(Exception):
    """Base of all errors that are the caller's to mend."""

    exit_code = 2


class InputError(MeddistillError):
    """A source, plan, argument or file that was handed in cannot be used as it is."""


class OutputError(MeddistillError):
    """A result could not be written: unwritable folder, full disk, or a file that must not be replaced."""


class VerificationError(MeddistillError):
    """A package or model file is broken, altered or hostile."""

    exit_code = 3
