import os

from .tracing import OFF

# In pytest-xdist's processes, pytest-cov starts a second time before the tests are
# imported. Nothing of the package runs until then.
if "PYTEST_XDIST_WORKER" in os.environ:
    OFF.set()
