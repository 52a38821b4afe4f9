from flask import Flask
from flask import jsonify

from flask_and_redis import current_redis
from flask_and_redis import RedisManager

manager = RedisManager()
cache = manager.get("CACHE")


def create_app():
    app = Flask(__name__)
    app.config.from_prefixed_env()
    manager.init_app(app)

    @app.get("/")
    def index():
        if (page := cache.get("page")) is None:
            page = f"Report {current_redis.incr('reports')}"
            cache.set("page", page, ex=10)

        return page

    @app.get("/healthz")
    def healthz():
        pings = manager.ping(timeout=0.5)
        failed = [ping for ping in pings.values() if ping.required and not ping.ok]
        return jsonify(pings), 200 if pings and not failed else 503

    @app.get("/livez")
    def livez():
        return "", 204

    return app
