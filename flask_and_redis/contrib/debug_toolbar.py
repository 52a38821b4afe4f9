"""A panel of Flask-DebugToolbar."""

from __future__ import annotations

import collections
import collections.abc as cabc
import typing as t

from flask import Flask
from flask import has_request_context
from flask import request
from flask_debugtoolbar.panels import DebugPanel
from werkzeug import Request
from werkzeug import Response

from ..signals import command_finished

# The name of an attribute of the request: a list of calls, or None after the response.
# All copies of a request's context share the request. flask.g is not shared.
_CALLS = "_flask_and_redis_calls"

# The classes and the color are the toolbar's own.
_TEMPLATE = """\
{% for section in sections %}
  <h4>{{ section.prefix }}</h4>
  <p>{{ section.total }}{% if section.repeated %}. Repeated:
    {% for label, count in section.repeated %}
      <strong>{{ label }} {{ count }} times</strong>{{ "" if loop.last else ", " }}
    {% endfor %}{% endif %}</p>
  <table class="flDebugTablesorter">
    <thead>
      <tr>
        <th>#</th>
        <th>(ms)</th>
        <th>Share</th>
        <th>Command</th>
        <th>Repeated</th>
        <th>Tries</th>
        <th>Error</th>
      </tr>
    </thead>
    <tbody>
      {% for number, call, share, count in section.rows %}
        <tr class="{{ loop.cycle('flDebugOdd', 'flDebugEven') }}"
            {% if count > 1 %}style="background-color: #ffc"{% endif %}>
          <td>{{ number }}</td>
          <td>{{ "%.3f"|format(call.seconds * 1000) }}</td>
          <td>{{ "%.1f"|format(share * 100) }} %</td>
          <td>{{ call.label }}</td>
          <td>{% if count > 1 %}{{ count }} times{% endif %}</td>
          <td>{{ call.tries }}</td>
          <td>{{ call.error }}</td>
        </tr>
      {% endfor %}
    </tbody>
  </table>
{% endfor %}
"""


class _Call(t.NamedTuple):
    """A command, or the execution of a pipeline."""

    prefix: str
    commands: tuple[str, ...]
    seconds: float
    tries: int
    #: Only the name of its class: the text may quote arguments, and the traceback
    #: would keep objects alive.
    error: str

    @property
    def label(self) -> str:
        """The name of the command, or what is in the pipeline."""
        if len(self.commands) == 1:
            return self.commands[0]

        # Not one name for each command: there may be thousands.
        counts = collections.Counter(self.commands)
        names = [f"{n} × {name}" if n > 1 else name for name, n in counts.items()]
        return f"Pipeline of {len(self.commands)}: {', '.join(names)}"


class RedisPanel(DebugPanel):
    """Lists the Redis commands of a request by prefix, in the order in which they
    ended, with durations, and highlights those that are repeated.

    .. versionadded:: 2.0
    """

    name = "Redis"
    has_content: bool
    _calls: cabc.Sequence[_Call] = ()

    @classmethod
    def init_app(cls, app: Flask) -> None:
        command_finished.connect(_record, sender=app)
        # The toolbar adds its own function later. It is called first.
        app.after_request(_stop)

    def process_response(self, request: Request, response: Response) -> None:
        # A copy: threads that the view has started may still use Redis.
        self._calls = tuple(vars(request).get(_CALLS) or ())
        self.has_content = bool(self._calls)

    def nav_title(self) -> str:
        return "Redis"

    def nav_subtitle(self) -> str:
        return _total(self._calls)

    def title(self) -> str:
        return "Redis commands"

    def url(self) -> str:
        return ""

    def content(self) -> str:
        template = self.jinja_env.from_string(_TEMPLATE)
        return template.render(sections=_sections(self._calls))


def _record(
    app: Flask,
    *,
    prefix: str,
    commands: tuple[str, ...],
    seconds: float,
    tries: int,
    error: BaseException | None,
) -> None:
    if has_request_context():
        # Before the toolbar is there, the session may have been loaded from Redis.
        calls = _attributes_of_request().setdefault(_CALLS, [])

        if calls is not None:
            name = "" if error is None else type(error).__name__
            calls.append(_Call(prefix, commands, seconds, tries, name))


def _stop(response: Response) -> Response:
    # A response may be streamed for hours, and no panel shows its commands.
    _attributes_of_request()[_CALLS] = None
    return response


def _attributes_of_request() -> dict[str, t.Any]:
    proxy: t.Any = request
    attributes: dict[str, t.Any] = vars(proxy._get_current_object())
    return attributes


def _sections(calls: cabc.Sequence[_Call]) -> list[dict[str, object]]:
    """What the template shows, for each prefix in the order of first use."""
    # A clock may be too coarse to measure any of them.
    total = sum(call.seconds for call in calls) or 1.0
    rows = collections.defaultdict[str, list[tuple[int, _Call, float, int]]](list)
    counts = collections.Counter((call.prefix, call.label) for call in calls)

    for number, call in enumerate(calls, 1):
        count = counts[call.prefix, call.label]
        rows[call.prefix].append((number, call, call.seconds / total, count))

    return [
        {
            "prefix": prefix,
            "total": _total([call for _, call, _, _ in rows_of_prefix]),
            "repeated": [
                (label, count)
                for (owner, label), count in counts.most_common()
                if owner == prefix and count > 1
            ],
            "rows": rows_of_prefix,
        }
        for prefix, rows_of_prefix in rows.items()
    ]


def _total(calls: cabc.Sequence[_Call]) -> str:
    if not calls:
        return "0 commands"

    plural = "command" if len(calls) == 1 else "commands"
    milliseconds = sum(call.seconds for call in calls) * 1000
    return f"{len(calls)} {plural} in {milliseconds:.2f} ms"
