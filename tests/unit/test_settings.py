from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from keyvault.errors import ConfigurationError, HomeNotFoundError
from keyvault.settings import FILE_NAME, NoticeSettings, Settings, load_settings, write_private, write_settings
from keyvault.transit.vault_settings import VaultSettings

EMBEDDED = {"id": "h-1", "engine": "embedded", "store": "sqlite:////x/store.db", "engine_dir": "/x/engine"}
VAULT = {"id": "h-2", "engine": "vault", "store": "postgresql://h/n", "vault": {"addr": "https://v:8200"}}


def toml(table: dict[str, object]) -> str:
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for name, inner in table.items():
        if isinstance(inner, dict):
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in inner.items())]
    return "\n".join(lines)


def load(home: Path, table: dict[str, object] | str, environment: dict[str, str] | None = None) -> Settings:
    (home / FILE_NAME).write_text(table if isinstance(table, str) else toml(table))
    return load_settings(home, environment or {})


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, dict(EMBEDDED))
    assert (settings.custody, settings.clock, settings.lease_ttl, settings.clock_skew) == (
        "dedicated",
        "real",
        60.0,
        5.0,
    )
    assert settings.vault is None
    options = load(tmp_path, dict(VAULT)).vault
    assert options == VaultSettings(addr="https://v:8200")
    assert (options.timeout, options.pool_size, options.prefix) == (10.0, 16, "keyvault")


@pytest.mark.parametrize(
    ("notices", "reason"),
    [
        ({}, "needs either command or file"),
        ({"command": ["tell"], "file": "/x"}, "needs either command or file"),
        ({"command": []}, "command is empty"),
        ({"file": "notices.jsonl"}, "must be an absolute path"),
        ({"command": "tell"}, "command must be list"),
        ({"command": ["tell", 1]}, "command must be list"),
        ({"file": 1}, "file must be str"),
        ({"url": "https://x"}, "url is not a setting"),
    ],
)
def test_notices_are_checked(tmp_path: Path, notices: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as raised:
        load(tmp_path, {**EMBEDDED, "notices": notices})
    assert "[notices]" in str(raised.value)


def test_notices_are_a_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="notices must be a table"):
        load(tmp_path, {**EMBEDDED, "notices": "/x"})


@pytest.mark.parametrize(
    "settings",
    [
        Settings(id="h", engine="embedded", store="sqlite:////x", engine_dir="/x", clock="simulated", lease_ttl=3600),
        *(
            Settings(id="h", engine="embedded", store="sqlite:////x", engine_dir="/x", notices=notices)
            for notices in (NoticeSettings(command=["tell", '"', "\\"]), NoticeSettings(file="/x/notices.jsonl"))
        ),
        Settings(
            id="h",
            engine="vault",
            store='postgresql://h/"quoted"\\',
            clock_skew=0,
            vault=VaultSettings(addr="https://v", ca_file=Path("/ca.pem"), namespace="ns", timeout=2.5, pool_size=4),
        ),
    ],
)
def test_what_is_written_is_read_back(tmp_path: Path, settings: Settings) -> None:
    write_settings(tmp_path, settings)
    assert load_settings(tmp_path, {}) == settings
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "colour is not a setting"),
        ({"store": 5}, "store must be str"),
        ({"lease_ttl": "60"}, "lease_ttl must be float"),
        ({"lease_ttl": True}, "lease_ttl must be float"),
        ({"engine_dir": 7}, "engine_dir must be str | None"),
        ({"engine": "cloud"}, "engine is 'cloud'; it can be embedded or vault"),
        ({"custody": "ring-of-fire"}, "custody is 'ring-of-fire'; it can be ring or dedicated"),
        ({"ring_capacity": 0}, "ring_capacity must be 1 to 8192 scopes"),
        ({"ring_capacity": 8193}, "ring_capacity must be 1 to 8192 scopes"),
        ({"ring_capacity": 40.5}, "ring_capacity must be int"),
        ({"clock": "sundial"}, "clock is 'sundial'; it can be real or simulated"),
        ({"lease_ttl": 0}, "lease_ttl must be above 0 and at most 3600 seconds"),
        ({"lease_ttl": 3600.5}, "lease_ttl must be above 0 and at most 3600 seconds"),
        ({"clock_skew": -1}, "clock_skew 0 to 60"),
        ({"clock_skew": 61}, "clock_skew 0 to 60"),
        ({"vault": {"addr": "https://v", "colour": "red"}}, "[vault]: colour is not a setting"),
        ({"vault": {"addr": 8200}}, "[vault]: addr must be str"),
        ({"vault": {"addr": "https://v", "pool_size": 1.5}}, "[vault]: pool_size must be int"),
        ({"vault": {"addr": "https://v", "pool_size": True}}, "[vault]: pool_size must be int"),
        ({"vault": {"prefix": "p"}}, "[vault]: a required setting is missing"),
    ],
    ids=lambda item: json.dumps(item) if isinstance(item, dict) else "",
)
def test_bad_settings_name_the_key_at_fault(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, {**EMBEDDED, **change})
    assert message in str(raised.value)


@pytest.mark.parametrize("text", ['vault = "https://v:8200"', "vault = 3", "vault = []"])
def test_a_vault_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="vault"):
        load(tmp_path, f"{toml(dict(EMBEDDED))}\n{text}\n")


@pytest.mark.parametrize("key", ["id", "engine", "store"])
def test_a_missing_setting_is_named(tmp_path: Path, key: str) -> None:
    table = {name: value for name, value in EMBEDDED.items() if name != key}
    with pytest.raises(ConfigurationError, match=f"a required setting is missing: .*'{key}'"):
        load(tmp_path, {**table})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": "h", "engine": "vault", "store": "s"}, r'engine "vault" needs a \[vault\] table with addr'),
        ({"id": "h", "engine": "embedded", "store": "s"}, 'engine "embedded" needs engine_dir'),
        ({**VAULT, "clock": "simulated"}, "a simulated clock is for embedded homes only"),
    ],
)
def test_settings_that_contradict_each_other(tmp_path: Path, table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path, table)


@pytest.mark.parametrize("text", ["= nothing", "id = 'a", "id = 1\nid = 2", "\x00"])
def test_a_file_that_is_not_toml(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"keyvault\.toml is not TOML: "):
        load(tmp_path, text)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"id = '\xff'")
    with pytest.raises(ConfigurationError, match=r"keyvault\.toml is not TOML: "):
        load_settings(tmp_path, {})


def test_a_directory_without_a_home_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(HomeNotFoundError, match=r"there is no home in .*: make one with `keyvault --home .* init`"):
        load_settings(tmp_path, {})
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_settings(tmp_path, {})


def test_the_environment_is_over_the_file_and_empty_values_do_not_count(tmp_path: Path) -> None:
    environment = {
        "KEYVAULT_STORE": "postgresql://other/n",
        "KEYVAULT_ENGINE_DIR": "",
        "KEYVAULT_VAULT_ADDR": "https://other",
        "KEYVAULT_VAULT_CA_FILE": "/ca.pem",
        "KEYVAULT_LEASE_TTL": "1",
    }
    settings = load(tmp_path, {**VAULT, "engine_dir": "/x"}, environment)
    assert (settings.store, settings.engine_dir, settings.lease_ttl) == ("postgresql://other/n", "/x", 60.0)
    assert settings.vault == VaultSettings(addr="https://other", ca_file=Path("/ca.pem"))
    assert load(tmp_path, dict(EMBEDDED), environment).vault is None


def test_the_programs_own_environment_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, dict(EMBEDDED))
    monkeypatch.setenv("KEYVAULT_ENGINE_DIR", "/elsewhere")
    assert load_settings(tmp_path).engine_dir == "/elsewhere"


def test_a_private_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    monkeypatch.setattr("keyvault.settings.os.fsync", _full)
    with pytest.raises(OSError, match="full"):
        write_private(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["secret"]
    monkeypatch.undo()
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _full(_descriptor: int) -> None:
    raise OSError("the disk is full")
