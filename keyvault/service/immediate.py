"""Calls that are answered out of memory in the turn of the event loop in which their last byte came: no task, no messages of ASGI.

Most calls ask for keys that the service keeps under a lease, and cost less than the way through an application does. Whatever cannot be
answered so, refusals too, goes that way, with what is known of it by then.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter

from keyvault.service.calls import Answering
from keyvault.service.keys import wipe_answers
from keyvault.service.notes import CallNote
from keyvault.service.telling import REQUEST_ID, Telling, request_id_of
from keyvault.service.wire import encoder

MAX_HELD_BYTES = 64 * 1024
"""Of a body: as many keys as are answered at once seldom have more."""
OK = 200
_START = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
_LENGTH = b"%10d"
"""Filled in when the body behind it is there; spaces before a value are none of it (RFC 9112, section 5)."""
_NO_LENGTH = _LENGTH % 0
_LENGTH_END = len(_START) + len(_NO_LENGTH)

Headers = list[tuple[bytes, bytes]]


class Immediate:
    """Answers a call of one path. For the event loop: not thread-safe."""

    __slots__ = ("_answering", "_path", "_telling")

    def __init__(self, path: str, answering: Answering, telling: Telling) -> None:
        """Answer as `answering` does, and let `telling` know."""
        self._path = path
        self._answering = answering
        self._telling = telling

    def answer(
        self, headers: Headers, body: bytearray, peer: str, note: CallNote, defaults: Iterable[tuple[bytes, bytes]]
    ) -> bytearray | None:
        """Return an answer as it is sent, keys and all: the caller wipes it. None where it cannot be given so, and `note` says what is known.

        `headers`: with names in lower case; `defaults`: those that every answer has. `body` stays as it is.
        """
        try:
            answer = self._answering.at_once(note, dict(reversed(headers)), peer, body)  # of two of a name, the first
        except Exception as error:  # noqa: BLE001 - raised again where it becomes a refusal or an incident
            note.raised = error
            return None
        if answer is None:
            return None
        note.answered(answer)
        request_id = request_id_of(headers)
        content = bytearray(
            b"".join(
                [
                    _START,
                    _NO_LENGTH,
                    *[b"\r\n%b: %b" % header for header in defaults],
                    b"\r\n%b: %b\r\n\r\n" % (REQUEST_ID, request_id),
                ]
            )
        )
        start = len(content)
        encoder.encode_into(answer, content, start)
        wipe_answers(answer)
        content[len(_START) : _LENGTH_END] = _LENGTH % (len(content) - start)
        self._telling.tell(self._path, request_id, OK, perf_counter() - note.began, note)
        return content
