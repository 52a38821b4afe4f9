"""One format for all lines of the log."""

from __future__ import annotations

import logging

from flask.logging import default_handler
from flask.logging import has_level_handler

# Each worker process tells about an outage itself, so each line has its process.
FORMAT = "[%(asctime)s] [%(process)d] %(levelname)s %(name)s: %(message)s"


def set_up() -> None:
    """Let Flask-And-Redis log where Flask does.

    Without this, Python prints its warnings and errors, but neither time nor level.
    """
    default_handler.setFormatter(logging.Formatter(FORMAT))
    logger = logging.getLogger("flask_and_redis")

    # If the server has set up the log, this is not needed.
    if not has_level_handler(logger):
        logger.addHandler(default_handler)
