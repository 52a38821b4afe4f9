"""Every use of undocumented features of redis-py, valkey-py and what belongs to them.
No other module may use one.

Each function or class says why it is needed, for which versions, and what breaks
without it. ``tests/test_internals.py`` fails when one of these features changes.
"""
