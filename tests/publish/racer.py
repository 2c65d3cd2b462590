"""One of several publishers that race on one prefix: `python -m tests.publish.racer STORE ENDPOINT
FOLDER NAME ROUNDS`.

Starts at the line break on stdin, so that all begin together. Each round writes a log, publishes
it, and looks whether all it ever published is still named; the first that is not ends it with exit
code 1.
"""

import sys
from pathlib import Path

from dsmops.operations.publishing import PublishRequest, RedactionCheck, publish_logs
from dsmops.publish.manifest import read_catalogue
from dsmops.publish.store import StoreOptions
from dsmops.publish.stores import open_store


def main(store: str, endpoint: str, folder: Path, name: str, rounds: int) -> int:
    options = StoreOptions(endpoint_url=endpoint or None, workers=2)
    check = RedactionCheck(1, lambda _name, _stream: {})
    folder.mkdir()
    print("ready", flush=True)
    sys.stdin.readline()
    for index in range(rounds):
        (folder / f"log.{name}.{index}").write_text(f"{name} {index}")
        report = publish_logs(PublishRequest(store, folder, options), check=check)
        named = {
            entry.name for entry in read_catalogue(open_store(store, options)).entries.values()
        }
        lost = {f"log.{name}.{earlier}" for earlier in range(index + 1)} - named
        if lost or report.exit_code:
            print(
                f"{name}, round {index}: lost {sorted(lost)}, exit code {report.exit_code}",
                file=sys.stderr,
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
