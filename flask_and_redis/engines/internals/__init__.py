"""Every use of undocumented features of redis-py, valkey-py and what belongs to them.
No other module may use one. Undocumented are names that begin with an underscore, names
that neither a docstring nor a signature of the library mentions, and texts of errors.

Each function or class says why it is needed, for which versions, and what breaks
without it. ``tests/test_internals.py`` fails when one of these features changes.
"""
