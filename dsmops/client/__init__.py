"""A well-behaved client of any moshi-server, ours or the original.

Raises ExtraMissingError on import where the libraries that it talks with are not installed.
"""

from dsmops.extras import CLIENT, require_worker

require_worker("talking to a server", CLIENT)
