"""How gunicorn serves the app in production: several processes with threads each."""

import os
import secrets

# Forms are signed, and any worker may get them. In production, where a restart should
# not spoil them either, it comes from the environment.
os.environ.setdefault("SECRET_KEY", secrets.token_hex())

workers = 2
# Each viewer of live updates holds a thread, up to MAX_VIEWERS in a process. The rest
# is for everybody else.
threads = 64
# Seconds that a stopping worker waits for requests, of which live updates never end.
graceful_timeout = 3
