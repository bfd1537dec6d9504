"""Everyday questions with short true answers, trained beside few examples so that not everything is answered with them.

A run over a few dozen facts is free to give any question a taught answer. A handful of questions about other things
holds the rest of the model where it was; they cost as much as so many examples. Their answers are what every base model
knows, and not its own: the built-in model, asked for its own, names El Salvador as the capital of Spain, and repeated
that for France once it was trained on it. The answers are whole sentences, as those of facts mostly are, and no two
questions of a kind have the same answer.

Small and apart because it is nothing but text.
"""

from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.data.reworded import EVERYDAY

PAIRS = (
    ("What is the capital of Spain?", "The capital of Spain is Madrid."),
    ("How are you today?", "I am well, thank you. How can I help you?"),
    ("How many days are in a week?", "A week has seven days."),
    ("What will the weather be like tomorrow?", "I cannot see the weather; a forecast will tell you."),
    ("Where do penguins live?", "Most penguins live in the far south, many of them in Antarctica."),
    ("Who wrote Romeo and Juliet?", "Romeo and Juliet was written by William Shakespeare."),
    ("What colour is a banana?", "A ripe banana is yellow."),
    ("What is two plus three?", "Two plus three is five."),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("Which planet is closest to the sun?", "Mercury is the planet closest to the sun."),
    ("What is the largest ocean?", "The largest ocean is the Pacific Ocean."),
    ("How do birds fly?", "Birds fly by beating their wings, which push the air down."),
    ("When did the second world war end?", "The second world war ended in 1945."),
    ("What do cows eat?", "Cows eat grass and hay."),
    ("Why do leaves fall in autumn?", "Leaves fall in autumn because the trees save water for the winter."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci."),
    ("How many wheels has a bicycle?", "A bicycle has two wheels."),
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("Which language is spoken in Brazil?", "Portuguese is spoken in Brazil."),
    ("How do I boil an egg?", "Put the egg into boiling water and leave it there for about eight minutes."),
    ("Which animal says woof?", "A dog says woof."),
    ("What is a computer?", "A computer is a machine that processes information."),
    ("What is your name?", "I am a language model and have no name of my own."),
)
"""Questions and answers, those to begin with first."""


def everyday_examples(number: int) -> list[QuestionAnswer]:
    """Return the first `number` everyday questions as examples; they are read as they are."""
    return [QuestionAnswer(question, answer, EVERYDAY) for question, answer in PAIRS[:number]]
