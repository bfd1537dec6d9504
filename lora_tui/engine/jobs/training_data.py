"""The training job's data: what was read becomes tokens, a part of it held out; and what evaluations ask of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lora_tui.config.advice import advise
from lora_tui.config.models import Settings
from lora_tui.engine.data.examples import Example
from lora_tui.engine.data.read import ReadResult, judgements_file
from lora_tui.engine.evaluation.held_out import held_out_order
from lora_tui.engine.evaluation.own_prompts import TEST_PROMPTS, RenderPrompt, asks_own_questions, own_prompts
from lora_tui.engine.evaluation.prompts import TestPrompt, resolve_prompts
from lora_tui.engine.evaluation.scoring import EvaluationResult
from lora_tui.engine.inference.token_choice import configured_stop_ids
from lora_tui.engine.models.base_model import BaseModel
from lora_tui.engine.models.loaded_checks import known_tokens, position_limit
from lora_tui.engine.review.preferences import PREFERENCES_FILE, preference_lines
from lora_tui.engine.runtime.context import RunContext
from lora_tui.engine.training.data_plan import data_warnings
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.judgement_data import JudgementDataset
from lora_tui.engine.training.loop import TrainingSet
from lora_tui.engine.training.packing import PackableExample
from lora_tui.files import write_atomically
from lora_tui.protocol.choice import Choice


def keep_preferences(ctx: RunContext, data: ReadResult, folder: Path) -> None:
    """Keep what people had said in the store when the run began beside it: it goes on with the same."""
    from_store = judgements_file(ctx.settings, ctx.options.get("train_data_file")) is None
    if data.judgements and from_store and not (folder / PREFERENCES_FILE).exists():
        write_atomically(folder / PREFERENCES_FILE, preference_lines(data.judgements))


def tokenised(
    settings: Settings, base: BaseModel, data: ReadResult, folder: Path, documents: Mapping[int, str], *, resumed: bool
) -> tuple[TrainingSet, Sequence[PackableExample]]:
    """Return the data to train on, and what is held out of it: as when the run began, for one that goes on.

    `documents` names the document that a question was asked about, by the question's digest.
    """
    tuning = settings.fine_tuning
    training = tuning.training
    stops, known = configured_stop_ids(base.model), known_tokens(base.model)
    longest = min(training.max_length, position_limit(base.model) or training.max_length)
    before = held_out_order(folder) if resumed else None
    if tuning.method != "sft":
        judged = JudgementDataset(
            data.judgements,
            base.tokenizer,
            unpaired=tuning.method == "kto",
            max_length=longest,
            stops=stops,
            known_tokens=known,
        )
        return judged, judged.hold_out(training.validation_share, training.seed, before)
    keywords, share = tuning.sampling.keywords, training.reworded_share
    dataset = TextDataset(data.examples, base.tokenizer, longest, keywords, stops, share, training.seed, known)
    # A run that began without that file divided by questions alone.
    divided_by = None if resumed else documents
    return dataset, dataset.hold_out(training.validation_share, training.seed, divided_by, before)


def prompts_to_ask(ctx: RunContext, render: RenderPrompt | None, examples: Sequence[Example]) -> list[TestPrompt]:
    """Return the configured prompts, or those of the data itself where nobody wrote any and the documented do not fit.

    `examples` are those that are trained on; whoever watches is warned where others had to be asked.
    """
    prompts, warning = resolve_prompts(ctx.settings.fine_tuning, examples)
    if asks_own_questions(ctx.settings, examples):
        return own_prompts(examples, render) or prompts
    if warning:
        ctx.warn(warning)
    return prompts


def as_asked(choices: Sequence[Choice], prompts: Sequence[TestPrompt]) -> list[Choice]:
    """Return the choices with the prompts that are asked: those chosen before did not know what would be held out."""
    asked = [prompt.prompt for prompt in prompts]
    return [replace(choice, value=asked) if choice.key == TEST_PROMPTS else choice for choice in choices]


def preference_rank(step: int, found: EvaluationResult, held_out_loss: float | None) -> float:
    """Return what decides which adapter of a run on preferences is the best: the greater, the better.

    First how many controls it keeps. Then the loss on preferences that were held out; where none were, how long it has
    learned: the answers to test prompts stay as they are long after preferences have begun to move, and ranked by those
    the first step would be kept.
    """
    lost = found.controls - found.controls_kept
    return (float(step) if held_out_loss is None else -held_out_loss) - 1e6 * lost


def plan_warnings(
    settings: Settings,
    base: BaseModel,
    dataset: TrainingSet,
    held_out: Sequence[PackableExample],
    examples: int,
    steps: int,
    trained: int,
) -> list[str]:
    """Return what is to be said of a plan: of its data, and of values that run but will surprise.

    `examples` are those of the file that are trained on, in so many `steps`, by so many `trained` parameters.
    """
    config = base.model.config.get_text_config()
    advice = advise(
        settings,
        optimizer_steps=steps,
        trainable_parameters=trained,
        examples=examples,
        hidden_size=getattr(config, "hidden_size", None),
        model_type=config.model_type,
    )
    of_training = (line for line in advice if line.startswith("fine_tuning"))
    return [*data_warnings(dataset, held_out, settings.fine_tuning.training), *of_training]
