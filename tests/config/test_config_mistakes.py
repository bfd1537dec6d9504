"""Every mistake is refused in one or two lines that name the place, the key, what is wrong and what to do."""

import re
import traceback
from pathlib import Path

import pytest

from lora_tui.config.load import load_settings
from lora_tui.config.models import Settings
from lora_tui.errors import ConfigError

G = "[data_generation]\n"
P = "[data_generation.generation]\n"
L = "[fine_tuning.lora]\n"
E = "[fine_tuning.evaluation]\n"

# What config.toml holds, and the parts that the first line of the message must have.
IN_A_FILE = {
    "misspelt key": (G + "modle = 'x'", ["line 2: data_generation.modle is not a key", "mean data_generation.model?"]),
    "misspelt key below a comment and a list": (
        L + "target_modules = [\n  'a', # ]\n  'b',\n]\n\n# more\ndropuot = 0.1",
        ["line 8: fine_tuning.lora.dropuot", "mean fine_tuning.lora.dropout?"],
    ),
    "misspelt key below a text of many lines": (
        E + 'expected_response = """\nr = 1\n[section]\n"""\nmax_new_token = 3',
        ["line 6: fine_tuning.evaluation.max_new_token ", "mean fine_tuning.evaluation.max_new_tokens?"],
    ),
    "right key in the wrong section": (G + "top_p = 0.5", ["line 2", "mean data_generation.generation.top_p?"]),
    "same name in many sections": (
        "[data_generation.evaluation]\nmax_token = 5",
        ["mean data_generation.evaluation.max_tokens?"],
    ),
    "tokens misplaced are no secret": (
        G + "max_tokens = 5",
        ["data_generation.max_tokens is not a key", "mean data_gen"],
    ),
    "key without a section": ("r = 8", ["line 1: r is not a key", "mean fine_tuning.lora.r?"]),
    "name from another tool": (L + "lora_alpha = 8", ["line 2", "mean fine_tuning.lora.alpha?"]),
    "learning rate by its usual name": (
        "[fine_tuning.optimizer]\nlearning_rate = 1e-3",
        ["mean fine_tuning.optimizer.lora_lr?"],
    ),
    "name from another tool with dashes": (L + "lora-rank = 8", ["mean fine_tuning.lora.r?"]),
    "dashes for underscores": (G + "total-examples = 5", ["mean data_generation.total_examples?"]),
    "misspelt section": ("\n[fine_tunning]\n", ["line 2: fine_tunning is not a section", "mean [fine_tuning]?"]),
    "misspelt section above another": ("[fine_tunning.lora]\nr = 8", ["line 1: fine_tunning is not a section"]),
    "section without its parent": ("[lora]\nr = 8", ["line 1: lora is not a section", "mean [fine_tuning.lora]?"]),
    "keys by their usual name": ("[app.keymap]\na = 'b'", ["is not a section", "mean [app.keys]?"]),
    "nothing near": (
        L + "zzzzzzzzz = 1",
        ["is not a key; [fine_tuning.lora] has r, alpha, dropout, target_modules, use_rslora"],
    ),
    "a section nothing is near": (
        "[xqz]",
        ["xqz is not a section", "[data_generation], [fine_tuning], [serving], [logging]"],
    ),
    "dotted name in quotes": ("[fine_tuning]\n'lora.r' = 8", ["line 2", "is not a key"]),
    "section given as a value": ("logging = 'INFO'", ["line 1: logging is a section", "[logging] has level"]),
    "number in quotes": (
        L + "r = '10'",
        ["line 2: fine_tuning.lora.r must be a whole number", "write 10 without quotes"],
    ),
    "decimal number in quotes": (P + "top_p = '0.5'", ["must be a number, not the text", "write 0.5 without quotes"]),
    "truth value for a whole number": (L + "r = true", ["fine_tuning.lora.r must be a whole number, not true"]),
    "truth value for a number": (P + "top_p = false", ["top_p must be a number, not false"]),
    "broken number for a whole one": (L + "r = 8.5", ["must be a whole number, not 8.5", "(the default is 16)"]),
    "whole float for a whole number": (L + "r = 8.0", ["must be a whole number, not 8.0"]),
    "number for text": (G + "model = 4", ["data_generation.model must be text, not 4; put it in quotes"]),
    "date for text": (G + "model = 2024-01-01", ["must be text, not the date or time 2024-01-01"]),
    "text for a truth value": (
        "[fine_tuning.training]\nshuffle = 'True'",
        ["shuffle must be true or false", "write true without quotes"],
    ),
    "text for a list": (G + "topics = 'a'", ["topics must be a list of texts", "put it in brackets"]),
    "number in a list of texts": (G + "topics = ['a', 3]", ["data_generation.topics item 2 must be text, not 3"]),
    "list for a number": (L + "dropout = [0.1]", ["must be a number, not a list"]),
    "table for a number": (L + "dropout = {a = 1}", ["must be a number, not a table"]),
    "rank 0": (L + "r = 0", ["line 2: fine_tuning.lora.r must be at least 1, not 0 (the default is 16)"]),
    "negative count": (G + "total_examples = -5", ["must be at least 1, not -5"]),
    "count beyond any use": (G + "total_examples = 10000000000000000000000", ["must be at most 1e+12"]),
    "dropout 1": (L + "dropout = 1", ["fine_tuning.lora.dropout must be below 1, not 1"]),
    "negative dropout": (L + "dropout = -0.1", ["must be at least 0, not -0.1"]),
    "no number": (L + "dropout = nan", ["must be a finite number, not nan"]),
    "infinite rate": ("[fine_tuning.optimizer]\nlora_lr = inf", ["lora_lr must be a finite number, not inf"]),
    "top_p 0": (P + "top_p = 0", ["must be above 0, not 0"]),
    "top_p above 1": (P + "top_p = 1.5", ["must be at most 1, not 1.5"]),
    "penalty": (P + "presence_penalty = 2.5", ["must be at most 2, not 2.5"]),
    "penalty below": (P + "frequency_penalty = -3", ["must be at least -2, not -3"]),
    "temperature": (P + "temperature = 3", ["must be at most 2, not 3"]),
    "beta 1": ("[fine_tuning.optimizer]\nbeta1 = 1", ["beta1 must be below 1"]),
    "learning rate 0": ("[fine_tuning.optimizer]\nlora_lr = 0", ["lora_lr must be above 0, not 0"]),
    "unknown scheduler": (
        "[fine_tuning.scheduler]\ntype = 'cosin'",
        ['must be "cosine", "linear" or "constant"', 'did you mean "cosine"?'],
    ),
    "level in lower case": ("[logging]\nlevel = 'debug'", ["line 2: logging.level", 'did you mean "DEBUG"?']),
    "unknown device": ("[fine_tuning]\ndevice = 'gpu'", ["fine_tuning.device must be", '"cuda" or "cuda:N"']),
    "device without its number": ("[fine_tuning]\ndevice = 'cuda:'", ["fine_tuning.device must be"]),
    "checkpointing in words": ("[fine_tuning]\ngradient_checkpointing = 'yes'", ["must be true, false", '"auto"']),
    "targets in one text": (L + "target_modules = 'q_proj'", ['["q_proj", "v_proj"], or "all-linear"']),
    "no targets": (L + "target_modules = []", ["target_modules must be a list of module names"]),
    "first values that need data": (L + "init_lora_weights = 'eva'", ["line 2", 'must be true, "gaussian"', "data"]),
    "first values that are not LoRA's": (L + "init_lora_weights = false", ["init_lora_weights must be true"]),
    "first values misspelt": (L + "init_lora_weights = 'pissa_niter_0'", ["init_lora_weights must be true"]),
    "one module's name alone": (L + "modules_to_save = 'lm_head'", ['such as ["lm_head"]']),
    "module trained both ways": (
        L + "target_modules = ['lm_head']\nmodules_to_save = ['lm_head']",
        ['line 3: fine_tuning.lora.modules_to_save and target_modules both name "lm_head"'],
    ),
    "orthogonal values of an odd rank": (
        L + "init_lora_weights = 'orthogonal'\nr = 3",
        ["line 2", "ranks that are even"],
    ),
    "text for a rank": (
        L + "r = 8\n[fine_tuning.lora.rank_pattern]\nq_proj = 'x'",
        ["line 4: fine_tuning.lora.rank_pattern q_proj must be a whole number"],
    ),
    "rank 0 of a layer": (
        "[fine_tuning.lora.rank_pattern]\nq_proj = 0",
        ["line 2", "q_proj must be at least 1, not 0"],
    ),
    "layer's name without quotes": ("[fine_tuning.lora.alpha_pattern]\nlayers.q_proj = 8", ["goes in quotes"]),
    "no pattern": ("[fine_tuning.lora.alpha_pattern]\n'(' = 8", ["names of modules, or regular expressions"]),
    "ratio below 1": ("[fine_tuning.optimizer]\nloraplus_lr_ratio = 0.5", ["line 2", "must be at least 1, not 0.5"]),
    "4 bits of what is left": (
        "[fine_tuning]\nqlora = true\n[fine_tuning.lora]\ninit_lora_weights = 'pissa'",
        ['line 2: fine_tuning.qlora = true cannot begin as lora.init_lora_weights = "pissa"'],
    ),
    "4 bits of a file": ("[fine_tuning]\nqlora = true\nmodel_name = 'a.gguf'", ["needs a model in safetensors form"]),
    "unknown tracker": (
        "[fine_tuning]\nreport_to = ['foo']",
        ['report_to item 1 must be "tensorboard", "wandb" or "trackio", not the text "foo"'],
    ),
    "empty model": (G + "model = '  '", ["data_generation.model must not be empty"]),
    "NUL in a path": (G + 'input_folder = "a\\u0000b"', ["input_folder must not contain a NUL character"]),
    "no test prompts": (E + "test_prompts = []", ["test_prompts must hold at least 1"]),
    "number as test prompt": (E + "test_prompts = ['a', 3]", ["test_prompts item 2 must be text or a table"]),
    "test prompt without measure": (
        E + "test_prompts = [{ prompt = 'a' }]",
        ["test_prompts item 1 must hold exactly one of expected and avoid"],
    ),
    "test prompt with both measures": (
        E + "test_prompts = [{ prompt = 'a', expected = 'b', avoid = 'c' }]",
        ["item 1 must hold exactly one of expected and avoid"],
    ),
    "misspelt part of a test prompt": (
        E + "test_prompts = ['x', { prompt = 'a', expected = 'c', advoid = 'b' }]",
        ["line 2", "test_prompts item 2 advoid is not known here"],
    ),
    "test prompt that lacks the prompt": (
        E + "test_prompts = [{ expected = 'c' }]",
        ["test_prompts item 1 prompt is missing"],
    ),
    "exit as special command": (
        "[fine_tuning.chat.commands]\nExit = 'x'",
        ["commands must not hold", "leaves the chat"],
    ),
    "command without text": ("[fine_tuning.chat.commands]\na = 3", ["fine_tuning.chat.commands a must be text, not 3"]),
    "binding without quotes around its name": (
        "[app.keys]\ntrain.stop = 'ctrl+s'",
        ["line 1: app.keys must hold text in every line", 'a name with a dot goes in quotes, as in "train.stop" = '],
    ),
    "key as other programs write it": (
        "[app.keys]\n'train.stop' = 'Ctrl+S'",
        ['line 2: app.keys "train.stop" must be keys such as "ctrl+s"'],
    ),
    "key with a dash": ("[app.keys]\nstop = 'ctrl s'", ['app.keys stop must be keys such as "ctrl+s"']),
    "key in words": ("[app.keys]\nstop = 'page down'", ['app.keys stop must be keys such as "ctrl+s"']),
    "binding without keys": ("[app.keys]\nstop = ''", ["app.keys stop must be keys such as"]),
    "binding with a comma too many": ("[app.keys]\nstop = 'a,'", ["app.keys stop must be keys such as"]),
    "number for keys": ("[app.keys]\nstop = 3", ["app.keys stop must be text, not 3"]),
    "keys without a name": ("[app.keys]\n'' = 'a'", ["app.keys must hold the name of a binding"]),
    "refresh beyond any terminal": ("[app]\nrefresh_per_second = 60", ["must be at most 10, not 60"]),
    "unknown animation": ("[app]\nanimation = 'off'", ['app.animation must be "auto", "full" or "none"']),
    "negative price": (G + "prompt_price = -1", ["prompt_price must be at least 0, not -1"]),
    "overlap as large as the chunk": (
        G + "chunk_tokens = 30",
        ["line 2: data_generation.chunk_overlap = 40 must be less than chunk_tokens = 30"],
    ),
    "no end": (
        "[fine_tuning.training]\nmax_epochs = 0",
        ["line 2: fine_tuning.training.max_epochs = 0 needs max_steps"],
    ),
    "output is the store": (G + "output_file = 'x'\ndb_path = 'x'", ["output_file and db_path name the same file"]),
    "address without scheme": (G + "base_url = 'localhost:8000/v1'", ["base_url must begin with http://"]),
    "address of a file": (G + "base_url = 'file:///etc/passwd'", ["base_url must begin with http://"]),
    "address without host": (G + "base_url = 'http:///v1'", ["base_url is not a web address"]),
    "address with a broken port": (G + "base_url = 'http://a:b:c/v1'", ["base_url is not a web address"]),
    "text without quotes": (G + "model = gpt-4", ["line 2: not valid TOML", "text needs quotes"]),
    "Python's True": (G + "\nmodel = True", ["line 3: not valid TOML", "true and false are written in lower case"]),
    "colon": (G + "model: 'x'", ["line 2: not valid TOML", "a line is key = value"]),
    "open quote": (G + "model = 'x\nseed = 1\n", ["line 2: not valid TOML", "a quote is not closed"]),
    "open double quote": (G + 'model = "x\nseed = 1\n', ["line 2: not valid TOML", "a quote is not closed"]),
    "open text of many lines": (G + 'model = """x\nseed = 1\n', ["line 2: not valid TOML", "a quote is not closed"]),
    "open list at the end": (G + "topics = ['a',\n\n", ["line 2: not valid TOML", "a list is not closed"]),
    "open list above a section": (
        G + "topics = ['a',\n'b'\n\n[logging]\n",
        ["line 2: not valid TOML", "a list is not closed"],
    ),
    "open list": (G + "topics = ['a',\nseed = 1\n", ["line 3: not valid TOML", "what begins on line 2 is not closed"]),
    "key twice": (G + "seed = 1\nseed = 2", ["line 3: not valid TOML", "stands twice"]),
    "section twice": (G + "seed = 1\n" + G, ["line 3: not valid TOML", "stands twice"]),
    "open section": ("[data_generation\n", ["line 1: not valid TOML", "[section]"]),
    "backslash": (G + 'input_folder = "C:\\data"', ["line 2: not valid TOML", "use single quotes"]),
    "two keys on a line": (G + "seed = 1 model = 'x'", ["line 2: not valid TOML", "one line holds one key"]),
    "endless number": (G + "seed = " + "1" * 5000, ["line 2: not valid TOML", "out of range"]),
    "endless path": (".".join(["a"] * 2_000) + " = 1", ["line 1: a is not a section"]),
    "endless nesting": ("a = " + "[" * 100_000, ["nested too deeply"]),
}


def refusal(*overrides: str, config_file: Path | None = None, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(config_file, overrides, environment=environment or {})
    message = str(caught.value)
    assert message.count("\n") <= 1, message
    assert "Traceback" not in message
    assert "pydantic" not in message
    assert re.fullmatch(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f]*", message), "control characters"
    assert all(len(line) < 400 for line in message.splitlines())
    return message


@pytest.mark.parametrize(("content", "parts"), IN_A_FILE.values(), ids=IN_A_FILE.keys())
def test_mistake_in_the_file_is_told_with_its_place_and_remedy(content: str, parts: list[str], folder: Path) -> None:
    (folder / "config.toml").write_text(content)
    first = refusal().splitlines()[0]
    assert first.startswith("config.toml")
    for part in parts:
        assert part in first


OVERRIDES = {
    "no value": ("fine_tuning.lora.r", ['--set: "fine_tuning.lora.r" is not key=VALUE', "--set fine_tuning.lora.r=8"]),
    "no key": ("=3", ["is not key=VALUE"]),
    "no dotted key": ("fine tuning.r=3", ["is not key=VALUE"]),
    "unknown key": ("fine_tuning.lora.rr=3", ["--set: fine_tuning.lora.rr is not a key", "mean fine_tuning.lora.r?"]),
    "unknown section": ("finetuning.lora.r=3", ["--set: finetuning is not a section", "mean [fine_tuning]?"]),
    "below a key": ("fine_tuning.lora.r.x=3", ["fine_tuning.lora.r must be a whole number, not a table"]),
    "section": ("fine_tuning.lora=3", ["fine_tuning.lora is a section, not a key, and cannot be 3"]),
    "word for a number": ("fine_tuning.lora.r=x", ['fine_tuning.lora.r must be a whole number, not the text "x"']),
    "capital": ("fine_tuning.training.shuffle=True", ["must be true or false", "write true without quotes"]),
    "list without quotes": ("fine_tuning.lora.target_modules=[q]", ["target_modules is not valid TOML", "in quotes"]),
    "impossible value": ("fine_tuning.lora.dropout=1", ["--set: fine_tuning.lora.dropout must be below 1, not 1"]),
    "number for text": ("data_generation.model=4", ["must be text, not 4; put it in quotes"]),
    "escape sequence": ("fine_tuning.lora.r=\x1b]52;c;AA\x07", ["fine_tuning.lora.r must be a whole number"]),
    "not UTF-8": ("data_generation.model=\udcff", ["data_generation.model is not UTF-8"]),
    "endless path": (".".join(["a"] * 2_000) + "=1", ["--set: a is not a section"]),
    "keys of a binding": ("app.keys.train.stop=Ctrl+S", ['--set: app.keys "train.stop" must be keys such as']),
    "conflict": ("fine_tuning.training.max_epochs=0", ["--set: fine_tuning.training.max_epochs = 0 needs max_steps"]),
}


@pytest.mark.parametrize(("override", "parts"), OVERRIDES.values(), ids=OVERRIDES.keys())
def test_mistake_on_the_command_line_is_told_with_the_option(override: str, parts: list[str]) -> None:
    message = refusal(override)
    for part in parts:
        assert part in message


ENVIRONMENT = {
    "wrong type": (
        {"LORA_TUI__FINE_TUNING__LORA__R": "x"},
        ["environment variable LORA_TUI__FINE_TUNING__LORA__R: fine_tuning.lora.r must be a whole number"],
    ),
    "unknown key": (
        {"LORA_TUI__DATA_GENERATION__MODLE": "x"},
        ["LORA_TUI__DATA_GENERATION__MODLE", "mean data_generation.model?"],
    ),
    "unknown section": ({"LORA_TUI__X": "x"}, ["LORA_TUI__X: x is not a key"]),
    "nothing named": ({"LORA_TUI__": "x"}, ["LORA_TUI__: "]),
    "twice in another case": (
        {"LORA_TUI__LOGGING__LEVEL": "INFO", "lora_tui__logging__level": "INFO"},
        ["lora_tui__logging__level", "is also set by LORA_TUI__LOGGING__LEVEL; unset one"],
    ),
}


@pytest.mark.parametrize(("environment", "parts"), ENVIRONMENT.values(), ids=ENVIRONMENT.keys())
def test_mistake_in_the_environment_is_told_with_the_variable(environment: dict[str, str], parts: list[str]) -> None:
    message = refusal(environment=environment)
    for part in parts:
        assert part in message


def test_word_of_a_table_is_told_with_the_place_it_comes_from(folder: Path) -> None:
    (folder / "config.toml").write_text("[app.keys]\n'a.b' = 'f1'\n'c.d' = 'F2 !'\n")
    override = "app.keys.a.b=f3"
    assert refusal(override).startswith('config.toml, line 3: app.keys "c.d" must be keys such as')
    assert refusal(override, "app.keys.c.d=F4 !").startswith('--set: app.keys "c.d" must be keys such as')
    variable = {"LORA_TUI__APP__KEYS__C__D": "F4 !"}
    assert refusal(override, environment=variable).startswith(
        "environment variable LORA_TUI__APP__KEYS__C__D: app.keys"
    )
    assert refusal("app.keys={'c.d' = '! !'}", environment=variable).startswith('--set: app.keys "c.d"')


def test_several_mistakes_are_told_first_by_line_with_the_others_named(folder: Path) -> None:
    (folder / "config.toml").write_text(L + "r = 0\ndropuot = 1\n" + G + "modle = 'x'\n")
    first, second = refusal("logging.level=LOUD").splitlines()
    assert first.startswith("config.toml, line 2: fine_tuning.lora.r must be at least 1")
    assert second == (
        "and 3 more: fine_tuning.lora.dropuot (line 3), data_generation.modle (line 5), logging.level (--set)."
    )


def test_very_many_mistakes_still_take_two_lines(folder: Path) -> None:
    (folder / "config.toml").write_text("".join(f"zz{number} = 1\n" for number in range(100)))
    assert "and 99 more: zz1 (line 2), " in refusal()


def test_text_from_the_file_cannot_reach_the_terminal_as_an_escape_sequence(folder: Path) -> None:
    (folder / "config.toml").write_text('"a\\u001b[31m\\u202eb" = 1\n')
    assert "␛[31m" in refusal()


def test_named_file_that_is_missing() -> None:
    assert refusal(config_file=Path("none.toml")).startswith("There is no configuration file none.toml. Check --config")


def test_folder_in_place_of_a_file(folder: Path) -> None:
    assert "is a folder" in refusal(config_file=folder)
    (folder / "config.toml").mkdir()
    assert refusal().startswith("config.toml is a folder")


def test_link_to_nothing_is_not_taken_for_no_file(folder: Path) -> None:
    (folder / "config.toml").symlink_to("gone.toml")
    assert "config.toml is a link to a file that is not there" in refusal()


def test_file_that_may_not_be_read(folder_of_nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_of_nobody)
    Path("config.toml").touch(mode=0)
    assert "config.toml cannot be read: Permission denied." in refusal()


def test_path_through_a_file(folder: Path) -> None:
    (folder / "file").touch()
    assert "cannot be read: Not a directory." in refusal(config_file=folder / "file" / "config.toml")


def test_file_that_is_not_utf8_is_told_with_its_line(folder: Path) -> None:
    (folder / "config.toml").write_bytes("# a\nb = 'ä'\n".encode("latin-1"))
    assert refusal() == "config.toml, line 2: not UTF-8. Save the file as UTF-8 text."


def test_file_that_is_far_too_large_is_not_read(folder: Path) -> None:
    with (folder / "config.toml").open("wb") as file:
        file.truncate(10**9)
    assert "larger than 1 MB" in refusal()


SECRETS = {
    "api_key": (G + "api_key = 'sk-VERYSECRET'", []),
    "openai_api_key": ("[openai]\nopenai_api_key = 'sk-VERYSECRET'", []),
    "capital name": ("OPENAI_API_KEY = 'sk-VERYSECRET'", []),
    "dashes": (G + "api-key = 'sk-VERYSECRET'", []),
    "token": (G + "token = 'VERYSECRET'", []),
    "hf_token": ("[fine_tuning]\nhf_token = 'VERYSECRET'", []),
    "password": (G + "password = 'VERYSECRET'", []),
    "deep inside": ("[a.b]\nc = [{ password = 'VERYSECRET' }]", []),
    "in a test prompt": (E + "test_prompts = [{ prompt = 'a', api_key = 'VERYSECRET' }]", []),
    "in the commands": ("[fine_tuning.chat.commands]\napi_key = 'VERYSECRET'", []),
    "on the command line": ("", ["data_generation.api_key=sk-VERYSECRET"]),
    "a command on the command line": ("", ["fine_tuning.chat.commands.api_key=sk-VERYSECRET"]),
}


@pytest.mark.parametrize(("content", "overrides"), SECRETS.values(), ids=SECRETS.keys())
def test_secret_is_refused_first_and_never_shown(content: str, overrides: list[str], folder: Path) -> None:
    (folder / "config.toml").write_text("zzz = 1\n" + content)
    message = refusal(*overrides)
    assert "keys come from the environment: export OPENAI_API_KEY=…" in message.splitlines()[0]
    assert "VERYSECRET" not in message


SECRETS_IN_VALUES = {
    "password in the address": "base_url = 'https://me:VERYSECRET@host/v1'",
    "user name in the address": "base_url = 'https://VERYSECRET@host/v1'",
    "query": "base_url = 'https://host/v1?api-key=VERYSECRET'",
    "fragment": "base_url = 'https://host/v1#VERYSECRET'",
    "password in a broken address": "base_url = 'https://me:VERYSECRET@[host/v1'",
    "password in an address of another scheme": "base_url = 'ftp://me:VERYSECRET@host/v1'",
    "key for its variable": "api_key_env = 'sk-VERYSECRET'",
    "another key for its variable": "api_key_env = 'gsk_a0VERYSECRET'",
    "key for a number": "seed = 'sk-VERYSECRET'",
    "long key for a number": "seed = 'a0a0a0a0a0a0a0a0a0a0a0a0a0a0VERYSECRET'",
    "key for a name": "'sk-VERYSECRET' = 1",
    "key alone on a line": "sk-VERYSECRET",
}


@pytest.mark.parametrize("line", SECRETS_IN_VALUES.values(), ids=SECRETS_IN_VALUES.keys())
def test_value_that_holds_a_secret_is_refused_without_showing_it(line: str, folder: Path) -> None:
    (folder / "config.toml").write_text(G + line)
    with pytest.raises(ConfigError) as caught:
        load_settings(environment={})
    assert "config.toml, line 2" in str(caught.value)
    # The log file gets the traceback: the chain of causes must be as silent as the message.
    assert "VERYSECRET" not in "".join(traceback.format_exception(caught.value))


def test_plain_validation_is_as_silent_as_loading() -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        Settings.model_validate({"data_generation": {"base_url": "https://me:VERYSECRET@host/v1"}})
    assert "VERYSECRET" not in str(caught.value)


def test_secret_in_a_malformed_override_is_not_shown() -> None:
    assert "VERYSECRET" not in refusal("sk-VERYSECRET")


def test_words_of_the_special_commands_are_the_users_own(folder: Path) -> None:
    (folder / "config.toml").write_text("[fine_tuning.chat.commands]\npassword = 'no'\ntoken = 'neither'\n")
    assert load_settings(environment={}).settings.fine_tuning.chat.commands == {"password": "no", "token": "neither"}
