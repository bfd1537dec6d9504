"""What makes a question worthless by its form: it leans on what is not seen, gives its answer away, or asks nothing.

Who reads a pair in training sees neither the passage nor the examples in it. Each check returns the words that show the
fault, or None. English, but for the comparison of languages.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

from lora_tui.engine.generation.questions.completions import stems
from lora_tui.scoring.metrics import FUNCTION_WORDS
from lora_tui.scoring.words import tokens

_THING = (
    r"(?:method|function|class|example|code|snippet|case|way|approach|feature|flag|option|parameter|attribute|plugin"
    r"|decorator|command|exception|object|tool|library|app|application|program|value|variable|property|process|step"
    r"|technique|procedure|setting|table|figure|diagram|image|list|line|screen|call|processing|behaviou?r|situation"
    r"|person|man|woman|event|place|device|system|concept|term|study|paper|project|product|guide)"
)
_DANGLING = re.compile(
    rf"""\b(?:this|that|these|those|such\ an?)\ (?:\w+\ )?{_THING}s?\b
      | \bin\ (?:this|that|such\ a)\ case\b
      | \b(?:the\ )?(?:following|above|preceding|previous|aforementioned)\ {_THING}s?\b
      | \b(?:the\ )?{_THING}s?\ (?:\w+\ )?(?:above|below|here)(?=\W*$|\ (?:\w+\ ){{0,2}}\w+\W*$)
      | \b(?:shown|described|mentioned|used|given|listed)\ (?:here|above|below)\b
      | \bhow\ many\ of\ (?:these|those|them)\b
      | \bin\ the\ (?:example|code|snippet|figure|diagram|table|listing)\b(?!\ of\b|\ that\b)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_PRONOUN = re.compile(r"\b(?:it|they|them|its|their|he|she|him|her|his)\b", re.IGNORECASE)
_DUMMY_IT = re.compile(
    r"\b(?:did|does|will|would|can|could|is|was|has)\ it\ (?=(?:be\ |been\ )?(?:takes?|taken?|costs?|possible"
    r"|necessary|safe|common|allowed|important|better|best|advisable)\b[^?]*\bto\b)",
    re.IGNORECASE,
)
"""An "it" that stands for nothing: "how long does it take to dig a canal"."""

_DEMONSTRATIVE = re.compile(r"^\W*(?:\w+\W+){1,2}(?:this|that|these|those)\W+(?:\w+\W*)$", re.IGNORECASE)
_ABOUT_TEXT = re.compile(
    r"""\b(?:what|which)\b[^?]*\b(?:title|heading|first\ word|last\ word|topic|subject)\ of\ (?:the|this)\b
      | \bwhat\ is\ (?:the|this)\ (?:chapter|section|guide|document|text|page|article)\ about\b
      | \bhow\ many\ (?:words|letters|sentences|paragraphs|lines)\b[^?]*\b(?:heading|title|section|text|passage|chapter)
      | \b(?:is|are|was)\ [^?]{1,40}\ mentioned\b
      | \b(?:chapter|guide|document|section|page|article)\ (?:written|contain|mention|discuss|cover)\w*
      | \bdoes\ the\ (?:document|text|chapter|guide|section|page)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BARE_YES = re.compile(
    r"^\W*(?:yes|no|true|false)(?:\W+(?:it|they|there|he|she)\W+(?:is|are|do|does|was|were|can|has|have))?\W*$", re.I
)
_DENIES = re.compile(r"\b(?:not?|never|none|nobody|nothing|cannot)\b|n['’]t\b", re.IGNORECASE)
"""A denial says something, whatever words it denies."""

_CHOICE = re.compile(r"\bor\b", re.IGNORECASE)


def dangling_reference(question: str) -> str | None:
    """Return the words of a question that point at something only the passage shows."""
    if found := _DANGLING.search(question):
        # "this" may point back into the question itself: "A method is called. What does this method return?"
        before = question[: found.start()]
        if not re.search(r"[.!?;]\s", before) and not re.search(
            r"\b(?:if|when|after|because)\b.*,", before, re.IGNORECASE
        ):
            return found.group()
    if _DEMONSTRATIVE.search(question):
        return question
    if (pronoun := _PRONOUN.search(_DUMMY_IT.sub(" ", question))) is not None:
        named_before = set(tokens(question[: pronoun.start()])) - FUNCTION_WORDS - _EMPTY
        named = set(tokens(question)) - FUNCTION_WORDS - _EMPTY
        if not named_before and len(named) <= 3:
            return pronoun.group()
    return None


_EMPTY = frozenset(
    "key value way thing things long many much often far case invoke invokes return returns add added mark take work"
    " use used called call happen happens mean means contain contains stand name kind type sort".split()
)
"""Words that name nothing a pronoun could stand for."""


def trivial(question: str, answer: str) -> str | None:
    """Return why a pair teaches nothing: it is about the text as a text, or its answer is a bare yes or no."""
    if found := _ABOUT_TEXT.search(question):
        return found.group()
    return answer.strip() if _BARE_YES.match(answer) else None


def gives_answer_away(question: str, answer: str) -> bool:
    """Tell whether a question holds every content word of its answer; of a choice it may, and where that is denied."""
    if _CHOICE.search(question) or _DENIES.search(answer) or re.match(r"\W*yes\b", answer, re.IGNORECASE):
        return False
    names = [match.group() for match in _NAME.finditer(answer)]
    if any(name.casefold() not in question.casefold() for name in names):
        return False
    ours, theirs = (_content(_NAME.sub(" ", text)) for text in (answer, question))
    return bool(ours or names) and ours <= theirs


_NAME = re.compile(r"`[^`\n]+`|@?\w*(?:[_.+=@/]+\w+)+(?:\(\))?|\w+\(\)|\w+\+(?!\w)")
"""Names in code: what they are made of counts for nothing, "push_screen" speaks of no screen."""


def _content(text: str) -> set[str]:
    return set(stems(text)) | {token for token in tokens(text) if any(character.isdigit() for character in token)}


_COMMON: Mapping[str, frozenset[str]] = {
    "English": frozenset(
        "a an the of and to in is it its that was for with as are by this be at from has have had can will no not on or"
        " if so do does which what who how when why where they their you your one".split()
    ),
    "German": frozenset(
        "der die das und ist in zu den mit von auf für ein eine wird was wie nicht es dem des sind".split()
    ),
    "French": frozenset(
        "le la les de des et est un une dans que qui pour sur avec par du en ont été quelle ils elle".split()
    ),
    "Spanish": frozenset("el la los las de y es un una en que para con por del se qué cómo devuelve son su al".split()),
    "Italian": frozenset(
        "il la lo gli le di e è un una che per con del della in sono quante quale alla nel può si".split()
    ),
    "Portuguese": frozenset("o a os as de e é um uma que para com do da em no na por se faz são ao ela ele".split()),
    "Dutch": frozenset(
        "de het een van en is in op te dat die met voor hoe kan worden door wordt aan niet zijn men".split()
    ),
    "Polish": frozenset("i w na z jest się nie do to że jak co przez dla od po".split()),
    "Swedish": frozenset("och i att det som en på är av för med den till inte har hur vad".split()),
    "Turkish": frozenset("ve bir bu için ile ne nasıl olarak da de çok".split()),
}
_COMMON_ANYWHERE = frozenset().union(*_COMMON.values())
_MIN_COMMON = 2


_LETTER = re.compile("[A-Za-z]")
_LETTERS_ALONE = {code: " " for code in range(128) if not chr(code).isalpha()}


def other_language(text: str, passage: str) -> str | None:
    """Return the language or script of a text, where it is plainly not that of the passage."""
    script, own_script = _script(text), _script(passage)
    if script and own_script and script != own_script:
        return script
    if script != "Latin":
        return None
    source = _language(_words(passage))
    if not source:
        return None
    # What stands in the passage, too, is no sign of another language: "a", "no", "die", names.
    foreign = _words(text) - _words(passage) - _COMMON[source]
    language = _language(foreign)
    if not language:
        return None
    own = len(_words(text) & _COMMON[source])
    return language if len(foreign & _COMMON[language]) >= max(_MIN_COMMON, own) else None


def is_in_english(text: str) -> bool:
    """Whether a text is in English, or says too little to tell: what the checks of claims know words of."""
    return _script(text) in ("Latin", "") and _language(_words(text)) in ("English", "")


@lru_cache(maxsize=256)
def _words(text: str) -> frozenset[str]:
    if text.isascii():  # the same in a fifth of the time
        return frozenset(text.lower().translate(_LETTERS_ALONE).split())
    return frozenset(re.findall(r"[^\W\d_]+", text.casefold()))


@lru_cache(maxsize=256)
def _language(words: frozenset[str]) -> str:
    """Return the language of which the most common words are among these; empty where two have as many."""
    known = words & _COMMON_ANYWHERE
    hits = sorted(((len(known & common), name) for name, common in _COMMON.items()), reverse=True)
    (best, name), (second, _) = hits[0], hits[1]
    return name if best > second else ""


@lru_cache(maxsize=256)
def _script(text: str) -> str:
    """Return the script of most letters of a text: Latin, Cyrillic, CJK …; empty for a text without many."""
    if text.isascii():
        return "Latin" if _LETTER.search(text, 0, 5000) else ""
    counts: dict[str, int] = {}
    for character in text[:5000]:
        if character.isalpha():
            name = unicodedata.name(character, "").split(" ")[0].split("-")[0]
            script = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "FULLWIDTH": "LATIN"}.get(name, name)
            counts[script] = counts.get(script, 0) + (3 if script == "CJK" else 1)
    return max(counts, key=lambda script: counts[script]).title() if counts else ""
