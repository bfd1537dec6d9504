"""A key that a configuration file names is sent only where somebody has said so."""

import shlex
from pathlib import Path

import pytest

from lora_tui.config.key_consent import KeyQuestion, allow_key, key_question
from lora_tui.config.load import Loaded, load_settings

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_TUI_CONFIG", str(tmp_path / "own"))
    for name in ("AWS_SECRET_ACCESS_KEY", "STRIPE_API_KEY", "OPENAI_API_KEY", "MISTRAL_API_KEY"):
        monkeypatch.setenv(name, SECRET)


def loaded(variable: str, url: str = "https://models.example/v1", *overrides: str, **environment: str) -> Loaded:
    Path("config.toml").write_text(f'[data_generation]\nmodel = "m"\napi_key_env = "{variable}"\nbase_url = "{url}"\n')
    return load_settings(None, overrides, environment=environment)


def question(found: Loaded) -> KeyQuestion | None:
    return key_question(
        found.settings.data_generation, found.key_named_in, found.address_named_in, found.hosts_named_in
    )


@pytest.mark.parametrize("url", ["https://models.example/v1", "http://127.0.0.1:8000/v1", ""])
def test_any_other_variable_is_asked_about_once_for_each_file_and_address(url: str) -> None:
    asked = question(loaded("AWS_SECRET_ACCESS_KEY", url))
    assert asked is not None
    assert "AWS_SECRET_ACCESS_KEY" in asked.text
    assert "config.toml" in asked.text
    assert "--set data_generation.api_key_env=AWS_SECRET_ACCESS_KEY" in asked.refusal
    assert len(asked.refusal.splitlines()) == 2
    assert SECRET not in asked.refusal
    allow_key(asked)
    assert question(loaded("AWS_SECRET_ACCESS_KEY", url)) is None
    assert question(loaded("AWS_SECRET_ACCESS_KEY", "https://other.example/v1")) is not None
    assert question(loaded("STRIPE_API_KEY", "https://models.example/v1")) is not None
    Path("sub").mkdir()
    other = Path("sub/config.toml")
    Path("config.toml").rename(other)
    assert question(load_settings(other, environment={})) is not None


def test_nobody_is_asked_about_what_the_command_line_or_the_environment_names() -> None:
    assert question(loaded("MY_KEY", "", 'data_generation.api_key_env="AWS_SECRET_ACCESS_KEY"')) is None
    given = {"LORA_TUI__DATA_GENERATION__API_KEY_ENV": "AWS_SECRET_ACCESS_KEY"}
    assert question(loaded("MY_KEY", "", **given)) is None


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("OPENAI_API_KEY", ""),
        ("OPENAI_API_KEY", "https://eu.api.openai.com/v1"),
        ("OPENAI_API_KEY", "http://gpu-box:8000/v1"),
        ("OPENAI_API_KEY", "http://192.168.1.20:8000/v1"),
        ("OPENAI_API_KEY", "http://box.local/v1"),
        ("VLLM_API_KEY", "https://models.example/v1"),
        ("MISTRAL_API_KEY", "https://api.mistral.ai/v1"),
        ("STRIPE_API_KEY", "http://127.0.0.1:8000/v1"),
        ("NOT_SET", "https://models.example/v1"),
    ],
)
def test_nobody_is_asked_about_usual_keys_or_none(variable: str, url: str) -> None:
    assert question(loaded(variable, url)) is None


@pytest.mark.parametrize(
    "url",
    ["https://models.example/v1", "https://openai.com.example/v1", "https://api.mistral.ai/v1", "http://8.8.8.8/v1"],
)
def test_a_usual_key_is_asked_about_where_a_file_sends_it_to_somebody_else(url: str) -> None:
    asked = question(loaded("OPENAI_API_KEY", url))
    assert asked is not None
    assert "has OPENAI_API_KEY as the key for" in asked.refusal
    allow_key(asked)
    assert question(loaded("OPENAI_API_KEY", url)) is None


def test_nobody_is_asked_about_a_usual_key_and_an_address_that_was_typed() -> None:
    typed = 'data_generation.base_url="https://models.example/v1"'
    assert question(loaded("OPENAI_API_KEY", "https://other.example/v1", typed)) is None
    assert question(loaded("AWS_SECRET_ACCESS_KEY", "https://other.example/v1", typed)) is not None


def test_a_placeholder_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_TOKEN", "ollama")
    assert question(loaded("LOCAL_TOKEN")) is None


@pytest.mark.parametrize("kept", ["", "[", "{}", '"x"', "[" * 10_000])
def test_a_damaged_memory_asks_again(kept: str) -> None:
    asked = question(loaded("AWS_SECRET_ACCESS_KEY"))
    assert asked is not None
    allow_key(asked)
    (Path("own") / "allowed_keys.json").write_text(kept)
    assert question(loaded("AWS_SECRET_ACCESS_KEY")) == asked


def test_of_several_endpoints_each_is_asked_about_with_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", SECRET)
    Path("config.toml").write_text(
        '[data_generation]\nmodel = "m"\nbase_urls = ["https://api.groq.com/v1", "https://models.example/v1"]\n'
        '[data_generation.api_key_envs]\n"api.groq.com" = "GROQ_API_KEY"\n"models.example" = "AWS_SECRET_ACCESS_KEY"\n'
    )
    asked = question(load_settings(None, environment={}))
    assert asked is not None
    assert asked.variable == "AWS_SECRET_ACCESS_KEY", "a provider's own variable goes to that provider unasked"
    assert asked.address == "https://models.example"
    allow_key(asked)
    assert question(load_settings(None, environment={})) is None
    more = 'data_generation.base_urls=["https://api.groq.com/v1", "https://elsewhere.example/v1"]'
    assert question(load_settings(None, [more], environment={})) is None, "a typed address, and the default variable"
    Path("config.toml").write_text(Path("config.toml").read_text().replace("models.example/v1", "elsewhere.example/v1"))
    asked = question(load_settings(None, environment={}))
    assert asked is not None
    assert (asked.variable, asked.address) == ("OPENAI_API_KEY", "https://elsewhere.example")


def test_an_endpoint_that_is_named_twice_is_one() -> None:
    twice = 'data_generation.base_urls=["http://a:1/v1/", "http://b:1/v1", "http://a:1/v1"]'
    chosen = load_settings(None, [twice, 'data_generation.judge_base_urls=["http://a:1/v1/"]'], environment={})
    found = chosen.settings.data_generation
    assert found.urls == found.writer_urls == ["http://a:1/v1", "http://b:1/v1"]
    assert found.judge_urls == ["http://a:1/v1"], "in the same words, or nobody would judge"


def test_a_typed_variable_is_not_a_word_on_those_of_hosts() -> None:
    Path("config.toml").write_text(
        '[data_generation]\nmodel = "m"\nbase_urls = ["https://one.example/v1", "https://two.example/v1"]\n'
        '[data_generation.api_key_envs]\n"one.example" = "OPENAI_API_KEY"\n"two.example" = "AWS_SECRET_ACCESS_KEY"\n'
    )
    typed = "data_generation.api_key_env=MISTRAL_API_KEY"
    asked = question(load_settings(None, [typed], environment={}))
    assert asked is not None
    assert (asked.variable, asked.address) == ("OPENAI_API_KEY", "https://one.example")
    one = 'data_generation.api_key_envs."one.example"=OPENAI_API_KEY'
    assert question(load_settings(None, [typed, one], environment={})) is not None, "two.example is still the file's"
    option = shlex.split(asked.refusal.partition("--set ")[2].removesuffix("."))[0]
    assert question(load_settings(None, [option], environment={})) is None, "what the message says to add helps"
