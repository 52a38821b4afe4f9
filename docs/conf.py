from __future__ import annotations

import re
from importlib.metadata import version as get_version

project = "Flask-And-Redis"
copyright = "2026, the Flask-And-Redis authors"
version = release = get_version(project)

extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest"]
default_role = "code"
nitpicky = True
# Other projects' documentation is not looked up: the build needs no network.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(flask|redis|werkzeug|prometheus_client|fnmatch|collections|contextlib|t)\b.*",
    ),
    (r"py:.*", r"(ValueError|KeyError|RuntimeError|TypeError|Flask|t\.Any|cabc\..*)"),
    # A type variable.
    (r"py:class", r"flask_and_redis\.manager\.C"),
]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]

# Each block of examples starts from an app of its own, without a server.
doctest_test_doctest_blocks = "default"


def break_names(app, pagename, templatename, context, doctree):
    """Let long names break after underscores, slashes and dots: see custom.css."""
    context["body"] = re.sub(
        r'(?<=<span class="pre">)[^<]*',
        lambda code: re.sub(r"([_/.])(?=[^_/.\d])", r"\1<wbr>", code.group()),
        context.get("body", ""),
    )


def setup(app):
    app.connect("html-page-context", break_names)
