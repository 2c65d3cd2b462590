"""Programs for developers that are neither product nor tests: demo, soak, reports, command
reference.
"""
