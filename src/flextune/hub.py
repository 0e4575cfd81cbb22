"""The Hub, when there is one: cut off from the network, what is cached still loads and the rest fails at once.

huggingface_hub retries an unreachable host for half a minute a file. One look at the network beforehand decides.
"""

import os
import re
import socket
from functools import cache
from urllib.parse import urlsplit


@cache
def online() -> bool:
    """True when the Hub answers; if not, the Hugging Face libraries are put into their offline mode.

    `HF_HUB_OFFLINE=1` answers without a look at the network; behind a proxy the proxy is trusted.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=5).close()
    except OSError:
        _go_offline()
        return False
    return True


def reason(error: Exception) -> str:
    r"""What the Hub says of an error, in one line: not the status alone, with which its libraries begin.

    >>> reason(OSError("401 Client Error. (Request ID: x)\n\nCannot access gated repo.\nPlease log in."))
    'Cannot access gated repo'
    """
    lines = str(getattr(error, "server_message", None) or error).strip().splitlines() or [type(error).__name__]
    telling = [line for line in lines if line.strip() and not re.match(r"\d{3} (Client|Server) Error", line)]
    return (telling or lines)[0].rstrip(".")


def _go_offline() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_OFFLINE = True
