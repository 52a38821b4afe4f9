"""Uses clients with Sentry. A process of its own: Sentry cannot be removed again."""

from __future__ import annotations

import asyncio
import sys

import redis
import sentry_sdk
from flask import Flask

from flask_and_redis import RedisManager

from .commands import use
from .commands import use_async

manager = RedisManager()


def main(when: str) -> None:
    """Send one transaction for each prefix.

    :param when: Whether to enable Sentry ``before`` or ``after`` the first use.
    """
    app = Flask("traced")
    app.config.from_prefixed_env()
    manager.init_app(app)

    with app.app_context():
        if when == "after":
            use_all()

        # The DSN is in the environment.
        sentry_sdk.init(traces_sample_rate=1.0)
        use_all()

        with sentry_sdk.start_transaction(name="retry"):
            manager.get("FAILING").get("k")

        for prefix in ("ECHO", "WRONG"):
            try:
                manager.get(prefix).get("k")
            except redis.RedisError as error:
                sentry_sdk.capture_exception(error)

        sentry_sdk.flush()
        # Without a DSN, which disables it.
        sentry_sdk.init("")
        use_all()


def use_all() -> None:
    for prefix in ("REDIS", "CLUSTER"):
        with sentry_sdk.start_transaction(name=prefix):
            use(manager, prefix)

        with sentry_sdk.start_transaction(name=f"{prefix} in asyncio"):
            asyncio.run(use_async(manager, prefix))


if __name__ == "__main__":
    main(*sys.argv[1:])
