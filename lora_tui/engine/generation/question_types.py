"""Question types: what each asks for, and which one a question is, told from its words after it was written.

A model that is asked for a comparison may write a fact, so the type that a pair is counted and shown under comes from
the question itself, whoever wrote it. The rules are English; of German, French and Spanish they know the words for
"why", "how" and the difference. A question in none of these keeps the type that it was asked for.
"""

import re
from collections.abc import Mapping

from lora_tui.engine.generation.literals import PrefilteredPatterns

QUESTION_TYPES: Mapping[str, str] = {
    "fact": "a fact: who, what, when, where or how much",
    "definition": "what a term means, or how to tell it from a similar one",
    "reason": "why something is so",
    "procedure": "how something works or is done, step by step",
    "comparison": "how two things the passage names differ or agree",
    "consequence": "what follows if something happens or is left out",
    "application": "how to use what the passage says in a concrete situation",
    "exception": "a limit, an exception or a common mistake",
}
"""Question types, and how the prompt describes each."""

_AUX = r"(?:do|does|did|is|are|was|were|can|could|will|would|shall|should|may|might|must|has|have|had)"
_AMOUNT = (
    r"how (?:many|much|long|often|old|far|big|large|small|high|tall|deep|wide|fast|heavy|soon|late|early|hot|cold|"
    r"strong|thick|close|near|common|likely|important|expensive|accurate|quickly|frequently)\b"
)
_PERSON = r"(?:you|we|i|one|they|she|he|someone|somebody|anyone)"
_USER = rf"(?:{_PERSON}|(?:a|an|the) (?:user|person|reader|developer|visitor|customer|beginner|student|practitioner))"

_PATTERNS: tuple[tuple[str, str], ...] = (
    ("reason", r"^why\b"),
    (
        "comparison",
        r"^(?!what is a).*\b(?:differ|differs|differed|difference|differences|distinguish(?:es|ed)?|compare|"
        r"compares|compared|comparison|contrast|versus|vs|in common|similarit\w+|alike)\b|\bwhat (?:sets|"
        r"separates) .* apart\b|\bhow (?:is|are|was|were) .* (?:different|similar|like|unlike)\b|\bunterschied\w*|"
        r"\bdiffér\w+|\bdiferenci\w+",
    ),
    (
        "reason",
        r"^(?:(?:and|so|but|then) )?why\b|[,:;] why\b|\bfor (?:what|which) reasons?\b|\bwhat (?:is|are|was|"
        r"were) the (?:main |chief |only )?(?:reasons?|motives?|rationale|purpose|cause|point)\b|^what (?:causes?|"
        r"caused|led|made|makes|explains?|explained|motivated)\b|\bhow come\b|^(?:warum|weshalb|wieso|wozu|"
        r"pourquoi|por qué|perché)\b",
    ),
    (
        "application",
        r"^(?:suppose|imagine|assume|say|given|if|when) .*\b(?:how|what|which|where|whom?) (?:should|would|could|"
        rf"can|must|might) {_USER}\b|\bhow (?:would|should|could|might) {_USER} (?!know\b)|\b{_USER} (?:want|wants|"
        rf"wish|wishes|need|needs|plan|plans|try|tries) to\b|\b(?:which|what) \S+(?: \S+)? should {_USER} (?:use|"
        rf"choose|pick|take|set|select|call|prefer)\b|^when (?:should|would) {_USER}\b|\bin (?:what|"
        r"which) (?:situations?|circumstances|cases?)\b|\bhow (?:can|could) .* be (?:used|applied) (?:to|for|"
        rf"in)\b|^[^?]{{20,}}[.!] (?:how|what|which|where|whom?)\b",
    ),
    (
        "consequence",
        r"\bwhat (?:happens|happened|would happen|will happen|can happen|may happen|might happen|occurs|follows|"
        r"followed|results|resulted)\b|\bwhat (?:is|are|was|were|would be|will be) the (?:\w+ )?(?:results?|"
        r"effects?|consequences?|outcomes?|impact|penalty|penalties)\b|\bconsequences?\b|\bwhat (?:does|do|did|"
        r"can|would|will) .* (?:lead to|cause|result in|trigger|bring about)\b|\bwhat (?:effects?|impact)\b|"
        r"\bhow (?:does|do|did|will|would) .* affect\b|\bwas passiert\b",
    ),
    (
        "exception",
        r"^(?!since|until|how (?:long|many|much|often)).*\b(?:exceptions?|except|unless|limitations?|"
        r"restrictions?|drawbacks?|disadvantages?|mistakes?|pitfalls?|forbidden|prohibited|not (?:allowed|"
        r"permitted|supported|covered|possible|included)|cannot|can't|must not|mustn't|should not|shouldn't|"
        r"may not)\b|\bavoid(?:ed|s)?\b|^when (?:is|are|does|do|should|can|must) .* not\b|\bwhat (?:can|may|must|"
        r"should|does|do|is|are) .* (?:not|never)\b|\b(?:who|nobody|which \w+) (?:may|must|can) not\b",
    ),
    ("fact", rf"^(?:\w+ ){{0,3}}{_AMOUNT}|^(?:who|whom|whose|when|where|since when|until when)\b"),
    (
        "procedure",
        rf"^(?:\w+[, ]){{0,4}}how (?:{_AUX}|to)\b|\bwhat (?:are|is) the (?:\w+ )?(?:steps?|procedure|process|"
        r"method|way)\b|\b(?:which|what) steps?\b|\bin (?:what|which) (?:order|way|manner|sequence)\b|"
        rf"\bby what means\b|\bwhat must be done\b|\bwhat (?:do|does|should|must) {_USER} (?:do|type|enter|press|"
        r"run)\b|^wie (?!viele?|lange|oft|hoch|alt|weit|groß|heiß)\b|^comment\b|^cómo\b",
    ),
    (
        "definition",
        r"\bwhat (?:does|do|did) .* (?:mean|stand for|refer to|denote|signify)\b|\b(?:meant by|meaning of|"
        r"definition of|define|defined as)\b|\b(?:which|what) (?:term|word|name|abbreviation)\b|\bwhat (?:is|are|"
        r"was|were) .* (?:called|named|known as)\b|\bwhat (?:kind|sort|type) of (?:thing|\w+) (?:is|are|was|"
        r"were)\b|^what (?:is|are) an? (?:[\w`'’.-]++ ?){1,4}\?$|^what (?:is|are) (?!the|its|their|his|her|our|"
        r"your|my|this|that)(?:[`\"'“]?[\w`'’.-]++[`\"'”]? ?){1,2}\?$",
    ),
)
"""A pattern for each type, in the order in which they are tried: a word such as "difference" tells more than "how"."""

_RULES = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _PATTERNS)
_IN_LOWER_CASE = PrefilteredPatterns(re.compile(pattern) for _, pattern in _PATTERNS)
_NAMES = {pattern.pattern: name for name, pattern in _RULES}
_DESCRIBES = re.compile(
    r"^(?:\S+ ){1,8}?(?:is|are) (?:an? |the (?:part|set|name|process|kind|type)\b)|^(?:an?|any) \S+", re.IGNORECASE
)
_NAMED_WHAT = re.compile(
    r"^what (?:is|are|was|were) (?:the |an? )?(?:[`\"'“]?[\w`'’.-]++[`\"'”]? ?){1,5}\?$", re.IGNORECASE
)
_KNOWN = re.compile(
    r"\b(?:what|which|who|whom|whose|when|where|how|why|is|are|was|were|do|does|did|can|name)\b", re.IGNORECASE
)


def question_type_of(question: str, answer: str = "", asked: str = "") -> str:
    """Return the type of a question, a key of `QUESTION_TYPES`; `asked`, where its words tell nothing.

    "What is X?" is a definition where the answer describes X: "X is a kind of …", "A flat piece of steel …".
    """
    text = " ".join(question.split())
    if text.isascii():  # then case counts for nothing, and most rules need a word that is not there
        if (found := _IN_LOWER_CASE.search(text.lower())) is not None:
            return _NAMES[found.re.pattern]
    else:
        for name, pattern in _RULES:
            if pattern.search(text):
                return name
    if _NAMED_WHAT.match(text) and " of " not in text and _DESCRIBES.match(" ".join(answer.split())):
        return "definition"
    return "fact" if _KNOWN.search(text) or not asked else asked
