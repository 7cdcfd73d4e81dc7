"""The valid API keys, from settings and file."""

from __future__ import annotations

from pathlib import Path

import pytest

from shimmy.errors import ConfigError
from shimmy.server.keys import KeyRing, key_ring
from shimmy.settings import Settings


def test_no_setting_asks_for_no_key() -> None:
    assert key_ring(Settings()) is None


def test_a_key_from_the_settings() -> None:
    keys = key_ring(Settings(api_key="s3cret"))
    assert keys is not None
    assert keys.accepts(b"s3cret")
    for wrong in (b"", b"s3cre", b"s3cret ", b"S3CRET"):
        assert not keys.accepts(wrong)


def test_keys_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes("# for Ann\none\n\n  two \r\n# three\nvier-ä\n".encode())
    keys = KeyRing("own", file)
    for valid in ("own", "one", "two", "vier-ä"):
        assert keys.accepts(valid.encode())
    for wrong in ("", "three", "# for Ann", "one\n\n"):
        assert not keys.accepts(wrong.encode())


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one")
    keys = KeyRing(None, file)
    file.write_text("second\n")
    assert keys.accepts(b"second")
    assert not keys.accepts(b"one")
    replacement = tmp_path / "new"
    replacement.write_text("third!\n")
    replacement.replace(file)
    assert keys.accepts(b"third!")


def test_a_file_that_vanishes_takes_its_keys_along(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("one")
    keys = KeyRing("own", file)
    file.unlink()
    assert not keys.accepts(b"one")
    assert keys.accepts(b"own")
    assert caplog.text.count("cannot be read any more") == 1
    file.write_text("one")
    assert keys.accepts(b"one")


def test_no_key_at_all_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("# nobody\n")
    for key, file, name in (("  ", None, "api_key "), (None, empty, "api_key_file")):
        with pytest.raises(ConfigError, match=name):
            KeyRing(key, file)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        KeyRing("own", tmp_path / name)
    assert caught.value.param == "api_key_file"


def test_keys_are_not_shown() -> None:
    settings = Settings(api_key="s3cret")
    keys = key_ring(settings)
    assert "s3cret" not in f"{settings!r}{keys!r}{vars(keys)!r}"
