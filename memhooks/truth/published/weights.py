"""Can the weights be had? Said at once, where a hub client would retry for half a minute."""

import os
import socket
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

from huggingface_hub import try_to_load_from_cache

from memhooks.errors import InputError
from memhooks.model.loading import BUNDLED

_SECONDS = 3.0
_HUB = "https://huggingface.co"


def check_weights(source: str) -> None:
    """Refuse a hub name whose files are not cached while the hub cannot be reached.

    Raises:
        InputError: that is so; the message says what to do.
    """
    if source in BUNDLED or Path(source).exists() or source.count("/") != 1 or source.startswith("."):
        return  # not a hub name: loading itself answers at once
    if isinstance(try_to_load_from_cache(source, "config.json"), str) or _reachable():
        return
    raise InputError(
        f"the weights of {source} cannot be had: no such folder, not in the cache, and the hub cannot be reached; "
        "fetch config.json and model.safetensors elsewhere and give their folder as --model, try the pipeline with "
        "--stand-in, or compare the rows that need no weights with --only 1,2,3"
    )


def _reachable() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        return False
    if "https" in getproxies():
        return True  # the proxy knows
    address = urlparse(os.environ.get("HF_ENDPOINT", _HUB))
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=_SECONDS).close()
    except OSError:
        return False
    return True
