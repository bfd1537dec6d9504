"""Text metrics in [0, 1]: how much a candidate shares with a reference, or with the passage it was drawn from.

All of them compare surface text and none knows meaning: a wrong year or a "not" costs next to nothing, so they are
evidence beside a judge and never a verdict. BLEU and ROUGE are those of nltk and rouge-score to the last bit (the tests
compare them), counted over the tokens of `words`; those libraries take five times as long for a pair of sentences, and
rouge-score minutes and gigabytes for the longest common subsequence of two texts of 200 kB.
"""

import math
from collections import Counter
from collections.abc import Sequence, Set
from decimal import Decimal
from functools import lru_cache

from lora_tui.scoring.porter import porter_stem
from lora_tui.scoring.words import (
    NUMERIC,
    content_tokens,
    is_number,
    is_unspaced,
    normalise,
    number_words,
    numbers,
    tokens,
)

MAX_TOKENS = 40_000
"""Tokens of a text that BLEU and ROUGE look at, about 200 kB of English; what follows them is not compared."""


# Words that say how a sentence is built and not what it is about; their presence in a passage proves nothing.
_FUNCTION_WORD_LIST = """
    a about after all also an and any are as at be because been before being both but by can could did do does done
    for from had has have he her here hers him his how i if in into is it its itself may me might more most must my
    no nor not of on one only or other our out over own she should so some such than that the their them then there
    these they this those through to too under up upon us very was we were what when where which while who whom
    whose why will with would yes you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORD_LIST.split())


def _compared(text: str) -> list[str]:
    return tokens(text)[:MAX_TOKENS]


def _shared_grams(ours: Sequence[str], theirs: Sequence[str], order: int) -> int:
    """Return how many runs of `order` tokens two texts share, each as often as both have it."""
    if ours == theirs:
        return len(ours) - order + 1
    mine, other = (Counter(zip(*(found[place:] for place in range(order)), strict=False)) for found in (ours, theirs))
    return sum(min(number, other[gram]) for gram, number in mine.items() if gram in other)


def _f1(shared: int, candidate: int, reference: int) -> float:
    """Return the harmonic mean of precision and recall from counts; 1 if both texts are empty, 0 if one is."""
    if not candidate and not reference:
        return 1.0
    return 2 * shared / (candidate + reference)


def exact_match(candidate: str, reference: str) -> float:
    """Return 1.0 if both texts are the same after `normalise`, else 0.0."""
    return float(normalise(candidate) == normalise(reference))


def token_f1(candidate: str, reference: str) -> float:
    """Return the F1 of the words two texts share, whatever their order, articles left out (SQuAD's measure).

    1.0 for two empty texts, 0.0 if only one is empty, as in SQuAD's `evaluate-v2.0.py`.
    """
    ours, theirs = content_tokens(candidate), content_tokens(reference)
    return _f1((Counter(ours) & Counter(theirs)).total(), len(ours), len(theirs))


def bleu(candidate: str, reference: str) -> float:
    """Return sentence BLEU with n-grams up to 4, or up to what the shorter of both texts has.

    Plain BLEU-4 gives an exact one-word answer 0, for want of 2-grams. Orders without a match are smoothed as in NIST's
    mteval (1/2, 1/4, … of a match; method 3 of Chen and Cherry 2014), which leaves the other orders as they are; texts
    that share no word score exactly 0. Two empty texts score 1.
    """
    ours, theirs = _compared(candidate), _compared(reference)
    order = min(4, len(ours), len(theirs))
    if order == 0:
        return float(ours == theirs)
    shared = [_shared_grams(ours, theirs, n) for n in range(1, order + 1)]
    if not shared[0]:
        return 0.0
    logarithms, unmatched = [], 0
    for n, number in enumerate(shared):
        unmatched += not number
        logarithms.append(1 / order * math.log((number or 1 / 2**unmatched) / (len(ours) - n)))
    brevity = 1.0 if len(ours) > len(theirs) else math.exp(1 - len(theirs) / len(ours))
    return min(1.0, max(0.0, brevity * math.exp(math.fsum(logarithms))))


def rouge(candidate: str, reference: str) -> dict[str, float]:
    """Return the F1 of ROUGE-1, ROUGE-2 and ROUGE-L as ``rouge1``, ``rouge2``, ``rougeL`` (Lin 2004).

    ROUGE-2 is undefined where a text has a single word. rouge-score then says 0, even for two identical answers; here
    it falls back to ROUGE-1, so that a right one-word answer is not punished. Two empty texts score 1.
    """
    ours, theirs = _compared(candidate), _compared(reference)
    if not ours or not theirs:
        return dict.fromkeys(("rouge1", "rouge2", "rougeL"), float(ours == theirs))
    rouge1 = _harmonic(_shared_grams(ours, theirs, 1), len(ours), len(theirs))
    several = min(len(ours), len(theirs)) > 1
    return {
        "rouge1": rouge1,
        "rouge2": _harmonic(_shared_grams(ours, theirs, 2), len(ours) - 1, len(theirs) - 1) if several else rouge1,
        "rougeL": _f1(_common_subsequence(ours, theirs), len(ours), len(theirs)),
    }


def _harmonic(shared: int, candidate: int, reference: int) -> float:
    """Return the harmonic mean of precision and recall, rounded as rouge-score rounds it."""
    precision, recall = shared / candidate, shared / reference
    return 2 * precision * recall / (precision + recall) if shared else 0.0


def rouge_l_precision(candidate: str, reference: str) -> float:
    """Return the share of the candidate's words that occur in the reference in the same order.

    This is the coverage of an answer by its evidence. Unlike F1 it does not fall because the evidence says more; an
    empty candidate covers nothing and gets 0. Held against a whole passage it means little: nearly every word is found
    somewhere.
    """
    ours, theirs = _compared(candidate), _compared(reference)
    return _common_subsequence(ours, theirs) / len(ours) if ours else 0.0


def text_metrics(candidate: str, reference: str) -> dict[str, float]:
    """Return ``bleu``, ``rouge1``, ``rouge2``, ``rougeL``, ``exact_match`` and ``token_f1`` of a candidate."""
    return {
        "bleu": bleu(candidate, reference),
        **rouge(candidate, reference),
        "exact_match": exact_match(candidate, reference),
        "token_f1": token_f1(candidate, reference),
    }


def agreement(a: str, b: str) -> float:
    """Return how well two replies agree: the mean of token F1 and ROUGE-L, that is, same words and same order.

    Symmetric; 1.0 when both are the same after `normalise`, less otherwise, 0.0 when they share no word.
    """
    ours, theirs = content_tokens(a)[:MAX_TOKENS], content_tokens(b)[:MAX_TOKENS]
    most_urgent_first = _f1(_common_subsequence(ours, theirs), len(ours), len(theirs))
    return (token_f1(a, b) + most_urgent_first) / 2


def grounding(answer: str, *passages: str) -> float:
    """Return the share of an answer's content words and numbers that occur in the passages.

    Each counts once. Inflected English words are found by their Porter stem, numbers by their value alone, and scripts
    without spaces by pairs of neighbouring characters, because single characters occur everywhere. An answer of
    function words alone ("Yes.") is held against the passage word by word; an empty one gets 0.
    """
    claimed = tokens(answer)
    words, values = _terms(claimed), numbers(claimed)
    content = words - FUNCTION_WORDS
    if not content and not values:
        content = words
    if not content and not values:
        return 0.0
    missing, unsupported = content, values
    for passage in passages:
        known, known_values = _said_in(passage)
        missing, unsupported = missing - known, unsupported - known_values
    if missing:
        missing = {
            word
            for word in missing
            if not any(porter_stem(word) in _stems_in(passage, word[0]) for passage in passages)
        }
    return 1 - (len(missing) + len(unsupported)) / (len(content) + len(values))


# A passage is asked about several times, by gates and by metrics, for each of its pairs.


@lru_cache(maxsize=256)
def _said_in(passage: str) -> tuple[Set[str], Set[Decimal | str]]:
    """Return the terms of a passage and its numbers, in digits or in words."""
    source = tokens(passage)
    alone = () if passage.isascii() else (token for token in source if is_unspaced(token))
    return _terms(source).union(alone), numbers(source) | number_words(source)


@lru_cache(maxsize=1024)
def _stems_in(passage: str, first: str) -> Set[str]:
    """Return the stems of a passage's words with that first letter, which no stem changes: all would take 20 times."""
    return {porter_stem(word) for word in _said_in(passage)[0] if word[0] == first}


def likelihood(mean_log_probability: float) -> float:
    """Return the geometric mean probability of a token, the exponential of the mean log-probability, in [0, 1].

    NaN, which a diverged model gives, counts as 0: such a model predicts nothing.
    """
    if math.isnan(mean_log_probability):
        return 0.0
    return math.exp(min(0.0, mean_log_probability))


def _terms(found: Sequence[str]) -> set[str]:
    """Return the words among tokens; a run of unspaced characters gives its pairs, or itself if it is alone."""
    if "".join(found).isascii() or all(len(token) > 1 or token.isascii() for token in found):
        return {token for token in found if token[0] not in NUMERIC or not is_number(token)}
    terms: set[str] = set()
    before = ""  # the unspaced character just passed, if any
    paired = False
    for token in [*found, ""]:
        if token and is_unspaced(token):
            paired = bool(before)
            if paired:
                terms.add(before + token)
            before = token
            continue
        if before and not paired:
            terms.add(before)
        before, paired = "", False
        if token and not is_number(token):
            terms.add(token)
    return terms


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, exactly.

    Bit-parallel (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): a row of the table is one integer with a
    bit for each token of `a`, zero where the length grows, and each token of `b` updates it with four integer
    operations. Two texts of `MAX_TOKENS` tokens take about half a second.
    """
    shared = set(a) & set(b)
    positions: dict[str, int] = {}
    kept = [token for token in a if token in shared]
    for place, token in enumerate(kept):
        positions[token] = positions.get(token, 0) | (1 << place)
    mask = (1 << len(kept)) - 1
    row = mask
    for token in b:
        if token in shared:
            matches = row & positions[token]
            row = ((row + matches) | (row - matches)) & mask
    return len(kept) - row.bit_count()
