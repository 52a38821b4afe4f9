"""An app configured by environment variables, for the ``flask redis`` commands."""

from __future__ import annotations

import warnings

from flask import Flask

from flask_and_redis import RedisManager

# The commands are tested without any Redis, too.
warnings.filterwarnings("ignore", "No setting configures a Redis")

app = Flask("operate")
app.config.from_prefixed_env()
manager = RedisManager(app)
