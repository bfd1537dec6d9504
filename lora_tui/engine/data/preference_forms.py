"""The forms of a judgement: preferences (a better and a worse answer) and single verdicts, recognised by their keys.

Those of TRL (explicit and implicit prompts, as texts or as messages; ``prompt``, ``completion``, ``label``), of
LLaMA-Factory (``chosen`` and ``rejected`` beside a conversation or an instruction; ``kto_tag``), and of tables with
``question``. What stands before the answers is read as `forms` reads it, so a preference is trained in the very form in
which an example with its answer would be.
"""

from collections.abc import Collection, Sequence
from typing import Any

from lora_tui.engine.data.examples import Conversation, Example, JudgedAnswer, Judgement, Preference
from lora_tui.engine.data.forms import (
    EXAMPLE_FORMS,
    Fields,
    Form,
    FormSet,
    Malformed,
    UnusableRecord,
    form_of_fields,
    kind_of,
)

_CHOSEN, _REJECTED = "chosen", "rejected"
_LABELS = ("label", "kto_tag")
_TRUE, _FALSE = ("true", "yes", "1", "good", "desirable"), ("false", "no", "0", "bad", "undesirable")


def _example(source: str, **fields: Any) -> Example:
    """Read fields as an example; those without a value do not count."""
    given = {key: value for key, value in fields.items() if value is not None}
    return form_of_fields(given, EXAMPLE_FORMS).example(given, source)


def _answer(fields: Fields, key: str) -> Any:
    """The answer of a record: text, a message, or a list of messages; raises `UnusableRecord` where it is empty."""
    answer = fields.get(key)
    empty = answer is None or answer == [] or (isinstance(answer, str) and not answer.strip())
    if empty:
        raise UnusableRecord(f"the {key} answer is empty")
    if not isinstance(answer, str | list | dict):
        raise Malformed(f"'{key}' must be text or messages, not {kind_of(answer)}")
    return answer


def _both(fields: Fields) -> tuple[Any, Any]:
    chosen, rejected = _answer(fields, _CHOSEN), _answer(fields, _REJECTED)
    if type(chosen) is not type(rejected):
        raise Malformed(f"'chosen' is {kind_of(chosen)} and 'rejected' is {kind_of(rejected)}")
    if chosen == rejected:
        raise UnusableRecord("chosen and rejected are the same")
    return chosen, rejected


def _preference(source: str, chosen: Example, rejected: Example) -> Preference:
    return Preference(chosen, rejected, source)


def _given(turns: Any) -> list[Any]:
    """Turns that come before the answer: they are read, not learned."""
    if not isinstance(turns, list):
        raise Malformed(f"what comes before the answers must be a list of turns, not {kind_of(turns)}")
    return [{**turn, "weight": 0} if isinstance(turn, dict) else turn for turn in turns]


def _conversation(source: str, turns: Sequence[Any], system: Any = None) -> Example:
    """A conversation in either spelling of its turns; raises where no answer ends it."""
    openai = any(isinstance(turn, dict) and "role" in turn for turn in turns)
    key = "messages" if openai else "conversations"
    if openai and isinstance(system, str) and system.strip():
        turns, system = [{"role": "system", "content": system}, *turns], None
    found = _example(source, **{key: list(turns)}, **({} if openai else {"system": system}))
    if isinstance(found, Conversation) and found.messages[-1].role != "assistant":
        raise UnusableRecord("the answer's last turn is not the assistant's")
    return found


def _ranked_chat(fields: Fields, source: str) -> Judgement:
    """LLaMA-Factory's: a conversation that ends with the user, and a message each."""
    chosen, rejected = _both(fields)
    before = _given(fields.get("conversations") or fields.get("messages"))
    answers = [[one] if isinstance(one, dict) else one for one in (chosen, rejected)]
    if any(isinstance(one, str) for one in answers):
        role, text = ("role", "content") if any("role" in turn for turn in before) else ("from", "value")
        answers = [[{role: "assistant", text: one}] for one in (chosen, rejected)]
    one, other = (_conversation(source, [*before, *answer], fields.get("system")) for answer in answers)
    return _preference(source, one, other)


def _prompted(fields: Fields, source: str) -> Judgement:
    """TRL's explicit form: a prompt and two answers, as texts or as messages."""
    chosen, rejected = _both(fields)
    prompt = fields["prompt"]
    if isinstance(chosen, list | dict):
        answers = [[one] if isinstance(one, dict) else one for one in (chosen, rejected)]
        if _begins_with_prompt(answers[0]):  # whole conversations, whatever is in the prompt besides
            return _shared_turns(source, *answers)
        before = _given([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
        return _preference(source, *(_conversation(source, [*before, *answer]) for answer in answers))
    if isinstance(prompt, list):
        before, answers = _given(prompt), [[{"role": "assistant", "content": one}] for one in (chosen, rejected)]
        return _preference(source, *(_conversation(source, [*before, *answer]) for answer in answers))
    return _preference(source, *(_example(source, prompt=prompt, completion=one) for one in (chosen, rejected)))


def _ranked_alpaca(fields: Fields, source: str) -> Judgement:
    """LLaMA-Factory's Alpaca with two outputs."""
    names = {key: fields.get(key) for key in ("instruction", "input", "system", "history")}
    return _preference(source, *(_example(source, **names, output=one) for one in _both(fields)))


def _ranked_question(fields: Fields, source: str) -> Judgement:
    """A question and two answers, maybe with a system prompt."""
    system, question = fields.get("system"), fields["question"]
    if isinstance(system, str) and system.strip():
        before = _given([{"role": "system", "content": system}, {"role": "user", "content": question}])
        answers = [[{"role": "assistant", "content": one}] for one in _both(fields)]
        return _preference(source, *(_conversation(source, [*before, *answer]) for answer in answers))
    return _preference(source, *(_example(source, question=question, answer=one) for one in _both(fields)))


def _implicit(fields: Fields, source: str) -> Judgement:
    """TRL's implicit form: two texts, or two conversations, that begin with the same prompt."""
    chosen, rejected = _both(fields)
    if isinstance(chosen, list):
        return _shared_turns(source, chosen, rejected)
    if not isinstance(chosen, str):
        raise UnusableRecord("there is no prompt")
    end = next((at for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other), None)
    end = min(len(chosen), len(rejected)) if end is None else end
    prompt = chosen[: max(0, chosen.rfind(" ", 0, end), chosen.rfind("\n", 0, end))]
    if not prompt.strip():
        raise UnusableRecord("chosen and rejected share no prompt")
    answers = chosen[len(prompt) :], rejected[len(prompt) :]
    if not all(answer.strip() for answer in answers):
        raise UnusableRecord("one answer is the beginning of the other")
    return _preference(source, *(_example(source, prompt=prompt, completion=one) for one in answers))


def _shared_turns(source: str, chosen: list[Any], rejected: list[Any]) -> Judgement:
    """Two conversations: the turns that both begin with are the prompt, what follows the answers."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    end = next((at for at, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    if not end:
        raise UnusableRecord("chosen and rejected share no prompt")
    if end in (len(chosen), len(rejected)):
        raise UnusableRecord("one answer is the beginning of the other")
    before = _given(chosen[:end])
    return _preference(source, *(_conversation(source, [*before, *one[end:]]) for one in (chosen, rejected)))


def _begins_with_prompt(turns: list[Any]) -> bool:
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    return str(first.get("role", first.get("from", ""))).strip().lower() in ("system", "user", "human", "developer")


def _verdict(fields: Fields, source: str) -> Judgement:
    """An example of any form, and whether its answer is desirable."""
    desirable = _is_desirable(next(fields[key] for key in _LABELS if fields.get(key) is not None))
    rest = {key: value for key, value in fields.items() if key not in _LABELS and value is not None}
    example = form_of_fields(rest, EXAMPLE_FORMS).example(rest, source)
    if isinstance(example, Conversation):  # one verdict is of one answer: the last
        turns = [{"role": turn.role, "content": turn.content} for turn in example.messages]
        example = _conversation(source, [*_given(turns[:-1]), turns[-1]])
    return JudgedAnswer(example, desirable, source)


def _is_desirable(label: Any) -> bool:
    text = str(label).strip().lower()
    if text in _TRUE or label in (1, 1.0):
        return True
    if text in _FALSE or label in (0, 0.0, -1):
        return False
    raise Malformed("'label' must be true or false")


def _has_label(form: Form[Example], label: str) -> Form[Judgement]:
    return Form(f"{form.name} with {label}", (*form.keys, label), _verdict, form.lists)


def _other_keys(keys: Collection[str]) -> str | None:
    """What keys are that tell no judgement, where it can be said."""
    present = set(keys)
    if len(present & {_CHOSEN, _REJECTED}) == 1:
        missing = min({_CHOSEN, _REJECTED} - present)
        return f"those of a preference without '{missing}', which says what the other answer is better than"
    if any(set(form.keys) <= present for form in EXAMPLE_FORMS.forms):
        return (
            "those of an example, which prefers nothing; expected chosen and rejected, or a label. Train on "
            "examples with --method sft"
        )
    return None


_FORMS: tuple[Form[Judgement], ...] = (
    Form("prompt/chosen/rejected", ("prompt", _CHOSEN, _REJECTED), _prompted),
    Form("ranked sharegpt", ("conversations", _CHOSEN, _REJECTED), _ranked_chat, ("conversations", _CHOSEN, _REJECTED)),
    Form("ranked chat", ("messages", _CHOSEN, _REJECTED), _ranked_chat, ("messages", _CHOSEN, _REJECTED)),
    Form("ranked alpaca", ("instruction", _CHOSEN, _REJECTED), _ranked_alpaca),
    Form("question/chosen/rejected", ("question", _CHOSEN, _REJECTED), _ranked_question),
    Form("chosen/rejected", (_CHOSEN, _REJECTED), _implicit),
    *(_has_label(form, label) for label in _LABELS for form in EXAMPLE_FORMS.forms if form.name != "text"),
)

JUDGEMENT_FORMS: FormSet[Judgement] = FormSet(
    _FORMS,
    "chosen and rejected (with prompt, question, instruction, messages or conversations), or prompt, completion and "
    "label",
    EXAMPLE_FORMS.known | {_CHOSEN, _REJECTED, *_LABELS},
    _other_keys,
)
"""What preference training reads."""
