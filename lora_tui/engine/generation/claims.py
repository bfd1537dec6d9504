"""What an answer names and speaks of, held against passage, quoted evidence and question.

A fluent answer with another class or town in it looks right to a lenient judge. Names in code, quotation marks or
capitals must stand where the answer is drawn from, and most of its words in the passage. Each check returns the claim
that nothing holds, or None. Numbers are looked at by `stated_numbers`, negations by `negations`; all three are measured
on the labelled pairs of the tests.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice

from lora_tui.engine.generation.number_reading import stated, written
from lora_tui.engine.generation.quantities import TENS, UNITS
from lora_tui.engine.generation.questions.english import verbs_of
from lora_tui.scoring.metrics import FUNCTION_WORDS, grounding
from lora_tui.scoring.words import is_number, tokens

MIN_GROUNDING = 0.3
"""Share of an answer's content words, and of each of its sentences, that passage and question must hold, at least.

Answers that speak of something else have less: 72 of 74. A right one in free words has half of its words elsewhere, so
half as a bound (issue 16) stopped 11 of 326 right ones; this stops 3."""

_MOST_MISSING = 5
"""Content words that may be missing for each that is taken from the evidence: "she walks up all 142 steps"."""

_MIN_MISSING = 3
"""Content words that must be missing before a short answer counts as one about something else."""

_LIGHT = frozenset(
    "between besides allow allowed forbidden almost nearly bring brings brought take takes taken took get gets got"
    " give gives given gave keep keeps kept need needs needed use uses used using pass set sets go goes went come"
    " comes came put puts let lets look looks show shows shown make makes made help helps happen happens happened"
    " cause causes call calls called mean means allows down up away back off near around about always never only"
    " still already also just even both each every everyone someone anyone way ways thing things kind kinds part"
    " parts time times case people number amount long short much many several morning evening afternoon night noon"
    " midnight day days hour hours minute minutes second seconds week weeks month months year years daily weekly"
    " monthly yearly percent degrees half quarter another whether hardly roughly exactly least most later earlier"
    " afterwards meanwhile therefore however within onto dont doesnt didnt isnt arent wasnt wont cant couldnt".split()
)
"""Words that any answer may use: what they say is said by those around them."""

_COUNTING = frozenset(
    {
        *UNITS,
        *TENS,
        *"once twice thrice double triple half dozen couple fortnight decade century".split(),
        *"first third fourth fifth sixth seventh eighth ninth tenth last".split(),
    }
)
"""Words of numbers: what they count is looked at elsewhere."""

# Names

_QUOTED = re.compile(r"`([^`\n]{1,80})`|\"([^\"\n]{1,40})\"|“([^”\n]{1,40})”|(?<!\w)'([^'\n]{1,40})'(?!\w)")
_CODE = re.compile(
    r"(?<!\w)--?[a-z][\w-]*(?:=\w+)?(?<![a-z]-)(?=[\s.,;)]|$)"  # an option
    r"|@?\w+(?:\.\w+)+(?:\(\))?|@[A-Za-z_]\w*"  # dotted, a decorator
    r"|[A-Za-z]\w*\(\)|[A-Za-z]*_\w*|\w+_\w*"  # a call, words joined by underscores
    r"|[a-z]+\+[\w]*|\^[A-Z]"  # a combination of keys
    r"|\b(?:[A-Z]+[a-z]+[A-Z]\w*|[a-z]+[A-Z]\w*|[A-Z]{2,}\w*|[A-Z]\d+)\b"  # humps, capitals
)
_SIGN_OF_CODE = re.compile(r"[-@(_+^]|\.\w|[a-z][A-Z]|[A-Z][A-Z\d]")
"""In everything that `_CODE` finds, and sooner looked for."""

_CAPITALISED = re.compile(r"(?:(?<=[\w,;)]\s)|(?<=[^\W\d_]-))(?:[A-ZÀ-ÖØ-Þ][^\W\d_]{2,}|(?<=[a-z]\s)[B-HJ-Z])\b")
_ASKS_FOR_NAME = re.compile(
    r"(?i)\s*(?:who|whom|whose|where|(?:which|what|in which|in what|by whom|to whom|at which|from which)\s+(?:\w+\s+)?"
    r"(?:person|man|woman|engineer|author|architect|designer|artist|company|firm|city|town|village|country|place|river"
    r"|mountain|island|harbou?r|port|station|street|school|university|name))\b"
)
_DATE_WORD = re.compile(
    r"\b(?:January|February|March|April|June|July|August|September|October|November|December|May(?=,? \d)"
    r"|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)\b"
)
_CALENDAR = re.compile(
    r"\b(?:weekdays?|weekends?|(?:\d+|[a-z]+) (?:days|weeks|months) (?:later|before|after|earlier)"
    r"|(?:takes?|lasts?|took|lasted|for|within|every) (?:\d+|[a-z]+) (?:days|weeks|months))\b",
    re.IGNORECASE,
)
"""What tells a day or month without its name."""

_FIRST_WORD = re.compile(r"\W*([A-ZÀ-ÖØ-Þ][^\W\d_]{2,})")
_MOST_OF_A_NAME = 3
"""Content words of an answer that is hardly more than a name: its first word is looked at, too."""

_BESIDE_A_NAME = 2
"""Content words beside the capitalised ones of an answer that is a name with its place and trade."""

_ROLES = frozenset(
    "engineer author architect designer artist captain doctor professor master mayor minister president king queen"
    " prince princess bishop sir lady lord mr mrs ms dr company firm city town village country port river mount lake"
    " island school university both neither nobody everyone anyone several many engineers authors people".split()
)
"""Words that an answer may begin with before a name."""

_SHORT = frozenset("OK ID US UK EU TV AM PM a.m p.m e.g i.e".split())


def wrong_names(answer: str, evidence: str, question: str, passage: str) -> Iterator[str]:
    """Yield the names of an answer that do not stand where they should.

    Names in code, quotation marks or capitals must be in evidence or question; a capitalised word inside a sentence
    anywhere in the passage. Numbers are looked at elsewhere.
    """
    if (name := wrong_code_name(answer, evidence, question, passage)) is not None:
        yield name
    bare = _QUOTED.sub(" ", answer)
    names = [match.group() for match in _CAPITALISED.finditer(bare)]
    dates = [match.group() for match in _DATE_WORD.finditer(bare)]
    first = _FIRST_WORD.match(bare) if _ASKS_FOR_NAME.match(question) else None
    if not names and not dates and first is None:
        return
    everywhere = _name_key(f"{evidence}\n{question}") + " " + _name_key(passage)
    names += [date for date in dates if date[:3].casefold() not in everywhere]
    if first is not None:
        said = set(tokens(bare)) - FUNCTION_WORDS - _LIGHT
        is_name = len(said) <= _MOST_OF_A_NAME or len(said) <= len(names) + _BESIDE_A_NAME
        if first[1].casefold() in said and is_name and first[1].casefold() not in _ROLES:
            names.insert(0, first[1])
    for name in names:
        if not _holds(everywhere, name) and not _is_derived(name.casefold(), everywhere):
            yield name


def may_follow_from_dates(name: str, evidence: str) -> bool:
    """Tell whether a day or month that is named nowhere may be worked out: "weekdays", "five months" after March."""
    return _DATE_WORD.fullmatch(name) is not None and _CALENDAR.search(evidence) is not None


def wrong_code_name(answer: str, evidence: str, question: str, passage: str = "") -> str | None:
    """Return a name in code or quotation marks that neither evidence nor question has; in any language.

    Words in quotation marks may have other endings there. A call may be put together from names of the passage, of
    which one stands in evidence or question.
    """
    near = _name_key(f"{evidence}\n{question}")
    for match in _QUOTED.finditer(answer):
        name = str(next(filter(None, match.groups())))
        if not (_holds(near, name) or _is_made_of(name, near, passage)):
            return name
    bare = _QUOTED.sub(" ", answer)
    for match in _CODE.finditer(bare) if _SIGN_OF_CODE.search(bare) else ():
        name = match.group()
        if name not in _SHORT and any(character.isalpha() for character in name) and not _holds(near, name):
            return name
    return None


_PART_OF_CALL = re.compile(r"[A-Za-z_]\w*")
_PLAIN_WORDS = re.compile(r"[a-z]+(?:[- ][a-z]+)+")


def _is_made_of(name: str, near: str, passage: str) -> bool:
    """Tell whether a quoted name is a call of names that the passage has, or words of evidence or question.

    A dotted name of the passage is held by its parts: of "simulate triple clicks with the pilot", `pilot.click`.
    """
    if "(" in name:
        everywhere = near + " " + _name_key(passage)
        called = _PART_OF_CALL.findall(name)
        return any(_holds(near, part) for part in called) and all(_holds(everywhere, part) for part in called)
    parts = " ".join(_PART_OF_CALL.findall(name.replace("-", " ")))
    is_in_words = _PLAIN_WORDS.fullmatch(name) is not None or ("." in name and _holds(_name_key(passage), name))
    return is_in_words and grounding(parts, near) == 1


_SETTING = re.compile(r"\b\w+=(?:\([^()\n]{1,40}\)|[\w.\"'-]+)")
_SENTENCE_BREAK = re.compile(r"(?<=[.!?:])\s+|\n+")


def without_quoted_settings(answer: str, passage: str) -> str:
    """Return an answer without what it quotes of the passage's code: a name with its value, ``offset=(0, -1)``."""
    if "=" not in answer:
        return answer
    there = "".join(passage.split())

    def quoted(found: re.Match[str]) -> str:
        setting = found.group().rstrip(".")
        return " " + found.group()[len(setting) :] if "".join(setting.split()) in there else found.group()

    return _SETTING.sub(quoted, answer)


def with_neighbours(evidence: str, passage: str) -> str:
    """Return the evidence with the rest of the sentence it ends in and the next one: a quotation is often too short."""
    start = passage.find(evidence.strip())
    if not evidence.strip() or start < 0:
        return evidence
    end = start + len(evidence.strip())
    ends = [found.start() for found in islice(_SENTENCE_BREAK.finditer(passage, end), 2)]
    following = passage[end : ends[-1] if ends else len(passage)]
    return f"{evidence} {following[:_LONGEST_NEIGHBOUR]}"


def what_it_points_at(evidence: str, passage: str) -> str:
    """Return the sentence before the evidence, where that begins with a word that points there: "It was rebuilt".

    Empty where it does not. What "it" has by numbers is told there.
    """
    stripped = evidence.strip()
    start = passage.find(stripped)
    if start <= 0 or not _POINTS_BACK.match(stripped):
        return ""
    before = passage[max(0, start - _LONGEST_NEIGHBOUR) : start].rstrip()
    begins = [found.end() for found in _SENTENCE_BREAK.finditer(before)]
    return before[begins[-1] if begins else 0 :]


_POINTS_BACK = re.compile(
    r"\W*(?:\w+\s+){0,2}?(?:it|its|he|she|they|their|his|her|this|these|those|that|then|there|later|such)\b", re.I
)
_LONGEST_NEIGHBOUR = 300
_DERIVING = re.compile(r"(?:i?ans?|n|ese|ish|s|ite|ic|er|i)$")
_MIN_ROOT = 4


def _is_derived(name: str, text: str) -> bool:
    """Tell whether a name is made of one of the text by its ending, or the other way round: Silesian, of Silesia."""
    root = _DERIVING.sub("", name)
    found = set(re.findall(rf"\b{re.escape(root)}[^\W\d_]{{0,3}}\b", text)) if len(root) >= _MIN_ROOT else set()
    return any(other in (root, root + "a", root + "ia", root + "e", root + "y") for other in found) or any(
        _DERIVING.sub("", other) == name for other in found
    )


@lru_cache(maxsize=256)
def _name_key(text: str) -> str:
    """Return a text for looking up names: case-folded, without markup and brackets of calls."""
    return re.sub(r"[`*\"“”'\[\]]|\(\)", " ", text.replace("++", " ")).casefold() + " " + text.casefold()


def _holds(text: str, name: str) -> bool:
    """Tell whether a name stands in a text as a whole; the plural of one does, too."""
    key = name.casefold().strip(" `*\"'.,;:()@").removesuffix("()")
    if not any(character.isalnum() for character in key):
        return True
    forms = {key, key.removesuffix("s"), " ".join(key.split())}
    if "+" in key:  # "++ctrl+p++" stands for the keys ctrl and p
        return all(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) for part in key.split("+") if part)
    return any(re.search(rf"(?<![\w]){re.escape(form)}(?:s|es)?(?!\w)", text) for form in forms if form)


# Words

_BROKEN = re.compile("[-\u2010]\\s*\\n")
_HYPHENATED = re.compile(r"(?<=\w)[-\u2010]\s*\n\s*(?=\w)")


def off_the_passage(answer: str, passage: str, question: str, evidence: str = "") -> str | None:
    """Return what of an answer speaks of something that passage and question do not.

    What takes a word or a number of the evidence that the question does not give away speaks of it in words of its own.
    """
    joined = _joined(passage)
    source = (passage, question) if joined == passage else (passage, joined, question)
    if _is_foreign(answer, source):
        return answer
    if _is_off(answer, source, evidence, question):
        return answer
    sentences = [one for one in re.split(r"(?<=[.!?])(?<!\b[a-z]\.)\s+", answer) if one.strip()]
    for sentence in sentences if len(sentences) > 1 else []:
        if _is_off(sentence, source, evidence, question):
            return sentence
    return None


def _is_foreign(answer: str, source: Sequence[str]) -> bool:
    """Tell whether an answer of up to three words, none of them a number, has not one from the source: "Celery."."""
    said = tokens(answer)
    if len(said) > _MOST_OF_A_NAME or any(word[0].isdigit() or word in _COUNTING for word in said):
        return False
    content = set(said) - FUNCTION_WORDS - _LIGHT - {"yes", "no"}
    return bool(content) and grounding(" ".join(sorted(content)), *source) == 0


def _is_off(text: str, source: Sequence[str], evidence: str, question: str) -> bool:
    """Tell whether next to nothing of a text's content words are in the source, and more than a few are not."""
    plain = [word for word in tokens(text) if not is_number(word)]  # numbers are looked at elsewhere
    words = " ".join(word for word in plain if word not in _LIGHT and word not in UNITS and word not in TENS)
    share = grounding(words, *source)
    missing = round((1 - share) * len(set(words.split()) - FUNCTION_WORDS))
    if share >= MIN_GROUNDING or missing < _MIN_MISSING:
        return False
    return missing > _MOST_MISSING * _taken(text, words, evidence, question)


def _taken(text: str, words: str, evidence: str, question: str) -> int:
    """Return how many content words and numbers a text takes from the evidence that the question has not.

    Verbs count in whatever form, "strike" for "struck"; two words that the question has as well count as one.
    """
    said, asked = _verbs(tokens(evidence)), _verbs(tokens(question))
    held = [
        grounding(word, question) > 0 or not asked.isdisjoint(_verbs([word]))
        for word in set(words.split()) - FUNCTION_WORDS
        if grounding(word, evidence) > 0 or not said.isdisjoint(_verbs([word]))
    ]
    taken = held.count(False) + held.count(True) // 2
    return taken + len((stated(text) & written(evidence)) - stated(question) - {"0", "1"})


def _verbs(words: Iterable[str]) -> set[str]:
    """Return the verbs, in their base form, that words can be forms of."""
    return {verb.base for word in words for verb in verbs_of(word) if verb.base} - FUNCTION_WORDS - _LIGHT


def _joined(text: str) -> str:
    """Return a text whose words are whole again where a hyphen at the end of a line has parted them."""
    return _HYPHENATED.sub("", text) if _BROKEN.search(text) else text
