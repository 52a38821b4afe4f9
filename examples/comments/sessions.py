"""Sessions in Redis, and what becomes of a request when that is down."""

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
    """Flask-Session's sessions. Flask opens the session before, and saves it after all
    that error handlers watch over. So their errors are taken there by hand.
    """

    def open_session(self, app: Flask, request: Request) -> SessionMixin | None:
        """The visitor's session. None is an empty one that cannot be written."""
        # The page that says sorry needs its style sheet.
        if request.path.startswith(f"{app.static_url_path}/"):
            return None

        try:
            session: SessionMixin = super().open_session(app, request)
        except REDIS_ERRORS as error:
            # errors.check_session raises it where an error handler sees it.
            g.session_error = error
            return None

        return session

    def save_session(
        self, app: Flask, session: SessionMixin, response: Response
    ) -> None:
        """Save the session, or change the response into one that says sorry."""
        try:
            super().save_session(app, session, response)
        except REDIS_ERRORS as error:
            sorry = app.make_response(say_sorry(error))
            response.status = sorry.status
            response.headers = sorry.headers
            response.set_data(sorry.get_data())
