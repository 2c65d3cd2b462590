"""The process that a test starts instead of `python`; see `fork_server`.

It imports next to nothing, because it is started hundreds of times: `python -IS` runs it in 15 ms.
"""

import json
import os
import signal
import socket
import struct
import sys


def main(path: str, arguments: list[str]) -> int:
    """Let the server at `path` run `python ARGUMENTS` with this process's streams, folder and
    environment; return the exit code.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    pid = 0
    early: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        if pid:
            os.kill(pid, number)
        else:
            early.append(number)

    for passed_on in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(passed_on, pass_on)
    job = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    request = json.dumps(job).encode()
    socket.send_fds(connection, [struct.pack("!I", len(request))], [0, 1, 2])
    connection.sendall(request)
    pid = struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))[0]
    for number in early:
        os.kill(pid, number)
    # The streams belong to the other process now: a reader must see their end when it ends.
    for fd in (0, 1, 2):
        os.close(fd)
    code: int = struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))[0]
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
