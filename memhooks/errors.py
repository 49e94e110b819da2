"""What ends a command on purpose: input that cannot be used, and a run that was told when to stop."""


class InputError(ValueError):
    """A user's file, setting or tensor cannot be used; the message is meant to be read as it is.

    Example:
        >>> import memhooks
        >>> try:
        ...     memhooks.load_model("models/mine/neo")
        ... except memhooks.InputError as error:
        ...     print(error)
        no model folder at models/mine/neo; give a folder with config.json and model.safetensors,
        a hub name (owner/name), or 'organism'
    """


class Stopped(Exception):
    """A run reached the end of its time and kept what it has; run again, it goes on. The message is shown as it is."""


def in_short(error: BaseException) -> str:
    """A library's error on one line, cut to what fits into a message of ours."""
    return " ".join(str(error).split())[:160] or type(error).__name__
