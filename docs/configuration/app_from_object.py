import os

from flask import Flask

from flask_and_redis import RedisManager

manager = RedisManager()


def create_app():
    app = Flask(__name__)
    app.config.from_object(f"config.{os.environ.get('STAGE', 'Development')}")
    app.config.from_prefixed_env()  # for passwords: they override the classes
    manager.init_app(app)
    return app
