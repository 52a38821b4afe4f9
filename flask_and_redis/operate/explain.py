"""Says why a server did not answer."""

from __future__ import annotations

import ssl

from ..engines.commands import causes
from ..engines.internals.probes import NeedsTls
from ..engines.internals.probes import PlainText
from ..engines.library import library_name
from ..engines.messages import hide_secrets
from ..engines.messages import lower_first
from ..engines.tls import check_files
from ..exceptions import ConfigError
from ..registry import Registry
from ..spec.spec import Spec
from ..spec.values import clean


def explain(registry: Registry, prefix: str, error: BaseException | None) -> str:
    """What went wrong with a server, in one line without secrets.

    :param registry: The app's registry.
    :param prefix: The prefix.
    :param error: The error.
    """
    try:
        spec = registry.get_spec(prefix)
    except ConfigError as wrong:
        return str(wrong)

    text = _find_cause(spec, error)

    # Any other error, such as one of a credential provider, may quote anything.
    if (
        text is None
        and error is not None
        and (library_name(type(error)) or isinstance(error, (ConfigError, OSError)))
    ):
        text = spec.engine.error_text(spec, error)

        if advice := spec.engine.explain_error(spec, error):
            text = f"{text.rstrip('.')}. {advice}"

    text = hide_secrets(text or "", spec.engine.find_secrets(spec))
    return clean(text) or type(error).__name__


def _find_cause(spec: Spec, error: BaseException | None) -> str | None:
    """A sentence about a cause that only a setting can fix, or None."""
    for each in causes(error, None):
        if spec.engine.is_login_error(spec, each):
            return _explain_login(spec, each, error)

        if text := _explain_tls(spec, each):
            return text

    return None


def _explain_tls(spec: Spec, error: BaseException) -> str | None:
    prefix = spec.prefix
    is_plain = isinstance(error, ssl.SSLError) and (
        # The server has sent something else than TLS. Redis waits in silence. An error
        # of Python itself, such as one about ciphers, has no reason.
        getattr(error, "reason", None) == "WRONG_VERSION_NUMBER"
    )

    if is_plain or isinstance(error, PlainText):
        return (
            "The server speaks plain text, and no TLS: use a redis:// URL instead of"
            f" rediss://, or set '{prefix}_SSL' to false."
        )

    if isinstance(error, NeedsTls):
        return (
            "The server speaks TLS, and no plain text: use a rediss:// URL instead of"
            f" redis://, or set '{prefix}_SSL' to true."
        )

    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"The certificate of the server is refused ({error.verify_message}):"
            f" check '{prefix}_SSL_CA_CERTS', and whether the certificate is for this"
            " host."
        )

    # A file may have been replaced since the app started.
    try:
        check_files(prefix, spec.arguments, spec.values)
    except ConfigError as wrong:
        return str(wrong)

    return None


def _explain_login(
    spec: Spec, refusal: BaseException, error: BaseException | None
) -> str:
    who, advice, logs_in = spec.engine.find_login(spec, error)
    text = spec.engine.error_text(spec, refusal).rstrip(".")
    # Redis 7 would write about HELLO, which the application did not send.
    what = f"refuses the login ({text})" if logs_in else "asks for a password"
    sentence = f"{who} {what}: {lower_first(advice)}"

    if refusal is error:
        return sentence

    # What failed because of it, such as the search for the master.
    failed = spec.engine.error_text(spec, error or refusal).rstrip(".")
    return f"{failed}. {sentence}"
