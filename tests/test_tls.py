"""Files and options of TLS are checked when the app starts."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import traceback
import typing as t
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from flask import Flask

from flask_and_redis import ConfigError
from flask_and_redis import RedisManager

from .servers import Certificates
from .servers import Server

SECRET = "s3cr3t-n0-l34k"

PEM = "must be the path of a file with certificates in PEM format."
KEY = "must be the path of a file with the certificate's key in PEM format."
MISSING = "must be the path of a file that exists and can be read."


def manage(**config: t.Any) -> tuple[Flask, RedisManager]:
    """An app with these settings of the prefix ``REDIS``, and its manager."""
    app = Flask("tls")
    app.config.update({f"REDIS_{name}": value for name, value in config.items()})
    return app, RedisManager(app)


def error(**config: t.Any) -> str:
    """The error that these settings cause at start-up. Nothing else is shown."""
    with pytest.raises(ConfigError) as caught:
        manage(**config)

    assert caught.value.__cause__ is caught.value.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def ping_error(app: Flask, manager: RedisManager) -> str | None:
    with app.app_context():
        return manager.ping(timeout=20)["REDIS"].error


@pytest.fixture
def encrypted_key(certificates: Certificates, tmp_path: Path) -> Path:
    """The client's key, encrypted with SECRET."""
    key = serialization.load_pem_private_key(certificates.client_key.read_bytes(), None)
    path = tmp_path / "encrypted.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(SECRET.encode()),
        )
    )
    return path


@pytest.fixture
def paths(certificates: Certificates, encrypted_key: Path) -> dict[str, str]:
    """Paths of files, by names for the settings below."""
    (both := encrypted_key.with_name("both.pem")).write_bytes(
        certificates.client_cert.read_bytes() + certificates.client_key.read_bytes()
    )
    return {
        "cert": str(certificates.client_cert),
        "key": str(certificates.client_key),
        "server key": str(certificates.key),
        "encrypted key": str(encrypted_key),
        "both": str(both),
        "directory": str(encrypted_key.parent),
        "text": __file__,
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"CA_CERTS": "text"}, f"'REDIS_SSL_CA_CERTS' {PEM}"),
        ({"CA_CERTS": "key"}, f"'REDIS_SSL_CA_CERTS' {PEM}"),
        (
            {"CA_CERTS": "directory"},
            f"'REDIS_SSL_CA_CERTS' {MISSING}",
        ),
        (
            {"CA_PATH": "cert"},
            "'REDIS_SSL_CA_PATH' must be the path of a directory that exists and can be"
            " read.",
        ),
        (
            {"CA_DATA": "x"},
            "'REDIS_SSL_CA_DATA' must be text with certificates in PEM format.",
        ),
        (
            {"CA_DATA": "ü"},
            "'REDIS_SSL_CA_DATA' must be text with certificates in PEM format.",
        ),
        (
            {"CIPHERS": "nope"},
            "'REDIS_SSL_CIPHERS' must be ciphers that OpenSSL knows, such as"
            " ECDHE+AESGCM. Those of TLS 1.3 cannot be set.",
        ),
        (
            {"KEYFILE": "key"},
            "'REDIS_SSL_KEYFILE' needs its certificate: set 'REDIS_SSL_CERTFILE', too.",
        ),
        ({"CERTFILE": "text", "KEYFILE": "key"}, f"'REDIS_SSL_CERTFILE' {PEM}"),
        ({"CERTFILE": "cert", "KEYFILE": "text"}, f"'REDIS_SSL_KEYFILE' {KEY}"),
        (
            {"CERTFILE": "cert"},
            "'REDIS_SSL_CERTFILE' has no key in PEM format: set 'REDIS_SSL_KEYFILE'.",
        ),
        (
            {"CERTFILE": "cert", "KEYFILE": "server key"},
            "'REDIS_SSL_KEYFILE' has a key that does not fit the certificate"
            " (KEY_VALUES_MISMATCH).",
        ),
        (
            {"CERTFILE": "cert", "KEYFILE": "encrypted key"},
            "'REDIS_SSL_KEYFILE' has an encrypted key: set 'REDIS_SSL_PASSWORD'.",
        ),
        (
            {"CERTFILE": "cert", "KEYFILE": "encrypted key", "PASSWORD": SECRET + "x"},
            "'REDIS_SSL_PASSWORD' is not the password of the certificate's key.",
        ),
    ],
)
def test_wrong_options(
    paths: dict[str, str], config: dict[str, str], message: str
) -> None:
    """A file or an option that OpenSSL cannot use is an error that names the setting,
    and not only one of the first command.
    """
    settings = {
        f"SSL_{name}": paths.get(value, value) for name, value in config.items()
    }
    assert error(URL="rediss://h", **settings) == message


@pytest.mark.parametrize("name", ["CA_CERTS", "CERTFILE", "KEYFILE"])
def test_pipe(paths: dict[str, str], tmp_path: Path, name: str) -> None:
    """A pipe is not a file, even if it has the right content: it is empty when it is
    read again. A pipe without a writer would block the start of the app.
    """
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = Path(paths["both"]).read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    config = {"SSL_CERTFILE": paths["both"], "SSL_KEYFILE": paths["both"]}
    config[f"SSL_{name}"] = str(pipe)

    try:
        assert error(URL="rediss://h", **config) == f"'REDIS_SSL_{name}' {MISSING}"
    finally:
        # The writer waits for a reader.
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        writer.join()
        os.close(reader)


def test_file_without_permission(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the user must not read is the same error."""
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    text = error(URL="rediss://h", SSL_CA_CERTS=str(certificates.ca))
    assert text == f"'REDIS_SSL_CA_CERTS' {MISSING}"


OCSP, STAPLED = "SSL_VALIDATE_OCSP", "SSL_VALIDATE_OCSP_STAPLED"


@pytest.mark.usefixtures("ocsp_packages")
@pytest.mark.parametrize(
    ("name", "package"),
    [
        (OCSP, "cryptography"),
        (OCSP, "requests"),
        (STAPLED, "cryptography"),
        (STAPLED, "requests"),
        (STAPLED, "OpenSSL"),
    ],
)
def test_ocsp_without_a_package(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    """A package that OCSP needs is missing. The first command would raise an error that
    does not name the setting.
    """
    manage(URL="rediss://h", **{OCSP: "true"})
    monkeypatch.setitem(sys.modules, package, None)
    assert error(URL="rediss://h", **{name: "true"}) == (
        f"'REDIS_{name}' needs the package {package}, which is not installed:"
        " pip install 'redis[ocsp]'"
    )
    manage(URL="rediss://h", **{name: "false"})


@pytest.mark.usefixtures("ocsp_packages")
def test_both_kinds_of_ocsp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of OCSP cannot be used together, whatever is installed."""
    message = "exclude each other: set only one of them."
    assert error(URL="rediss://h", **{OCSP: True, STAPLED: True}) == (
        f"'REDIS_{OCSP}' and 'REDIS_{STAPLED}' {message}"
    )
    assert error(
        URL="rediss+sentinel://h/service",
        SENTINEL_KWARGS={STAPLED.lower(): True},
        **{OCSP: True},
    ) == (
        f"'REDIS_{OCSP}' and '{STAPLED.lower()}' in 'REDIS_SENTINEL_KWARGS' {message}"
    )
    monkeypatch.setitem(sys.modules, "requests", None)
    assert message in error(URL="rediss://h", **{OCSP: True, STAPLED: True})
    manage(URL="fakeredis://", **{OCSP: True, STAPLED: True})


@pytest.mark.usefixtures("ocsp_packages")
def test_stapled_ocsp_without_a_certificate(paths: dict[str, str]) -> None:
    """With stapling, redis-py needs the client's certificate, or a context."""
    message = f"'REDIS_{STAPLED}' needs 'REDIS_SSL_CERTFILE' and 'REDIS_SSL_KEYFILE'."
    both = {"SSL_CERTFILE": paths["cert"], "SSL_KEYFILE": paths["key"]}
    certificate = {"SSL_CERTFILE": paths["both"]}
    assert error(URL="rediss://h", **{STAPLED: True}) == message
    assert error(URL="rediss://h", **certificate, **{STAPLED: True}) == message
    manage(URL="rediss://h", **both, **{STAPLED: True})
    manage(URL="rediss://h", SSL_OCSP_CONTEXT=object(), **{STAPLED: True})
    manage(URL="rediss://h", **certificate, **{STAPLED: False})


@pytest.mark.parametrize("name", ["redis.Redis", "valkey.Valkey"])
def test_certificate_that_ocsp_expects(certificates: Certificates, name: str) -> None:
    """The certificate is text in the settings. The function that reads it wants bytes,
    with redis-py and with valkey-py.
    """
    pem = certificates.cert.read_text()
    app, _ = manage(URL="rediss://h", CLASS=name, SSL_OCSP_EXPECTED_CERT=pem)
    pool = app.extensions["redis"]["REDIS"].connection_pool
    expected = pool.connection_kwargs["ssl_ocsp_expected_cert"]
    assert x509.load_pem_x509_certificate(expected).issuer


@pytest.mark.parametrize(
    "config",
    [
        {"URL": "valkeys://h", "CLASS": "valkey.Valkey"},
        {"HOST": "h", "SSL": True},
        {"URL": "rediss+cluster://h"},
        {"URL": "rediss+sentinel://h/service"},
    ],
)
def test_wrong_file_of_each_kind(config: dict[str, t.Any]) -> None:
    """The same for each kind of server."""
    assert error(**config, SSL_CA_CERTS=__file__) == f"'REDIS_SSL_CA_CERTS' {PEM}"


@pytest.mark.parametrize(
    "config",
    [
        {"CERTFILE": "cert", "KEYFILE": "encrypted key", "PASSWORD": SECRET},
        {"CERTFILE": "cert", "KEYFILE": "key", "PASSWORD": "not needed"},
        {"CERTFILE": "both"},
        {"CERTFILE": "both", "CIPHERS": "ECDHE+AESGCM"},
    ],
)
def test_right_options(
    mtls_server: Server,
    certificates: Certificates,
    paths: dict[str, str],
    config: dict[str, str],
) -> None:
    """What OpenSSL can use is no error."""
    settings = {
        f"SSL_{name}": paths.get(value, value) for name, value in config.items()
    }
    ca = certificates.ca.read_text()
    app, manager = manage(URL=mtls_server.url, SSL_CA_DATA=ca, **settings)
    assert app.extensions["redis"]["REDIS"].ping()
    assert ping_error(app, manager) is None


def test_wrong_options_of_sentinels(paths: dict[str, str]) -> None:
    """The sentinels' own options, together with those of the servers."""
    url = "rediss+sentinel://h/service"
    kwargs = {"ssl_ca_certs": __file__}
    assert error(URL=url, SENTINEL_KWARGS=kwargs) == (
        f"'ssl_ca_certs' in 'REDIS_SENTINEL_KWARGS' {PEM}"
    )
    both = {"SSL_CERTFILE": paths["cert"], "SSL_KEYFILE": paths["key"]}
    kwargs = {"ssl_keyfile": paths["encrypted key"]}
    assert error(URL=url, SENTINEL_KWARGS=kwargs, **both) == (
        "'ssl_keyfile' in 'REDIS_SENTINEL_KWARGS' has an encrypted key: set"
        " 'REDIS_SSL_PASSWORD'."
    )
    manage(URL=url, SENTINEL_KWARGS={**kwargs, "ssl_password": SECRET}, **both)


def test_wrong_option_of_a_fake() -> None:
    """Settings of the real server may stay in tests."""
    app, _ = manage(URL="fakeredis://", SSL_CA_CERTS=__file__, SSL_CIPHERS="nope")
    assert app.extensions["redis"]["REDIS"].ping()


def test_renewed_files(
    mtls_server: Server, certificates: Certificates, tmp_path: Path
) -> None:
    """The files are read for each connection. One that is replaced by a wrong one is
    an error of a ping that names the setting.
    """
    config = {"CA_CERTS": "ca.pem", "CERTFILE": "client.pem", "KEYFILE": "client.key"}
    files = {f"SSL_{name}": tmp_path / file for name, file in config.items()}

    for path in files.values():
        shutil.copy(certificates.ca.with_name(path.name), tmp_path)

    shutil.copy(certificates.other_ca, tmp_path / "ca.pem")
    app, manager = manage(URL=mtls_server.url, RETRY_DEADLINE=0, **files)
    client = app.extensions["redis"]["REDIS"]
    assert "is refused (" in (ping_error(app, manager) or "")
    shutil.copy(certificates.ca, tmp_path / "ca.pem")
    assert client.ping()
    shutil.copy(__file__, tmp_path / "client.key")
    client.connection_pool.disconnect()

    with pytest.raises(redis.ConnectionError):
        client.ping()

    assert ping_error(app, manager) == f"'REDIS_SSL_KEYFILE' {KEY}"
    (tmp_path / "client.key").unlink()
    assert ping_error(app, manager) == f"'REDIS_SSL_KEYFILE' {MISSING}"
    shutil.copy(certificates.client_key, tmp_path)
    assert ping_error(app, manager) is None
