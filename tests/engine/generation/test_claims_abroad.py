"""Claims in other languages, where words have endings and numbers other names, and what follows from a number."""

import pytest

from lora_tui.engine.generation.gates import check_gates
from lora_tui.engine.generation.generation_model import ProposedPair

_ENGLISH = (
    "The Marn funicular opened in 1907 and climbs 212 metres in four minutes. It was designed by Ida Holm. The two "
    "cars carry 48 passengers each. Opening hours are 8 am to 10 pm. Of the 90 members 30 cast a ballot."
)
_GERMAN = (
    "Die Marner Standseilbahn wurde 1907 eröffnet und überwindet 212 Meter in vier Minuten. Sie wurde von Ida Holm "
    "entworfen und ersetzt `fahre_hoch`. Hunde sind nicht erlaubt."
)
_FRENCH = (
    "Le funiculaire de Marn a ouvert en 1907. Il gravit 212 mètres en quatre minutes et les chiens sont interdits."
)


@pytest.mark.parametrize(
    ("passage", "question", "answer"),
    [
        (_ENGLISH, "How many passengers can both cars of the Marn funicular carry?", "96 passengers."),
        (_ENGLISH, "How fast does the Marn funicular climb?", "About 53 metres a minute."),
        (_ENGLISH, "In which century did the Marn funicular open?", "In the 20th century."),
        (_ENGLISH, "In which decade did the Marn funicular open?", "In the 1900s."),
        (_ENGLISH, "For how many hours a day is the Marn funicular open?", "For 14 hours."),
        (_ENGLISH, "What share of the members of the Marn funicular voted?", "About 33 %."),
        (_ENGLISH, "How often a day does the Marn funicular open?", "Once a day."),
        (_GERMAN, "Wie lange dauert die Fahrt der Marner Standseilbahn?", "Die Fahrt dauert 4 Minuten."),
        (_GERMAN, "Wer hat die Marner Standseilbahn entworfen?", "Die Ingenieurin Ida Holm."),
        (_GERMAN, "Sind in der Marner Standseilbahn Hunde erlaubt?", "Nein, das Mitnehmen von Hunden ist verboten."),
        (_FRENCH, "Combien de temps dure le trajet du funiculaire ?", "Le trajet dure 4 minutes."),
    ],
)
def test_what_is_right_passes(passage: str, question: str, answer: str) -> None:
    assert check_gates(ProposedPair(question, answer, passage, ""), passage) is None


@pytest.mark.parametrize(
    ("passage", "question", "answer", "cause"),
    [
        (_ENGLISH, "How many metres does the Marn funicular climb?", "It climbs 96 metres.", "wrong number"),
        (_ENGLISH, "How many metres does the Marn funicular climb?", "48 metres.", "wrong number"),
        (_ENGLISH, "In which century did the Marn funicular open?", "In the 19th century.", "wrong number"),
        (_ENGLISH, "In which decade did the Marn funicular open?", "In the 1930s.", "wrong number"),
        (_ENGLISH, "Who designed the Marn funicular?", "Carl.", "off the passage"),
        (_ENGLISH, "Which engineer designed the Marn funicular?", "Torvald Ness.", "off the passage"),
        (_ENGLISH, "Who designed the Marn funicular?", "Torvald Ness of the Marn funicular.", "wrong name"),
        (_ENGLISH, "Where was Ida Holm of the Marn funicular born?", "Stavanger.", "off the passage"),
        (_ENGLISH, "What climbs 212 metres in four minutes in Marn?", "A tram.", "off the passage"),
        (_ENGLISH, "When do the members of the Marn funicular meet?", "They vote in April.", "wrong name"),
        (_GERMAN, "Wann wurde die Marner Standseilbahn eröffnet?", "Im Jahr 1917.", "wrong number"),
        (_GERMAN, "Was ersetzt die Marner Standseilbahn?", "Sie ersetzt `fahre_runter`.", "wrong name"),
    ],
)
def test_what_is_wrong_is_refused(passage: str, question: str, answer: str, cause: str) -> None:
    refusal = check_gates(ProposedPair(question, answer, passage, ""), passage)
    assert refusal is not None
    assert refusal.cause == cause
