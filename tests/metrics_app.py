"""The app of the docs page about metrics. The parent process uses Redis, too."""

from __future__ import annotations

import os
import typing as t

from flask import Flask
from prometheus_client import Counter

from docs.observability import metrics
from flask_and_redis import current_redis

requests = Counter("requests", "A metric of the app")
app: Flask = t.cast(t.Any, metrics).create_app()

with app.app_context():
    current_redis.set("parent", os.getpid())


@app.before_request
def count() -> None:
    requests.inc()
