"""The Hub, when there is one: cut off from the network, what is cached still loads and the rest fails at once.

huggingface_hub retries an unreachable host for half a minute a file. One look at the network beforehand decides.
"""

import os
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


def _go_offline() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_OFFLINE = True
