"""Programs for developers: demo, soak, reports, command reference.

They are neither product nor tests.
"""
