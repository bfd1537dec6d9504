"""What people have said of answers, as preferences and verdicts to train on.

Four sources: verdicts on pairs, edits of pairs (the new wording is preferred to the old), ratings of answers to test
prompts (a bad answer is worse than the expected one), ratings of replies in conversations. Four and five of five are
good, one and two bad; three says neither. Where one question has good and bad answers, from whichever source, each bad
one makes a preference with a good one. An answer that was called both is what was said of it last.

At least one side of a preference is a person's word. The other may be a verdict of the program's on a pair about the
same question, or the answer that a test prompt or a special command expects.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lora_tui.config.models import FineTuning
from lora_tui.engine.data.examples import (
    Conversation,
    Example,
    JudgedAnswer,
    Judgement,
    Message,
    Preference,
    PromptCompletion,
    QuestionAnswer,
    asked_example,
)
from lora_tui.engine.data.read import ReadResult, Skipped
from lora_tui.engine.data.survey import NOTHING_SAID, Survey, survey_of
from lora_tui.engine.data.training_text import ANSWER, QUESTION
from lora_tui.engine.models.adapter_source import ADAPTER_METADATA
from lora_tui.errors import UsageError
from lora_tui.scoring.words import question_key
from lora_tui.store import chat_log
from lora_tui.store.connection import Store
from lora_tui.store.queries import preferences as queries
from lora_tui.store.rows import Turn

PREFERENCES_FILE = "preferences.jsonl"
"""What a run was trained on, in its folder: what people say later does not change a run that goes on."""

PAIRS, EDITS, ANSWERS, REPLIES = "verdicts on pairs", "edits of pairs", "ratings of answers", "ratings of replies"
"""The sources, as a plan counts them."""

_GOOD, _BAD = 0.75, 0.25
"""Ratings (0-1) from which on an answer is good, and down to which it is bad: 4 and 2 of 5."""


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer in the form of training, and whether it is good; `by_person` says that a person said so.

    Answers with one `key` answer one question. `newest` is when it was said, `where` what it was said of.
    """

    key: str
    example: Example
    good: bool
    by_person: bool
    source: str
    where: str
    at: float


@dataclass
class _Question:
    """What was said of the answers to one question, by the answer's text."""

    good: dict[str, _Said] = field(default_factory=dict)
    bad: dict[str, _Said] = field(default_factory=dict)


async def said_preferences(store: Store, commands: Mapping[str, str], *, unpaired: bool) -> ReadResult:
    """Return what people have said as preferences, or as single verdicts where `unpaired`.

    `commands` are special commands and the replies that are expected to them. Raises `UsageError`, with how to come by
    some, where there is none. `ReadResult.forms` counts them by source, `skipped` has what makes none.
    """
    said, skipped = await _all_said(store, commands)
    single = [found for one in said.values() for found in _verdicts(one)]
    paired = [found for one in said.values() for found in _preferences(one)]
    judged = single if unpaired else paired
    if not unpaired:
        skipped += _without_counterpart(said.values())
    if not judged:
        raise UsageError(_how_to_say(store, single if not unpaired else []))
    forms = Counter(source for source, _ in judged)
    judgements = tuple(judgement for _, judgement in judged)
    return ReadResult(tuple(map(asked_example, judgements)), dict(forms), tuple(skipped), judgements)


async def count_said(store: Store, commands: Mapping[str, str]) -> tuple[int, int]:
    """Return how many preferences, and how many single verdicts, people have given."""
    said, _ = await _all_said(store, commands)
    return sum(len(_preferences(one)) for one in said.values()), sum(len(_verdicts(one)) for one in said.values())


async def survey_said(store: Store, tuning: FineTuning) -> Survey:
    """Count what people have said as training would take it; where that is nothing, the problem says how to say it."""
    try:
        found = await said_preferences(store, tuning.chat.commands, unpaired=tuning.method == "kto")
    except UsageError as nothing:
        return Survey(store.path, exists=True, problem=str(nothing))
    return survey_of(store.path, found)


def preference_lines(judgements: Iterable[Judgement]) -> str:
    """Return judgements as JSON Lines, which `read_judgements` and other tools read."""
    return "".join(json.dumps(_record(one), ensure_ascii=False) + "\n" for one in judgements)


def _record(judgement: Judgement) -> dict[str, Any]:
    if isinstance(judgement, Preference):
        before, chosen, _ = _parts(judgement.chosen)
        return {**before, "chosen": chosen, "rejected": _parts(judgement.rejected)[1]}
    before, answer, key = _parts(judgement.example)
    whole = {"messages": [*before["messages"], answer]} if key is None else {**before, key: answer}
    return {**whole, "label": judgement.desirable}


def _parts(example: Example) -> tuple[dict[str, Any], Any, str | None]:
    """What stands before an answer, the answer, and the key that an answer has beside it (None: it is a turn)."""
    match example:
        case QuestionAnswer(question, answer):
            return {"question": question}, answer, "answer"
        case PromptCompletion(prompt, completion):
            return {"prompt": prompt}, completion, "completion"
        case Conversation(messages):
            turns = [{"role": one.role, "content": one.content} for one in messages]
            return {"messages": turns[:-1]}, turns[-1], None
        case _:
            raise ValueError("plain text answers nothing")


async def _all_said(store: Store, commands: Mapping[str, str]) -> tuple[dict[str, _Question], list[Skipped]]:
    """Everything that was said, by question, the newest word on each answer; and what of it says nothing."""
    skipped: list[Skipped] = []
    found = [
        *await _of_pairs(store),
        *await _of_edits(store, skipped),
        *_of_samples(await queries.rated_samples(store), skipped),
        *await _of_replies(store, commands, skipped),
    ]
    questions: dict[str, _Question] = {}
    for one in sorted(found, key=lambda said: (said.by_person, said.at)):
        question, text = questions.setdefault(one.key, _Question()), _answer_of(one.example)
        question.good.pop(text, None)
        question.bad.pop(text, None)
        (question.good if one.good else question.bad)[text] = one
    return questions, skipped


def _verdicts(question: _Question) -> list[tuple[str, Judgement]]:
    """The single verdicts on the answers to a question that a person gave."""
    said = [one for one in (*question.good.values(), *question.bad.values()) if one.by_person]
    return [(one.source, JudgedAnswer(replace(one.example, source=one.where), one.good, one.where)) for one in said]


def _preferences(question: _Question) -> list[tuple[str, Judgement]]:
    """Each bad answer beside a good one, a person's where there are; every good one that a person named has its turn.

    Not each with each: one question would outweigh all others.
    """
    good = sorted(question.good.values(), key=lambda one: (not one.by_person, -one.at))
    bad = sorted(question.bad.values(), key=lambda one: (not one.by_person, -one.at))
    number = max(_named(good), _named(bad), 1) if good and bad else 0
    found: list[tuple[str, Judgement]] = []
    for turn in range(number):
        better, worse = good[turn % max(1, _named(good))], bad[turn % max(1, _named(bad))]
        if not (better.by_person or worse.by_person):
            break
        spoken = worse if worse.by_person else better
        chosen, rejected = (replace(one.example, source=spoken.where) for one in (better, worse))
        found.append((spoken.source, Preference(chosen, rejected, spoken.where)))
    return found


def _named(said: Sequence[_Said]) -> int:
    """How many of these a person has spoken of."""
    return sum(one.by_person for one in said)


def _without_counterpart(questions: Iterable[_Question]) -> list[Skipped]:
    """What a person has said that makes no preference, since nothing better, or nothing worse, is known."""
    found = []
    for question in questions:
        if question.good and question.bad:
            continue
        missing = "no worse answer to it is known" if question.good else "no better answer to it is known"
        said = [one for one in (*question.good.values(), *question.bad.values()) if one.by_person]
        found += [Skipped(one.where, f"{missing}; --method kto learns from it") for one in said]
    return found


async def _of_pairs(store: Store) -> list[_Said]:
    def said(pair: queries.JudgedPair, *, by_person: bool) -> _Said:
        where = f"pair {pair.id}"
        example = QuestionAnswer(pair.question, pair.answer, where)
        return _Said(question_key(pair.question), example, pair.verdict == "accepted", by_person, PAIRS, where, pair.at)

    judged = [said(pair, by_person=True) for pair in await queries.judged_pairs(store)]
    keys = {one.key for one in judged}
    alike = await queries.judged_alike(store, keys) if keys else []
    return [*judged, *(said(pair, by_person=False) for pair in alike)]


async def _of_edits(store: Store, skipped: list[Skipped]) -> list[_Said]:
    found = []
    for pair in await queries.edited_pairs(store):
        where = f"pair {pair.id}, edited"
        key = question_key(pair.new_question)
        if key != question_key(pair.question):
            skipped.append(Skipped(where, "the question was worded anew, too"))
        elif pair.answer.split() == pair.new_answer.split():
            skipped.append(Skipped(where, "the answer is the same"))
        elif pair.state == "rejected":
            skipped.append(Skipped(where, "the new wording was rejected"))
        else:
            texts = ((pair.new_answer, True), (pair.answer, False))
            found += [
                _Said(key, QuestionAnswer(pair.new_question, text, where), good, True, EDITS, where, pair.at)
                for text, good in texts
            ]
    return found


def _of_samples(samples: Sequence[queries.RatedSample], skipped: list[Skipped]) -> list[_Said]:
    found = []
    for sample in samples:
        where = f"answer {sample.id}"
        good = _is_good(sample.target)
        if good is None or not sample.answer.strip():
            reason = "the answer is empty" if good is not None else "3 of 5 says neither good nor bad"
            skipped.append(Skipped(where, reason))
            continue
        build = _prompted(sample.prompt, where)
        key = _key_of(build(""))
        found.append(_Said(key, build(sample.answer), good, True, ANSWERS, where, sample.at))
        if not good and sample.kind == "expected":
            found.append(_Said(key, build(sample.reference), True, False, ANSWERS, where, sample.at))
    return found


def _prompted(prompt: str, where: str) -> Callable[[str], Example]:
    """What makes an example of a test prompt's text and an answer, in the form in which it would be trained."""
    question = prompt.removeprefix(QUESTION).removesuffix(f"\n{ANSWER}")
    if prompt == f"{QUESTION}{question}\n{ANSWER}" and question.strip():
        return lambda answer: QuestionAnswer(question.strip(), answer, where)
    return lambda answer: PromptCompletion(prompt, answer, where)


async def _of_replies(store: Store, commands: Mapping[str, str], skipped: list[Skipped]) -> list[_Said]:
    turns: dict[int, list[Turn]] = {}
    found = []
    for reply in await queries.rated_replies(store):
        where = f"reply {reply.id}"
        good = _is_good(reply.target)
        if reply.conversation_id not in turns:
            turns[reply.conversation_id] = await chat_log.turns(store, reply.conversation_id)
        before = _before(turns[reply.conversation_id], reply)
        cut = bool(reply.statistics.get("cut") or reply.statistics.get("stopped"))
        reason = (
            "3 of 5 says neither good nor bad"
            if good is None
            else "the reply is empty"
            if not reply.text.strip()
            else "its question is gone"
            if not before
            else "the reply was cut short, and would be learned so"
            if good and cut
            else None
        )
        if reason is not None or good is None:
            skipped.append(Skipped(where, reason or ""))
            continue
        build = _answering(before, reply, turns[reply.conversation_id], where)
        key = _key_of(build("."))
        found.append(_Said(key, build(reply.text), good, True, REPLIES, where, reply.at))
        expected = _expected(commands, before[-1].content)
        if not good and expected is not None:
            found.append(_Said(key, build(expected), True, False, REPLIES, where, reply.at))
    return found


def _expected(commands: Mapping[str, str], question: str) -> str | None:
    """The reply that a special command expects; None where the question is none."""
    wanted = " ".join(question.casefold().split()).rstrip("!.?")
    return next((reply for word, reply in commands.items() if word.casefold() == wanted), None)


def _before(turns: Sequence[Turn], reply: queries.RatedReply) -> list[Message]:
    """What the side that replied had before it: its own exchanges, and the question."""
    side, found, question = reply.statistics.get("side", "tuned"), [], ""
    for turn in turns:
        if turn.id >= reply.id:
            break
        if turn.role == "user":
            question = turn.text
        elif turn.statistics.get("side", "tuned") == side and not turn.statistics.get("replaced"):
            found += [Message("user", question), Message("assistant", turn.text, learned=False)]
    return [*found, Message("user", question)] if question.strip() else []


def _answering(
    before: Sequence[Message], reply: queries.RatedReply, turns: Sequence[Turn], where: str
) -> Callable[[str], Example]:
    """What makes an example of a reply's text, in the form in which the model was asked for it."""
    asked = [turn for turn in turns if turn.role == "user" and turn.id < reply.id]
    by_template = asked[-1].statistics.get("by_template") if asked else None
    if by_template is None:  # of before that was kept
        by_template = _by_template(reply.adapter)
    if by_template:
        return lambda text: Conversation((*before, Message("assistant", text)), where)
    return lambda text: QuestionAnswer(before[-1].content.strip(), text.strip(), where)


def _by_template(adapter: str | None) -> bool:
    """Whether an adapter is talked to by its model's chat template; a base model alone is, where it has one."""
    if adapter is None:
        return True
    try:
        metadata = json.loads((Path(adapter) / ADAPTER_METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(metadata, dict) and bool(metadata.get("chat_template"))


def _is_good(target: float) -> bool | None:
    return True if target >= _GOOD else False if target <= _BAD else None


def _key_of(example: Example) -> str:
    """What is equal for examples that ask the same in the same form."""
    match example:
        case QuestionAnswer(question=question):
            return question_key(question)
        case Conversation(messages):
            return json.dumps([(one.role, one.content) for one in messages[:-1]])
        case PromptCompletion(prompt=prompt):
            return f"{QUESTION}{prompt}"
        case _:
            raise ValueError("plain text asks nothing")


def _answer_of(example: Example) -> str:
    return " ".join(str(_text(_parts(example)[1])).split())


def _text(answer: Any) -> Any:
    return answer["content"] if isinstance(answer, dict) else answer


def _how_to_say(store: Store, single: Sequence[Any]) -> str:
    if single:
        number = len(single)
        what = "verdict says" if number == 1 else "verdicts say"
        return (
            f"{NOTHING_SAID[0]} in {store.path.name} has a better or a worse one to the same question. {number:,} "
            f"single {what} good or bad: learn from them with --method kto,\nor rate other answers to the same "
            "questions."
        )
    return (
        f"{NOTHING_SAID[1]} in {store.path.name} which answers are good. Rate replies in a chat, answers and pairs "
        "(lora-tui --run rate), or edit pairs in the app.\nOr name a file with prompt, chosen and rejected: "
        "--train-data-file FILE."
    )
