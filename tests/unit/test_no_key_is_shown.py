"""What fails with keys in its hands shows none of them: not by `repr`, not in messages, not in tracebacks."""

from __future__ import annotations

import base64
import logging
import secrets
import traceback
from collections.abc import Callable

import msgspec
import pytest

from keyvault.errors import KeyVaultError
from keyvault.formats import wipe
from keyvault.leased_keys import LeasedKey
from keyvault.service import wire
from keyvault.service.bodies import decode
from keyvault.service.wiping import WipedResponse, wipe_released
from keyvault.values import DataKey, WrapRequest
from keyvault.wrapped import encode_reference, fresh_wrapping_key, parse_wrapped

KEY = secrets.token_bytes(32)
SHOWN = (KEY.hex(), base64.b64encode(KEY).decode(), repr(KEY)[2:-1], repr(bytearray(KEY))[12:-2], str(list(KEY))[1:-1])


def shows(text: str) -> bool:
    return any(form in text for form in SHOWN)


def test_the_forms_that_are_looked_for_are_those_that_would_show() -> None:
    for text in (repr(KEY), str(bytearray(KEY)), f"{KEY!r}", str({"key": KEY}), msgspec.json.encode(KEY).decode()):
        assert shows(text)


@pytest.mark.parametrize(
    "made",
    [
        lambda: DataKey(plaintext=bytearray(KEY), wrapped=b"KVW"),
        lambda: WrapRequest(scopes=("user/u-1",), data_key=KEY),
        lambda: wire.WrapItem(scopes=("user/u-1",), data_key=KEY),
        lambda: wire.WrapKeys(keys=[wire.WrapItem(scopes=("user/u-1",), data_key=KEY)]),
        lambda: wire.KeyAnswers(lease=1.0, keys=[wire.KeyAnswer(plaintext=bytearray(KEY), wrapped=b"KVW")]),
        lambda: fresh_wrapping_key(secrets.token_bytes(32), [encode_reference(bytes(16), 2, 1, b"", b"")], [KEY]),
        lambda: LeasedKey(
            fresh_wrapping_key(secrets.token_bytes(32), [encode_reference(bytes(16), 2, 1, b"", b"")], [KEY]), 1.0, None
        ),
        lambda: WipedResponse(bytearray(msgspec.json.encode(KEY))),
    ],
)
def test_no_value_shows_its_key(made: Callable[[], object]) -> None:
    value = made()
    assert not shows(repr(value))
    assert not shows(str([value]))


def _unwrap_another() -> None:
    wrapping_key = fresh_wrapping_key(secrets.token_bytes(32), [encode_reference(bytes(16), 2, 1, b"", b"")], [KEY])
    wrapped = wrapping_key.wrap(KEY)
    fresh_wrapping_key(secrets.token_bytes(32), [encode_reference(bytes(16), 2, 1, b"", b"")], [KEY]).unwrap(
        parse_wrapped(wrapped)
    )


def _wrap_after_wiping() -> None:
    wrapping_key = fresh_wrapping_key(secrets.token_bytes(32), [encode_reference(bytes(16), 2, 1, b"", b"")], [KEY])
    wrapping_key.wipe()
    wrapping_key.wrap(KEY)


def _decode(body: bytes) -> None:
    decode(msgspec.json.Decoder(wire.WrapKeys), bytearray(body))


@pytest.mark.parametrize(
    "fails",
    [
        _unwrap_another,
        _wrap_after_wiping,
        lambda: fresh_wrapping_key(secrets.token_bytes(32), [encode_reference(bytes(16), 2, 1, b"", b"")], [KEY + KEY]),
        lambda: fresh_wrapping_key(secrets.token_bytes(32), [encode_reference(bytes(16), 2, 1, b"", b"")], [KEY]).wrap(
            KEY * 3
        ),
        lambda: _decode(b'{"keys":[{"scopes":["user/u-1"],"data_key":' + msgspec.json.encode(KEY) + b',"more":1}]}'),
        lambda: _decode(b'{"keys":[{"scopes":["user/u-1"],"data_key":[' + msgspec.json.encode(KEY) + b"]}]}"),
        lambda: _decode(b'{"keys":[{"scopes":["user/u-1"],"data_key":"' + KEY.hex().encode() + b'!"}]}'),
    ],
)
def test_no_failure_shows_a_key(fails: Callable[[], None], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyVaultError) as failure:
        fails()
    text = "".join(traceback.format_exception(failure.value))
    assert "Traceback" in text
    assert not shows(text)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").error("failed", exc_info=failure.value)
    assert not shows(caplog.text)


def test_a_body_is_wiped_when_it_is_decoded_whether_it_is_good_or_not() -> None:
    good = wire.encoder.encode(wire.WrapKeys(keys=[wire.WrapItem(scopes=("user/u-1",), data_key=KEY)]))
    for body in (bytearray(good), bytearray(good[:-1])):
        try:
            decoded = decode(msgspec.json.Decoder(wire.WrapKeys), body)
            assert decoded.keys[0].data_key == KEY
        except KeyVaultError:
            assert len(body) == len(good) - 1
        assert bytes(body) == bytes(len(body))


def test_a_buffer_is_not_wiped_while_somebody_reads_it() -> None:
    buffer = bytearray(KEY)
    view = memoryview(buffer)
    assert not wipe_released(buffer)
    assert bytes(view) == KEY
    view.release()
    assert wipe_released(buffer)
    assert bytes(buffer) == bytes(33)
    wipe(buffer)
