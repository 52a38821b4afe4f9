import os

from flask import Flask

from flask_and_redis import RedisManager

manager = RedisManager()


def create_app():
    app = Flask(__name__)
    app.config.from_prefixed_env()
    app.config["REDIS_URL"] = os.environ["REDIS_URL"]
    app.config["CACHE_URL"] = os.environ["HEROKU_REDIS_COPPER_URL"]
    manager.init_app(app)
    return app
