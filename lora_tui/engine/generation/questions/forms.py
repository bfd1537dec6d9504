"""How a question is put together from a clause, and whether it can be understood without its sentence.

`ask` inverts subject and auxiliary ("was opened" becomes "was ... opened", "opened" becomes "did ... open").
`unclear_words` are what keeps a question from standing by itself: pronouns, "the former", a bare "most common".
"""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import head_noun, is_person, names_in
from lora_tui.engine.generation.questions.clauses import Clause
from lora_tui.engine.generation.questions.phrases import Phrase, is_time
from lora_tui.engine.generation.questions.verbs import Token, text_of

_POINTING = frozenset(
    "this these those it they them he she him her i we us me latter same such another other others following "
    "previous above-mentioned here ones respectively said others' itself themselves let".split()
)
_POSSESSIVE = frozenset("its their his her my our".split())
_VAGUE_HEADS = frozenset(
    """
    one thing things way ways reason reasons result results idea change changes problem problems rest part parts
    example case cases number amount kind kinds sort type types fact point difference answer question matter effect
    aim purpose goal step work cause limit decision rule answer plan stage tin money system first second third
    fourth last next other same most least best worst some any many few more less all none everything something
    nothing anything everyone someone nobody majority minority exception latter former work trick advantage
    disadvantage alternative word words two three four five pair
    """.split()
)
_NO_SUBJECT_STARTS = frozenset("whoever whatever what how whether which only then even just when not".split())
_QUANTIFIERS = frozenset("any some many several few most all no either neither half much none everything".split())
_NOUNS_IN_LY = frozenset("early family july daily weekly italy".split())
_NOUNS_IN_EST = frozenset(
    "forest guest chest nest west priest harvest crest request interest test rest contest pest".split()
)
_COMMON_STARTS = frozenset(
    "a an the every each one some most two three four five six seven eight nine ten all no".split()
)
_RELATIVE = frozenset("who which that whose where of".split())
MISREAD = re.compile(
    r"""\b(?:is|are|was|were|does?|did)\ (?:whose|which|whom?)\b         # a relative clause taken for a sentence
      | \b(\w+)\ \1\?$                                                # "how many degrees does a tick tick?"
      | \b(?:does?|did)\b.*\ be\ \w+                                  # two predicates: "did the sack be given"
      | ^how\ (?:many|much)\b.*\ and\ (?:\d|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty)\w*\b
      | ^how\ (?:many|much)\b.*\ take\ an?\ \w+                       # two objects: the other one is the answer
      | ^[^,]*\b(?:do|does|did|is|are|was|were)\b.*\ (?:contains|consists|belongs|becomes|allows
        |includes|has|depends|refers|requires)\b
      | ^what\ (?:does?|did)\b.*\ (?:stand|hang|live|lie|sit|go|come|sleep|stay|happen|exist|remain)\?$  # no object
      | ^what\ (?:does?|did)\ (?!all|both|half|inside|does)\w+\ (?:the|an?|any)\b
      | \bwhile\b | \b(?:tonight|yesterday|tomorrow)\b
      | \b(?:next|following|previous|same)\ (?:day|night|morning|evening|week|month|year|spring|summer|autumn|winter)\b
      | \band\ (?:up\ to|about|another|only)\b | \bat\ \w+\ and\ the\b
      | \bthe\ (?:rest|others?)(?!\ of\b) | \b(?:else|above\ all)\b
      | \b(?:two|three|four|five|six|ten|\d+)\ more\b(?!\ than)
      | \ and\ (?:then|for)\b | ,\ (?:and|or)\b.*\?$                 # a list, torn
      | \b(in\ \d{4})\b.*\ \2\b
      | ^when\ (?:does?|did|is|are|was|were)\b.*\ for\ (?:an?|about|\d|\w+\ (?:hours|days|weeks|months|years|minutes))
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Questions that a sentence which was misread turns into. Seen in texts that the rules had not been written on."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject as it stands within a question, its grammatical number, and whether it is a person."""

    text: str
    head: str
    is_plural: bool
    is_person: bool


def subject_of(clause: Clause, names: Set[str]) -> Subject:
    """Return a clause's subject for a question; `names` are the words that the passage writes as names."""
    tokens = clause.subject[:-1] if clause.subject[-1].text == "," else clause.subject
    listed = any(token.low in ("and", "or") for token in tokens)
    cut = next(
        (
            n
            for n, token in enumerate(tokens)
            if token.text == ","
            and (not listed or (n + 1 < len(tokens) and tokens[n + 1].low in ("which", "who", "where", "whose")))
        ),
        None,
    )
    tokens = tokens[:cut]
    head = head_noun(tokens)
    joined = any(token.low == "and" for token in tokens) and not any(token.low in _RELATIVE for token in tokens)
    found = list(names_in(tokens, names, mid_sentence=tokens[0].start > 0))
    owned = any(name[-1].text.endswith(("'s", "’s")) for name in found)  # "Ines Malloy's opera"
    person = (any(is_person(name) for name in found) and not owned) or english.is_human(head.text)
    return Subject(within(tokens, clause.sentence, names), head.text, joined or english.is_plural(head.text), person)


def within(tokens: Sequence[Token], sentence: str, names: Set[str]) -> str:
    """Return tokens as text for the middle of a sentence: the first letter in lower case, unless it is a name's."""
    text, first = text_of(tokens, sentence), tokens[0]
    if first.low in _COMMON_STARTS | english.DETERMINERS | english.PREPOSITIONS | english.SUBORDINATORS:
        return text[0].lower() + text[1:]
    is_name = (
        first.text in names
        or any(letter.isupper() for letter in first.text[1:])
        or not first.text[0].isalpha()
        or first.text.rstrip(".") in english.TITLES | english.FIRST_NAMES | english.NATIONS
        or (len(tokens) > 1 and tokens[1].text[0].isupper())
    )
    return text if is_name else text[0].lower() + text[1:]


def ask(word: str, clause: Clause, subject: Subject, rest: str) -> str | None:
    """Return ``word`` + auxiliary + subject + verb + ``rest`` + "?", or None where the verb's forms are not known."""
    if "not" in [token.low for token in clause.adverbs] or any(t.low in english.NEGATIONS for t in clause.adverbs):
        return None
    kept = " ".join(
        t.text
        for t in clause.adverbs
        if t.low in ("first", "originally", "usually", "always", "normally", "officially")
    )
    if clause.auxiliaries:
        auxiliary, *others = (token.text for token in clause.auxiliaries)
        verb = clause.verb.text if clause.verb is not None else ""
        return joined(word, auxiliary, subject.text, *others, kept, verb, rest)
    form = clause.verb_form
    if form is None or not form.base or form.tense not in ("past", "third", "base"):
        return None
    if (form.tense == "third" and subject.is_plural and not subject.is_person) or (
        form.tense == "base" and not subject.is_plural and subject.text not in ("you", "we", "they", "I")
    ):
        return None  # the verb was none, or it has another subject
    following = rest.split()[0] if rest.split() else ""
    if (
        form.tense == "base"
        and any(verb.tense == "third" for verb in english.verbs_of(following))
        and not (english.is_plural(following) and form.base in ("have", "need", "use", "make", "see"))
    ):
        return None  # "the annual litter pick takes place": the verb was a noun
    auxiliary = {"past": "did", "third": "does", "base": "do"}[form.tense]
    return joined(word, auxiliary, subject.text, kept, form.base, rest)


def predicate(clause: Clause) -> str:
    """Return the verb group as it stands, for a question that asks for the subject: "has opened"."""
    words = [token.text for token in clause.auxiliaries]
    if clause.verb is not None:
        words.append(clause.verb.text)
    return " ".join(words)


def joined(*parts: str) -> str:
    """Join the parts of a question and end it."""
    text = " ".join(" ".join(part for part in parts if part).split())
    text = re.sub(r"\s+([,.;])", r"\1", text).rstrip(" ,.;")
    text = re.sub(r"\b([ap]\.m)$", r"\1.", text)
    return f"{text[0].upper()}{text[1:]}?"


def as_answer(text: str) -> str:
    """Return an answer in its natural form: a capital at its beginning, a full stop at its end."""
    text = text.strip(" ,;")
    capital = text if text[0] in "`" else text[0].upper() + text[1:]
    return capital if capital.endswith((".", "!", "`")) and not capital.endswith("``") else f"{capital}."


def unclear_words(tokens: Sequence[Token], *, subject: bool = False) -> bool:
    """Tell whether a phrase cannot be understood without its sentence."""
    for place, token in enumerate(tokens):
        low = token.low
        if low in _POINTING or (subject and low in _POSSESSIVE):
            return True
        if low == "former" and place + 1 == len(tokens):
            return True
        if low == "both" and (place + 1 == len(tokens) or tokens[place + 1].low == "of"):
            return True
        if low == "that" and (place == 0 or place + 1 == len(tokens)):
            return True
        if low == "there":
            return True
        if low in ("above", "below", "earlier", "later", "too", "also", "instead") and place + 1 == len(tokens):
            return True
    return False


def unclear_beside(tokens: Sequence[Token], subject: Subject) -> bool:
    """Tell whether a phrase cannot be understood beside its subject: "they" may stand for a subject in the plural."""
    own = ("they", "them") if subject.is_plural else ("he", "she", "him", "her") if subject.is_person else ("it",)
    return unclear_words([token for token in tokens if token.low not in own])


def names_itself(tokens: Sequence[Token]) -> bool:
    """Tell whether a subject says what it is: no pronoun, no bare adjective or number, no vague noun by itself."""
    if unclear_words(tokens, subject=True):
        return False
    first, head = tokens[0], head_noun(tokens)
    if len(tokens) > 1 and any(token.low in ("you", "i", "we") or token.text in "-–—" for token in tokens):
        return False
    if first.low in ("nobody", "everybody", "anybody", "anyone", "everyone", "somebody", "someone", "nothing"):
        return False
    if first.low in ("every", "each") and is_time(tokens):
        return False
    if first.low in _NO_SUBJECT_STARTS or (first.low.endswith("ly") and first.low not in _NOUNS_IN_LY):
        return False
    if first.low.endswith("ing") and any(
        token.low in ("which", "that", "how", "what", "why", "if", "whether") for token in tokens
    ):
        return False
    complete = any(token.low in _RELATIVE for token in tokens[1:])
    words = [token for token in tokens if token.is_word]
    if first.low in _QUANTIFIERS or (first.low == "one" and (complete or english.is_human(head.text))):
        return False
    if head.low in _VAGUE_HEADS and not (
        complete and head.low not in ("one", "rest", "some", "other", "others", "most")
    ):
        return False
    if (head.is_number and len(words) < 3) or head.low in english.DETERMINERS | english.ADVERBS:
        return False
    if head.low.endswith("est") and head.low not in _NOUNS_IN_EST:
        return False
    if len(words) >= 2 and words[-2].low in ("most", "least", "more", "less") and not complete:
        return False
    return not (english.is_adjective(head.low) and not complete)


def phrases_text(phrases: Sequence[Phrase], sentence: str) -> str:
    """Return phrases side by side as text."""
    return " ".join(text_of(phrase.tokens, sentence) for phrase in phrases)
