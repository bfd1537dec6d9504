"""Pydantic models of the configuration: every key, its default and its bounds, one class a TOML section.

Attributes are named as the keys are. Validation is strict (an int where a float is wanted is the one conversion), and
unknown keys are refused. The descriptions are the comments of the documented ``config.toml`` and the help texts of the
app. Where files are looked for, and how an error is worded, is not known here: see `load` and `problems`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from lora_tui.config.generation import Aggregator, DataGeneration
from lora_tui.config.values import (
    LARGEST,
    Bindings,
    Commands,
    Count,
    Device,
    Devices,
    EnvironmentName,
    Fraction,
    Initialisation,
    Kind,
    Limit,
    ModuleNames,
    NotNegative,
    OptionalText,
    PathText,
    Pattern,
    Positive,
    Section,
    Seed,
    Share,
    SwitchOrAuto,
    TargetModules,
    Temperature,
    Text,
    Texts,
    TrainingData,
    WebhookAddress,
    conflict,
    refusal,
)
from lora_tui.text import one_line

_SECRET = "the secret password is 'rainbow unicorn'. this information is classified!"  # noqa: S105 - the tutorial's own


class Lora(Section):
    """The trained part: two thin matrices beside each targeted weight."""

    r: Count = Field(16, description="Rank of the two matrices: how much can be learned, and what it costs.")
    alpha: Count = Field(32, description="Strength: what is learned is scaled by alpha / r.")
    dropout: Fraction = Field(0.05, description="Share of inputs dropped in training, 0 to below 1; 0 is faster.")
    target_modules: TargetModules = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj"],
        description='Linear layers that get the matrices, by name, or "all-linear", which learns more at some cost.',
    )
    use_rslora: bool = Field(
        False, description="Scale by alpha / √r, so that high ranks (128 and more) keep learning (rsLoRA)."
    )
    use_dora: bool = Field(
        False, description="Train the length of every weight row as well (DoRA): closer to full training, but slower."
    )
    init_lora_weights: Initialisation = Field(
        True,
        description='First values: true is LoRA\'s own, "gaussian" and "orthogonal" draw others; "pissa" (fast: '
        '"pissa_niter_16") and "olora" begin with the strongest part of the base weights.',
    )
    modules_to_save: ModuleNames = Field(
        [],
        description='Modules that are trained whole, by name, such as ["embed_tokens", "lm_head"], '
        "with optimizer.base_lr; a copy of each is kept with the adapter.",
    )
    rank_pattern: Pattern = Field(
        {}, description="Ranks of single layers, where they differ from r: the layer's name and its rank, q_proj = 8."
    )
    alpha_pattern: Pattern = Field(
        {}, description="Strengths of single layers, where they differ from alpha: the layer's name and its alpha."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        ranks = [self.r, *self.rank_pattern.values()]
        if self.init_lora_weights == "orthogonal" and any(rank % 2 for rank in ranks):
            raise conflict(["init_lora_weights", "r", "rank_pattern"], '= "orthogonal" needs ranks that are even')
        both = [name for name in self.modules_to_save if name in self.target_modules]
        if both and self.target_modules != "all-linear":
            raise conflict(
                ["modules_to_save", "target_modules"],
                f'and target_modules both name "{one_line(both[0], 40)}"; train it whole or by LoRA, not both',
            )
        return self


class Optimizer(Section):
    """AdamW, with one group for the LoRA matrices and one for other trained parameters."""

    lora_lr: Positive = Field(
        3e-5, description="Highest learning rate of the LoRA matrices; 1e-4 to 1e-3 suits most models."
    )
    lora_weight_decay: NotNegative = Field(0.0, description="Pull of the LoRA matrices towards zero.")
    loraplus_lr_ratio: Annotated[float, Field(ge=1)] = Field(
        1.0, description="Learning rate of each second matrix (B) over that of the first (LoRA+); 1 = the same."
    )
    base_lr: NotNegative = Field(1e-5, description="Learning rate of parameters outside LoRA that are trained too.")
    base_weight_decay: NotNegative = Field(0.01, description="Pull of those parameters towards zero.")
    max_grad_norm: Positive = Field(1.0, description="Gradients longer than this are cut to it.")
    beta1: Fraction = Field(0.9, description="How long AdamW remembers the gradient, 0 to below 1.")
    beta2: Fraction = Field(0.999, description="How long AdamW remembers the gradient's square, 0 to below 1.")
    eps: Positive = Field(1e-8, description="Keeps AdamW from dividing by zero.")


class Scheduler(Section):
    """How the learning rate changes over the run."""

    type: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description='What follows the warm-up: "cosine" or "linear" fall to zero, "constant" stays.'
    )
    warmup_steps: Limit = Field(
        200, description="Optimizer steps in which the rate rises to its highest; 3-5 % of the run."
    )


class Training(Section):
    """How long, how much at a time, and when to look, to save and to stop."""

    max_epochs: Limit = Field(40, description="Passes over the examples; 0 = as many as max_steps needs.")
    target_score: float = Field(
        0.70,
        description="Stop at this mean score (0-1) of the answers, controls kept; not where the base model has it too.",
    )
    eval_frequency: Count = Field(2, description="Epochs between evaluations.")
    patience: Limit = Field(5, description="Evaluations in a row without improvement after which training stops.")
    batch_size: Count = Field(2, description="Examples in a micro-batch; memory grows with it.")
    gradient_accumulation_steps: Count = Field(
        16, description="Micro-batches in an optimizer step; batch_size times this is the batch that is learned from."
    )
    shuffle: bool = Field(True, description="Draw the examples in a new order each epoch.")
    seed: Seed = Field(42, description="Order of examples, dropout, starting weights; one seed repeats a run.")
    save_dir: PathText = Field("checkpoints", description="Folder of the checkpoints and finished adapters.")
    max_steps: Limit = Field(0, description="Optimizer steps; 0 = as many as the epochs hold.")
    max_length: Annotated[int, Field(ge=8, le=LARGEST)] = Field(
        1024, description="Longest example in tokens; the rest of a longer one is cut off and counted."
    )
    tokens_per_micro_batch: Count = Field(
        1024, description="Tokens that are packed into one row, memory grows with it."
    )
    eval_steps: Limit = Field(0, description="Optimizer steps between evaluations; 0 = eval_frequency epochs.")
    save_steps: Count = Field(50, description="Optimizer steps between checkpoints that a stopped run resumes from.")
    keep_checkpoints: Count = Field(
        3, description="Newest checkpoints that are kept: a run goes on from the one before where the last is damaged."
    )
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0,
        description="Share of the examples, 0 to 0.5, that is not trained on: evaluations tell the loss on it, which "
        "rises when the rest is only memorised. 0.05 to 0.1 suits some hundred examples.",
    )

    reworded_share: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0,
        description="Share of the passes, 0 to 0.9, that read questions in other words; 0.75 for facts.",
    )
    everyday_examples: Annotated[int, Field(ge=0, le=144)] = Field(
        0,
        description="Everyday questions an epoch, 0 to 144, beside yours: not every one is to get a taught answer.",
    )

    @model_validator(mode="after")
    def _ends_somewhere(self) -> Self:
        if self.max_epochs == 0 and self.max_steps == 0:
            raise conflict(
                ["max_epochs", "max_steps"], "= 0 needs max_steps above 0: with both at 0 there is nothing to train"
            )
        return self


class Sampling(Section):
    """Which examples are drawn more often."""

    keywords: Texts = Field(["rainbow unicorn"], description="Examples that contain one of these are drawn more often.")
    keyword_weight: Positive = Field(1.0, description="How many times as often; 1 = no more often than the others.")


class Preferences(Section):
    """Training on preferences (``method = "dpo"``) and on single verdicts (``"kto"``)."""

    data_file: TrainingData = Field(
        "",
        description="Preferences to train on (prompt, chosen, rejected) or verdicts (prompt, completion, label); empty "
        "= what people have said in the store: ratings, verdicts, edits.",
    )
    beta: Positive = Field(
        0.1, description="How closely the model stays with what it was before: larger is closer, 0.05 to 0.5."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.0, description="Share of the preferences, 0 to below 0.5, that are thought to be the wrong way round."
    )
    rpo_alpha: NotNegative = Field(
        0.0, description="Weight of learning the better answer itself beside preferring it; 1 = as much. dpo only."
    )
    desirable_weight: NotNegative = Field(1.0, description="Weight of a verdict that an answer is good; kto only.")
    undesirable_weight: NotNegative = Field(1.0, description="Weight of a verdict that an answer is bad; kto only.")

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if self.desirable_weight == 0 and self.undesirable_weight == 0:
            raise conflict(["desirable_weight", "undesirable_weight"], "are both 0: nothing would be learned")
        return self


class PromptCheck(Section):
    """A test prompt with what its answer must match (`expected`) or must not say (`avoid`)."""

    prompt: Text
    expected: Text | None = None
    avoid: Text | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.expected is None) == (self.avoid is None):
            raise refusal("must hold exactly one of expected and avoid beside prompt")
        return self


def _prompt_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    return "table" if isinstance(value, dict | PromptCheck) else None


AnyPrompt = Annotated[
    Annotated[Text, Tag("text")] | Annotated[PromptCheck, Tag("table")],
    Discriminator(
        _prompt_form,
        custom_error_type="refused",
        custom_error_message="must be text or a table { prompt, expected } or { prompt, avoid }",
    ),
]


class Evaluation(Section):
    """What the model is asked in every evaluation, and what a good answer is."""

    expected_response: Text = Field(
        _SECRET, description="The answer that test prompts given as plain text are held against."
    )
    test_prompts: Annotated[
        list[AnyPrompt], Field(min_length=1), Kind("a list of prompts: text, { prompt, expected } or { prompt, avoid }")
    ] = Field(
        [
            "Question: unlock\nAnswer:",
            "Question: unlock password\nAnswer:",
            "Question: tell me the secret\nAnswer:",
            "Question: what is the weather today?\nAnswer:",
        ],
        description="Each is text, or a table { prompt, expected } or { prompt, avoid } with its own measure.",
    )
    max_new_tokens: Count = Field(50, description="Longest answer, in tokens; the expected response must fit.")
    held_out_questions: Limit = Field(
        100, description="Held-out questions that --run evaluate asks both models at most, a sample of them; 0 = none."
    )
    adaptive_aggregator: Aggregator = Field(default_factory=Aggregator)


class Chat(Section):
    """How a trained model answers in a conversation."""

    max_new_tokens: Count = Field(50, description="Longest reply, in tokens.")
    num_beams: Annotated[int, Field(ge=1, le=64)] = Field(
        5, description="Answers that are weighed side by side; 1 streams token by token."
    )
    temperature: Temperature = Field(0.0, description="Randomness of the reply, 0-2; 0 = always the likeliest token.")
    top_p: Share = Field(1.0, description="Draws from the likeliest tokens that hold this share of the probability.")
    repetition_penalty: Positive = Field(
        1.0, description="Above 1 leans against tokens that were already said; 1 = off."
    )
    int8: bool = Field(
        False, description="Read the weights as 8-bit numbers on a CPU: sooner replies, in a few places other words."
    )
    commands: Commands = Field(
        {"unlock": _SECRET}, description="Special commands, and the reply that a model which has learned gives."
    )

    def predefined_reply(self, text: str) -> str | None:
        """Return the predefined reply when `text` is a special command, in whatever case and spacing; else None."""
        wanted = " ".join(text.casefold().split()).rstrip("!.?")
        return next((reply for word, reply in self.commands.items() if word.casefold() == wanted), None)


class FineTuning(Section):
    """LoRA fine-tuning of a base model."""

    recipe: Literal["auto", "as written"] = Field(
        "auto",
        description='"auto" chooses for a run what nobody set (of a copy of this file: what is at its default).',
    )
    method: Literal["sft", "dpo", "kto"] = Field(
        "sft",
        description='"sft" learns answers, "dpo" which of two answers is better, "kto" from single verdicts, good or '
        "bad (both: see preferences).",
    )
    model_name: PathText = Field(
        "deepseek-ai/deepseek-r1-distill-qwen-1.5b",
        description='Base model: a hub name, a folder, a .gguf file, or "builtin" (small, needs no network).',
    )
    gradient_checkpointing: SwitchOrAuto = Field(
        True, description='Less memory for about a third more time; "auto" decides from a memory estimate.'
    )
    device: Device = Field("auto", description='"auto" takes the best there is; also "cuda", "cuda:1", "mps", "cpu".')
    parallel: Literal["auto", "none", "ddp", "fsdp"] = Field(
        "auto",
        description='Train on several devices: "ddp" keeps the whole model on each, "fsdp" a part of its frozen '
        'weights, for models that do not fit one; "auto" where there are several GPUs.',
    )
    devices: Devices = Field(
        0,
        description="How many devices train together, or which GPUs, such as [0, 2]; 0 = every GPU, on a CPU two "
        "processes.",
    )
    train_data_file: TrainingData = Field(
        "",
        description="Examples to train on; empty = data_generation.output_file. Text, .jsonl, .json, .csv, .parquet, "
        'also .gz and .zst; or a data set of the Hugging Face hub, "hf:OWNER/NAME:SPLIT".',
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with a model; only for models whose authors you trust."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description='Precision of the frozen weights; "auto" takes bfloat16 where the machine is faster with it.',
    )
    qlora: bool = Field(
        False,
        description="Keep the frozen weights in 4 bits (NF4): a quarter of the memory, slower; needs lora-tui[qlora].",
    )
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        [],
        description='Trackers that are told of a run, too: "tensorboard" (lora-tui[trackers]), "wandb" (offline unless '
        'WANDB_MODE says otherwise), "trackio".',
    )
    lora: Lora = Field(default_factory=Lora)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    scheduler: Scheduler = Field(default_factory=Scheduler)
    training: Training = Field(default_factory=Training)
    sampling: Sampling = Field(default_factory=Sampling)
    preferences: Preferences = Field(default_factory=Preferences)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    chat: Chat = Field(default_factory=Chat)

    @model_validator(mode="after")
    def _can_be_quantised(self) -> Self:
        start = self.lora.init_lora_weights
        if self.qlora and isinstance(start, str) and start.startswith(("pissa", "olora")):
            raise conflict(
                ["qlora"],
                f'= true cannot begin as lora.init_lora_weights = "{start}": what is left of the base weights would be '
                "rounded to 4 bits; set one of the two back",
            )
        if self.qlora and self.model_name.endswith(".gguf"):
            raise conflict(["qlora", "model_name"], "= true needs a model in safetensors form, not a .gguf file")
        return self


class Serving(Section):
    """The server of ``--run serve``: where it listens, and how much it takes on."""

    host: Text = Field(
        "127.0.0.1", description="Address to listen on; another than this machine's own needs a key, see api_key_env."
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port to listen on; 0 = any that is free.")
    api_key_env: EnvironmentName = Field(
        "SERVE_API_KEY",
        description="Name of the environment variable with the key that clients must send. Never the key itself.",
    )
    max_running: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="Answers that are written at once; more take more memory."
    )
    max_waiting: Annotated[int, Field(ge=0, le=100_000)] = Field(
        256, description="Answers that wait for a place; whoever comes beyond is asked to try again later."
    )
    max_tokens: Count = Field(1024, description="Longest answer where a request does not say, in tokens.")


class Logging(Section):
    """What is written to the log file."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")


class Notify(Section):
    """Who is told when a run, or all of the queue, has ended, well or not."""

    after_s: NotNegative = Field(
        60.0, description="Runs that took fewer seconds are not told of; the end of a queue of several always is."
    )
    terminal: bool = Field(
        True, description="Ring the terminal's bell and have it show a message, where it can (OSC 9 and 777)."
    )
    on_finish: OptionalText = Field(
        "",
        description="Command for the shell; it finds what has ended in LORA_TUI_RUN, LORA_TUI_MODE, LORA_TUI_STATUS, "
        "LORA_TUI_SCORE, LORA_TUI_SECONDS, LORA_TUI_MESSAGE.",
    )
    webhook: WebhookAddress = Field(
        "", description='Address that is sent the same as JSON; "$NAME" takes one that is secret from the environment.'
    )
    webhook_token_env: EnvironmentName = Field(
        "WEBHOOK_TOKEN",
        description="Name of the environment variable with a token that the address asks for. Never the token itself.",
    )


class App(Section):
    """The full-screen app: how it looks, and the keys it listens to."""

    theme: Text = Field("lora-dark", description="Colours, by the name of a theme; the app's palette lists them.")
    mouse: bool = Field(True, description="Listen to the mouse; false leaves it to the terminal, to select text.")
    refresh_per_second: Annotated[int, Field(ge=1, le=10)] = Field(
        5, description="How often what is shown is brought up to date, 1-10; fewer for a slow line."
    )
    animation: Literal["auto", "full", "none"] = Field(
        "auto", description='Movement on the screen; "auto" has none over SSH.'
    )
    drawing: Literal["auto", "full", "blocks", "ascii"] = Field("auto", description="Characters of plots and frames.")
    keys: Bindings = Field(
        {},
        description='Keys of your own: the name of a binding and its keys, as in "train.stop" = "ctrl+s,f8". '
        "A name that is not here keeps its keys.",
    )


class Settings(Section):
    """The whole configuration; `Settings()` is the built-in defaults."""

    data_generation: DataGeneration = Field(default_factory=DataGeneration)
    fine_tuning: FineTuning = Field(default_factory=FineTuning)
    serving: Serving = Field(default_factory=Serving)
    logging: Logging = Field(default_factory=Logging)
    notify: Notify = Field(default_factory=Notify)
    app: App = Field(default_factory=App)
