"""The one exception for input that cannot be used: says what came, what is allowed and what to do."""


class InputError(ValueError):
    """A user's file, setting or tensor cannot be used; the message is meant to be read as it is."""


def in_short(error: BaseException) -> str:
    """A library's error on one line, cut to what fits into a message of ours."""
    return " ".join(str(error).split())[:160] or type(error).__name__
