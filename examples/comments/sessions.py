"""Sessions in Redis, and an error page if Redis is down."""

from __future__ import annotations

from flask import Flask
from flask import g
from flask import Request
from flask import Response
from flask.sessions import SessionMixin
from flask_session.redis import RedisSessionInterface

from .errors import REDIS_ERRORS
from .errors import say_sorry


class Sessions(RedisSessionInterface):
    """Flask-Session's sessions, with an error page for outages.

    Flask does not call the handlers for Redis errors while it opens or saves a session.
    So this class handles these errors itself.
    """

    def open_session(self, app: Flask, request: Request) -> SessionMixin | None:
        """Return the visitor's session. For None, Flask uses an empty read-only one."""
        # The error page needs its style sheet, even if Redis is down.
        if request.path.startswith(f"{app.static_url_path}/"):
            return None

        try:
            session: SessionMixin = super().open_session(app, request)
        except REDIS_ERRORS as error:
            # errors.check_session raises it later, so that an error handler is called.
            g.session_error = error
            return None

        return session

    def save_session(
        self, app: Flask, session: SessionMixin, response: Response
    ) -> None:
        """Save the session, or change the response into an error page."""
        try:
            super().save_session(app, session, response)
        except REDIS_ERRORS as error:
            sorry = app.make_response(say_sorry(error))
            response.status = sorry.status
            response.headers = sorry.headers
            response.set_data(sorry.get_data())
