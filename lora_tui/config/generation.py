"""Pydantic models of the section ``data_generation``: from a folder of text to judged pairs.

Beside `models`, which holds the rest of the configuration and says what all of it keeps to.
"""

from typing import Annotated, Self

from pydantic import Field, PrivateAttr, model_validator

from lora_tui.config.addresses import each_once, of_host
from lora_tui.config.values import (
    Count,
    EnvironmentName,
    Extractors,
    Fraction,
    HostKeys,
    HostModels,
    Limit,
    NotNegative,
    OptionalText,
    PathText,
    Penalty,
    Positive,
    Section,
    Seed,
    Share,
    Temperature,
    Text,
    TextForm,
    Texts,
    Url,
    Urls,
    conflict,
)


class Generation(Section):
    """How questions and answers are written."""

    temperature: Temperature = Field(
        1.0, description="Randomness of what is written, 0-2; below 0.5 the questions repeat themselves."
    )
    presence_penalty: Penalty = Field(
        1.0, description="Leans against words that were used at all, -2 to 2; not sent where JSON is enforced."
    )
    frequency_penalty: Penalty = Field(
        1.0, description="Leans against words by how often they were used, -2 to 2; not sent where JSON is enforced."
    )
    top_p: Share = Field(
        0.95, description="Draws from the likeliest words that hold this share of the probability, 0-1."
    )
    max_tokens: Count = Field(300, description="Longest reply, in tokens; a reply that is cut off is asked for again.")
    max_retries: Limit = Field(5, description="Further tries after an error that may pass (429, 5xx, no connection).")
    initial_delay: NotNegative = Field(
        1.0, description="Seconds before the first further try; doubled each time, with jitter. Retry-After wins."
    )


class Judging(Section):
    """How the judge scores a pair, 0-10."""

    temperature: Temperature = Field(0.0, description="0 gives the same score to the same pair each time.")
    max_tokens: Count = Field(10, description="Longest reply of the judge, in tokens; a score needs few.")


class BatchAnalysis(Section):
    """The look at the accepted pairs that steers the prompts which follow."""

    temperature: Temperature = Field(0.0, description="Randomness of the analysis, 0-2.")
    max_tokens: Count = Field(300, description="Longest analysis, in tokens.")


class Mix(Section):
    """How many texts of each form are written for each accepted pair, where `forms` names it; `phrasings` always."""

    rewrite: NotNegative = Field(0.2, description="Documents that say what a passage says in other words.")
    summary: NotNegative = Field(0.1, description="Short documents that say what matters of a passage.")
    dialogue: NotNegative = Field(0.1, description="Conversations of several turns, with a system prompt.")
    phrasings: Limit = Field(0, description="Further wordings of each accepted question and its answer.")


class Aggregator(Section):
    """How fast the weights of the metrics follow feedback."""

    learning_rate: NotNegative = Field(
        0.01, description="How much a rating counts: as one at 0.01, as ten at 0.1; 0 keeps the weights."
    )


class DataGeneration(Section):
    """From a folder of text to judged pairs of question and answer."""

    input_folder: PathText = Field(
        "training_input",
        description="Folder of .txt, .md, .html, .docx, .pptx, .epub and .pdf files, read with its subfolders.",
    )
    output_file: PathText = Field(
        "accepted_training_data.txt", description="Where accepted pairs go; training reads it."
    )
    total_examples: Count = Field(100, description="Accepted pairs to reach.")
    num_examples_per_file: Count = Field(1, description="Pairs asked for per file and pass over the folder.")
    evaluation_threshold: float = Field(7.0, description="Score from which a pair is accepted, on the scale 0-10.")
    target_precision: Fraction = Field(
        0.0, description="Share of accepted pairs that must be good by your ratings; above 0 it sets the threshold."
    )
    batch_analysis_interval: Count = Field(5, description="Accepted pairs between two analyses.")
    model: Text = Field(
        "gpt-4", description='Model that writes; "builtin" is the small local one (no key, no network).'
    )
    base_url: Url = Field("", description="Any OpenAI-compatible endpoint, for example a local server; empty = OpenAI.")
    base_urls: Urls = Field(
        [],
        description="Several endpoints in place of base_url: each gets as many calls as it can take, one that is away "
        "is left out until it is back.",
    )
    judge_base_urls: Urls = Field([], description="Endpoints that judge; empty = those that write.")
    db_path: PathText = Field(
        "training_data.db", description="The store: one SQLite file with every run, pair and score."
    )
    judge_model: OptionalText = Field("", description="Model that judges; empty = the one that writes.")
    judge_models: Texts = Field(
        [],
        description="Several judges in place of judge_model: the first two rate every pair, the next only where they "
        "disagree.",
    )
    check_judge: bool = Field(
        True, description="Ask a judge about 18 known pairs, right and wrong, before it is used; remembered for a week."
    )
    judge_must_tell: Annotated[int, Field(ge=0, le=12)] = Field(
        0, description="Fewest of the 12 wrong pairs that a judge must tell, else the run ends before it; 0 = only say."
    )
    api_key_env: EnvironmentName = Field(
        "OPENAI_API_KEY", description="Name of the environment variable that holds the key. Never the key itself."
    )
    forms: list[TextForm] = Field(
        ["qa"],
        min_length=1,
        description='What is written: "qa", and with it "rewrite", "summary" and "dialogue"; output_file is then JSON '
        "Lines.",
    )
    held_out_facts: Annotated[float, Field(ge=0.0, le=0.5)] = Field(
        0.0,
        description="Share of the facts whose questions are kept from training, for --run evaluate to ask; 0 to 0.5.",
    )
    topics: Texts = Field([], description="Further topics that prompts refer to; empty = those found in the folder.")
    diversity: bool = Field(
        True,
        description="Choose passages and kinds by quotas and let analyses steer the prompts; false = passages in turn.",
    )
    budget_tokens: Limit = Field(0, description="Stop when prompts and replies have used this many tokens; 0 = no cap.")
    prompt_price: NotNegative = Field(
        0.0,
        description="US dollars for a million tokens that are sent; 0 = as listed for the model, where it is known.",
    )
    completion_price: NotNegative = Field(
        0.0,
        description="US dollars for a million tokens that are written; 0 = as listed for the model, where it is known.",
    )
    cached_price: NotNegative = Field(
        0.0, description="US dollars for a million tokens sent that the endpoint had cached; 0 = as prompt_price."
    )
    budget_dollars: NotNegative = Field(
        0.0, description="Stop when calls have cost this many US dollars by those prices; 0 = no cap."
    )
    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(
        512, description="Calls in flight at once, at most; how many the endpoint can use is found while it works."
    )
    batch: bool = Field(
        False,
        description="Write and judge pairs by the endpoint's Batch API: half the price, within a day (--batch).",
    )
    timeout: Positive = Field(120.0, description="Seconds after which a call that has not been answered is given up.")
    give_up_after: NotNegative = Field(
        3600.0, description="Seconds for which an endpoint that stops answering is waited for; 0 = end the run at once."
    )
    chunk_tokens: Count = Field(400, description="Size of the passages that files are cut into, in tokens.")
    chunk_overlap: Limit = Field(40, description="Tokens that two passages in a row share; fewer than chunk_tokens.")
    keep_pairs: bool = Field(
        False,
        description="Keep the accepted pairs of the last run over this folder that has any, where their passages are "
        "still there; they count in total_examples.",
    )
    seed: Seed = Field(
        42, description="Which passages, topics and question types come when; the same seed repeats them."
    )
    api_key_envs: HostKeys = Field(
        {},
        description='Variables of the keys of single hosts, as in "api.groq.com" = "GROQ_API_KEY"; api_key_env for all '
        "others.",
    )
    models_by_host: HostModels = Field(
        {}, description="What single hosts call the model that writes, where it is not `model`."
    )
    extractors: Extractors = Field(
        {},
        description='Commands whose output is the text of files with a suffix, as in rtf = "unrtf --text {file}".',
    )
    generation: Generation = Field(default_factory=Generation)
    evaluation: Judging = Field(default_factory=Judging)
    batch_analysis: BatchAnalysis = Field(default_factory=BatchAnalysis)
    adaptive_aggregator: Aggregator = Field(default_factory=Aggregator)
    mix: Mix = Field(default_factory=Mix)
    _address_key: str = PrivateAttr("base_url")

    @property
    def judges(self) -> list[str]:
        """The models that judge behind an endpoint, each once, in the order in which they are asked."""
        return list(dict.fromkeys(self.judge_models)) or [self.judge_model or self.model]

    @property
    def writer_urls(self) -> list[str]:
        """The addresses that write, each once; an empty one is OpenAI's."""
        return each_once(self.base_urls or [self.base_url])

    @property
    def judge_urls(self) -> list[str]:
        """The addresses that judge, each once: those that write, unless others are named."""
        return each_once(self.judge_base_urls) or self.writer_urls

    @property
    def urls(self) -> list[str]:
        """All addresses, each once: those that write first."""
        return each_once([*self.writer_urls, *self.judge_urls])

    @property
    def key_variables(self) -> list[str]:
        """The environment variables that hold keys of endpoints."""
        return [self.api_key_env, *self.api_key_envs.values()]

    @property
    def address_key(self) -> str:
        """The dotted key that has the address of settings `at` one of `urls`."""
        return f"data_generation.{self._address_key}"

    def at(self, url: str) -> Self:
        """Return the settings as they are for one of `urls` alone: its address, its key's variable, its model."""
        own = {"base_url": url, "base_urls": [], "judge_base_urls": []}
        own["api_key_env"] = of_host(self.api_key_envs, url) or self.api_key_env
        own["model"] = of_host(self.models_by_host, url) or self.model
        here = self.model_copy(update=own)
        writers = "base_urls" if self.base_urls else "base_url"
        here._address_key = writers if url in self.writer_urls else "judge_base_urls"
        return here

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.chunk_overlap >= self.chunk_tokens:
            raise conflict(
                ["chunk_overlap", "chunk_tokens"],
                f"= {self.chunk_overlap} must be less than chunk_tokens = {self.chunk_tokens}; "
                "lower the one or raise the other",
            )
        if "qa" not in self.forms:
            raise conflict(["forms"], 'has no "qa": the other forms are written about the pairs; add it')
        if self.output_file == self.db_path:
            raise conflict(["output_file", "db_path"], "and db_path name the same file; give each its own")
        return self
