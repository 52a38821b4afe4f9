"""An app configured by environment variables, for the ``flask redis`` commands."""

from __future__ import annotations

from flask import Flask

from flask_and_redis import RedisManager

app = Flask("operate")
app.config.from_prefixed_env()
manager = RedisManager(app)
