"""The command line: one file per command group.

A command parses its options, calls one function and shows the value.
"""
