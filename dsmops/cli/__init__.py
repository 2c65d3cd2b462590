"""The command line: one file per command group; a command parses, calls one function and shows the
value.
"""
