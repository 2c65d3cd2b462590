"""Takes the place of a package that Ray loads in each of its processes where it is installed.

`make sbom` installs it. It compiles a grammar for seconds. Without it jsonschema omits one check,
not needed here.
"""

raise ImportError("left out for its time")
