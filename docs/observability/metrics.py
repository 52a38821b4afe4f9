import os

from flask import Flask
from prometheus_client import CollectorRegistry
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client import generate_latest
from prometheus_client import REGISTRY
from prometheus_client.multiprocess import MultiProcessCollector

from flask_and_redis import current_redis
from flask_and_redis import RedisManager
from flask_and_redis.contrib.prometheus import RedisMetrics

manager = RedisManager()
metrics = RedisMetrics()


def create_app():
    app = Flask("shop")
    app.config.from_prefixed_env()
    manager.init_app(app)
    metrics.init_app(app)

    @app.get("/")
    def index():
        return f"Visitor {current_redis.incr('visits')}"

    @app.get("/metrics")
    def show_metrics():
        registry = REGISTRY

        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)

        return generate_latest(registry), {"Content-Type": CONTENT_TYPE_LATEST}

    return app
