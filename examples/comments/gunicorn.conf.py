"""The gunicorn configuration for production: several processes, each with threads."""

import os
import secrets

# All workers must share this key, because it signs the forms and any worker may receive
# a form. In production, set it in the environment: a restart must not change it.
os.environ.setdefault("SECRET_KEY", secrets.token_hex())

workers = 2
# Each viewer of live updates occupies a thread, up to MAX_VIEWERS in a process. The
# other threads serve all other requests.
threads = 64
# Seconds that a stopping worker waits for its requests. Live updates never end.
graceful_timeout = 3
