"""An app with Flask-DebugToolbar, whose page repeats a command."""

from __future__ import annotations

import typing as t

from flask import Flask
from flask import render_template_string
from flask_debugtoolbar import DebugToolbarExtension

from flask_and_redis import RedisManager

PANELS = [
    "flask_debugtoolbar.panels.timer.TimerDebugPanel",
    "flask_debugtoolbar.panels.request_vars.RequestVarsDebugPanel",
    "flask_and_redis.contrib.debug_toolbar.RedisPanel",
]
BOOKS = ["Dune", "Emma", "Solaris", "Ulysses", "Walden"]

PAGE = """\
<!doctype html>
<html lang="en">
  <head>
    <title>Books</title>
    <style>body { font: 1.1em sans-serif; margin: 2em 240px 2em 3em; }</style>
  </head>
  <body>
    <h1>Books</h1>
    <ul>{% for book in books %}<li>{{ book }}</li>{% endfor %}</ul>
  </body>
</html>
"""


def create_app(url: str) -> Flask:
    """Create the app.

    :param url: The URL of a server, without a database.
    """
    app = Flask("books", static_folder=None)
    app.config.update(
        SECRET_KEY="not-secret",
        DEBUG_TB_ENABLED=True,
        DEBUG_TB_PANELS=PANELS,
        REDIS_URL=f"{url}/0",
        CACHE_URL=f"{url}/1",
        REDIS_DECODE_RESPONSES=True,
    )
    manager = RedisManager(app)
    DebugToolbarExtension(app)
    redis: t.Any = manager.get()
    cache = manager.get("CACHE")

    with app.app_context():
        for number, title in enumerate(BOOKS):
            redis.rpush("books", number)
            redis.hset(f"book:{number}", "title", title)

    @app.get("/")
    def index() -> str:
        cache.get("page:/")
        numbers = redis.lrange("books", 0, -1)
        # This should be a pipeline.
        books = [redis.hget(f"book:{number}", "title") for number in numbers]

        with redis.pipeline(transaction=False) as pipeline:
            pipeline.incr("views").get("motd")
            pipeline.execute()

        page = render_template_string(PAGE, books=books)
        cache.set("page:/", page, ex=60)
        return page

    @app.get("/empty")
    def empty() -> str:
        return render_template_string(PAGE)

    return app
