"""The one exception for input that cannot be used: says what came, what is allowed and what to do."""


class InputError(ValueError):
    """A user's file, setting or tensor cannot be used; the message is meant to be read as it is."""
