"""Models by name from a hub: its client kept quiet, its failures in one sentence."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep the hub client's retry messages off the terminal; its final error is reported by us."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def no_download(source: str) -> str:
    """The sentence for weights that a hub did not give."""
    return (
        f"{source}: its weights could not be downloaded and are not in the local cache; check the name and "
        "the network, or pass --weights FILE"
    )


def first_line(error: BaseException) -> str:
    """The first line of a library's error message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
