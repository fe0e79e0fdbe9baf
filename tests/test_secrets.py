"""Secrets: which variables hold them, which shapes they have, and that plain text stays as it is."""

from __future__ import annotations

import pickle

import pytest

from rlm_wasm.secrets import MARK, Secrets, of_environment


def test_variables_whose_names_sound_like_keys_hold_secrets() -> None:
    secret = ["OPENAI_API_KEY", "GH_TOKEN", "db_password", "PGPASSWORD", "AWS_SECRET_ACCESS", "MYSQL_PWD", "HTTP_AUTH"]
    plain = ["PWD", "OLDPWD", "HOME", "GIT_AUTHOR_NAME", "KEYBOARD", "TOKENIZERS_PARALLELISM", "PATH", "COMPASS"]
    assert of_environment({name: name for name in secret + plain}) == set(secret)


def test_a_short_value_is_no_secret_and_the_longest_goes_first() -> None:
    secrets = Secrets(["short", "a-longer-one", "a-longer-one-still", ""])
    assert secrets.hide("short a-longer-one-still a-longer-one") == f"short {MARK} {MARK}"
    assert "longer" not in repr(secrets)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("key sk-proj-abcdefghij0123456789_X.", f"key {MARK}."),
        ("Authorization: Bearer abcdef.012345-xyz", f"Authorization: Bearer {MARK}"),
        ("{'x-api-key': 'abcdefghijk0123456789'}", f"{{'x-api-key': '{MARK}'}}"),
        ('api_key="0123456789abcdefXYZ")', f'api_key="{MARK}")'),
        ("Basic dXNlcjpwYXNzd29yZA==", f"Basic {MARK}"),
        ("postgres://me:hunter2@host/db", f"postgres://{MARK}@host/db"),
        ("AIza" + "x" * 35, MARK),
        ("ghp_" + "a1" * 18, MARK),
        ("xoxb-123456789012-abc", MARK),
        ("id AKIAABCDEFGHIJKLMNOP", f"id {MARK}"),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4", MARK),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END", f"-----BEGIN RSA PRIVATE KEY-----{MARK}-----END"),
    ],
)
def test_well_known_shapes_of_keys_are_hidden(text: str, hidden: str) -> None:
    assert Secrets().hide(text) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "a task-oriented-and-long-winded-name",
        "the bearer of this letter",
        "api_key=os.environ['OPENAI_API_KEY']",
        "def find(api_key: str | None) -> str",
        "api_key=find_the_key_of_somebody_else",
        "https://example.org/a:b and me@example.org",
        "authorization: see the section on authorization",
    ],
)
def test_plain_text_and_code_stay_as_they_are(text: str) -> None:
    assert Secrets().hide(text) == text


def test_secrets_in_values_are_hidden_and_the_values_stay_values() -> None:
    secrets = Secrets(["in-the-value"])
    plain = {"in-the-value": [1, "x in-the-value", None], "$tuple": ["in-the-value"]}
    assert secrets.hide_in(plain) == {MARK: [1, f"x {MARK}", None], "$tuple": [MARK]}


def test_secrets_are_not_pickled_and_the_copy_knows_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(Secrets(["very-secret"]))
    assert b"very-secret" not in pickled
    monkeypatch.setenv("SOME_API_KEY", "another-secret")
    assert pickle.loads(pickled).hide("another-secret") == MARK
