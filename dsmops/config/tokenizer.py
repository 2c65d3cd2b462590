"""How many pieces a sentencepiece model has, read from its bytes without sentencepiece.

The file is a protobuf message whose field 1 is repeated, once for each piece. Source:
`sentencepiece_model.proto`.
"""

from __future__ import annotations

_PIECES_FIELD = 1
_LENGTH_DELIMITED = 2
_SKIPPED_BYTES = {1: 8, 5: 4}
"""Fixed-width wire types and their sizes."""


def count_pieces(data: bytes) -> int | None:
    """Return the number of pieces of a sentencepiece model, None when `data` is something else."""
    count = position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == _LENGTH_DELIMITED:
            length, position = _varint(data, position)
            position += length
            count += field == _PIECES_FIELD
        elif wire_type == 0:
            _, position = _varint(data, position)
        elif wire_type in _SKIPPED_BYTES:
            position += _SKIPPED_BYTES[wire_type]
        else:
            return None
    return count if count and position == len(data) else None


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at `position` and the position after it.

    Beyond the end of the data, this position is past it.
    """
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    return value, len(data) + 1
