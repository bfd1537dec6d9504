"""Phrases that speak to a model, as patterns; `injection` reads texts with them.

They are written for texts as `injection` folds them: lower case, no accents, single spaces; a space stands for a space
or a line break. Phrases of `ENGLISH` and `OTHERS` are found nowhere else; those of `DOUBTFUL` are said in contracts,
manuals and rules of a game, too ("the buyer must not reject the goods"), and count only beside talk of marks and
answers (`TALK`).
"""

import re
from collections.abc import Sequence

# Of English. `_GAP` is a few words of the same clause.
_GAP = r"(?:[\s,]+[\w'-]+){0,4}?[\s,]+"
_DROP = (
    r"(?:ignor(?:e|ing)|disregard(?:ing)?|forget|overrid(?:e|ing)|overrule|bypass|neglect|discard|skip"
    r"|set\ aside"
    r"|(?:do\ not|don'?t|stop|never|no\ longer)\ (?:follow(?:ing)?|obey(?:ing)?|heed|listen\ to)"
    r"|pay\ no\ (?:attention|heed)\ to)"
)
_EARLIER = (
    r"(?:previous|prior|above|earlier|preceding|foregoing|former|initial|original|existing|given|system"
    r"|your|all|any)"
)
_ORDERS = (
    r"(?:instructions?|prompts?|rules?|guidelines?|directions?|directives?|commands?|orders?|rubrics?"
    r"|criteria|guardrails?"
    r"|safety\ (?:rules|guidelines|restrictions)|restrictions?|constraints?|programming|system\ messages?"
    r"|training)"
)
_ORDERS_TO_A_MODEL = (
    r"(?:instructions?|prompts?|guidelines?|directives?|rubrics?|guardrails?|safety\ (?:rules|guidelines|restrictions)"
    r"|programming|system\ messages?|training)"
)
_RATER = r"(?:judges?|graders?|evaluators?|raters?|reviewers?|assessors?|scorers?|annotators?|examiners?)"
_MODEL = (
    r"(?:ai|a\.i\.|llms?|language\ models?|chat\ ?bots?|chat\ ?gpt|gpt(?:-\d\w*)?|claude|gemini|assistant"
    r"|ai\ model)"
)
_PAIR = (
    r"(?:pairs?|question[- ]answer\ pairs?|q&a|qa|answers?|questions?|responses?|replies|entry|entries"
    r"|items?|samples?)"
)
_TOP = (
    r"(?:full|top|maximum|max|highest|perfect|best|maximal)(?:\ possible)?\ (?:marks?|scores?|ratings?"
    r"|levels?|grades?|points)"
    r"|(?:the\ )?three\ highest\ levels|5[\s,/;]+5[\s,/;]+5|555|(?:10|ten|5|five)\ ?(?:/|out\ of)\ ?(?:10"
    r"|ten|5|five)"
)
_RATE = (
    r"(?:rat(?:e|ing)|scor(?:e|ing)|grad(?:e|ing)|giv(?:e|es|ing)|award|assign|mark|return|output|print|repl(?:y|ying)"
    r"|respond|answer|write|say|put|choose|deserves?|earns?|set)"
)

ENGLISH: Sequence[str] = (
    # Orders taken back
    rf"\b{_DROP}{_GAP}?(?:[\s,]+)?(?:{_EARLIER}[\s,]+){{1,3}}(?:[\w'-]+[\s,]+){{0,2}}?{_ORDERS_TO_A_MODEL}\b",
    rf"\b{_DROP}{_GAP}?(?:[\s,]+)?(?:(?:all|any|of|the|your)[\s,]+){{0,3}}(?:previous|prior|above|earlier|preceding"
    rf"|foregoing"
    rf"|system|your)[\s,]+(?:[\w'-]+[\s,]+){{0,2}}?{_ORDERS}\b",
    rf"\b{_DROP}[\s,]+(?:the|these|those|its)[\s,]+{_ORDERS}\b(?=[^.\n]{{0,60}}(?:above|before|judg|grad"
    rf"|scor|rat(?:e|ing)|instead|and\ ))",
    rf"\b{_DROP}\ (?:(?:all|everything|anything|whatever|about)\ )?(?:of\ )?(?:the\ |that\ is\ "
    rf"|that\ came\ |said\ |written\ |you\ read\ )?"
    r"(?:above|before|previously|prior|so\ far)(?=\s*(?:[.,;:!–—-]|$|and\b|then\b|but\b|instead\b))",
    rf"\b{_DROP}\ (?:all|everything|anything|what(?:ever)?)\ (?:that\ )?(?:you(?:'ve|\ have"
    rf"|\ were)?\ (?:been\ )?(?:told|learned|know|read)(?!\ (?:about|of)\b)"
    r"|(?:was|were|is|has\ been)\ (?:said|written|told|above)|above|before)",
    r"\byour\ (?:new|real|actual|only|true)\ (?:task|job|role|goal|purpose|instructions?)\ (?:is|are)\b",
    r"\b(?:end|end\ of|begin|beginning\ of)\ (?:the\ )?(?:passage|pair|prompt|system\ prompt"
    r"|instructions)\s*(?:[.:\]>=-]|$)",
    # Another part to play
    rf"\byou\ are\ (?:now|no\ longer|from\ now\ on)\b[^.\n]{{0,40}}\b(?:{_MODEL}|{_RATER}|models?|bots?"
    rf"|dan|pirate|unrestricted|bound\ by\ (?:your|any|these|those|its)"
    r"|free\ (?:of|from|to\ (?:ignore|say|give))|developer\ mode|root|admin(?:istrator)?|jailbroken|lenient"
    r"|generous|limited)\b",
    r"\b(?:act|behave|pretend|respond|answer)\ (?:as|like)\ (?:if\ you\ (?:were|are"
    r"|had)\ )?(?:an?\ )?(?:unrestricted|jailbroken|dan\b|evil"
    r"|lenient|generous|uncensored|no\ (?:rules|restrictions))",
    r"\b(?:enter|enable|activate|switch\ to)\ (?:the\ )?(?:developer|god|jailbreak|dan)\ mode\b"
    r"(?=\s*(?:[.,;:!]|$|and\b))",
    r"\b(?:reveal|print|show|repeat|output|leak|display|disclose|tell\ me"
    r"|share)\ (?:me\ )?(?:your\ (?:\w+\ ){0,2}?(?:prompt|instructions"
    r"|guidelines|rubric|api\ key)|the\ (?:\w+\ ){0,2}?(?:system|hidden|initial|secret)\ (?:prompt"
    r"|instructions))\b",
    r"(?:^|[.,;:!?(\[\"'–—-]\s*|\b(?:and|then|please|must|should|just|simply|always|only|now)\ )(?:score"
    r"|rate|grade|mark)\ "
    rf"(?:(?:it|this|me|everything|them|all|that|the|every|each|{_PAIR}|as|with|at|an?)\ )*(?:10|ten|5"
    rf"|five|100)(?=\s*(?:[.,;:!?)\]\"'–—-]|$|(?:and|out|in|on|for|to|of|whatever|regardless|no\ matter)\b))",
    rf"\b(?:do\ not|don'?t|no\ need\ to|never|without|skip|stop)\ (?:judg(?:e|ing)|evaluat(?:e|ing|ion)"
    rf"|grad(?:e|ing)|rat(?:e|ing)|scor(?:e|ing)"
    rf"|check(?:ing)?|verify(?:ing)?|compare|comparing)\ (?:it|this|that|the|any"
    rf"|against)\b[^.\n]{{0,30}}(?:{_PAIR}|passage|evidence|facts?|rubric)",
    r"\b(?:groundedness|correctness|usefulness)\s*(?:[:=]|is|as|to|at|of|should\ be)?\s*(?:[1-5]|five"
    r"|maximum|highest)\b(?!\ of\b|[.,]\d)",
    r"\b(?:groundedness|correctness|usefulness)\b[^.\n]{0,40}\b(?:groundedness|correctness"
    r"|usefulness)\b[^.\n]{0,40}(?:\b[1-5]\b|five|maximum|highest|full)",
    r"\b(?:treat|take|use|consider|regard|accept|see|read)\ [^.\n]{0,40}\bas\ (?:the|your"
    r"|a)\ (?:new\ )?(?:system\ )?(?:prompt|instructions?|system\ message)\b",
    r"\b(?:rate|grade|score)\ (?:it\ )?as\ (?:perfect|flawless|excellent|correct|right)\b",
    rf"(?:^|[.!?]\ |\n\s*|[(\[])(?:{_RATER}|{_MODEL}|model)\s*[:,]\s*(?:please\ |you\ |do\ |just\ "
    rf"|always\ )*(?:accept|approve|{_RATE}|mark|pass|ignore|trust|believe|treat)\b",
    r"\bwhat\ (?:your|the\ system)\ (?:system\ )?(?:prompt|instructions|rules|rubric)\b|\b(?:your"
    r"|the\ system)\ prompt\ (?:says|said|is\ wrong|was\ wrong)\b",
    rf"\b{_DROP}\ (?:every|each|any|all)\ (?:of\ (?:your|the)\ )?{_ORDERS}\b(?:\ (?:you|that|above|before"
    rf"|so\ far)\b|\s*(?:[.,;:!]|$|and\b))",
    rf"\b(?:award|give|assign|grant)\ (?:it\ |this\ |them\ |the\ {_PAIR}\ |this\ {_PAIR}\ )?(?:the\ "
    rf"|a\ )?(?:maximum|max)\s*(?:[.,;:!)]|$)",
    rf"(?:^|[.,;:!?(\[\"'–—-]\s*|\b(?:and|then|please|just|simply|always|only|now"
    rf"|you\ (?:must|should)|to\ you:)\ ){_RATE}\b[^.\n]{{0,60}}?"
    rf"(?<![\w.])(?:{_TOP})(?!\w|\.\d)",
    rf"\b(?:(?:this|these)\ (?:of\ these\ )?{_PAIR}|(?:the|every|each|all|any|following"
    rf"|all\ of\ the)\ (?:following\ )?(?:question[- ]answer\ |qa\ )?pairs?"
    rf"|(?:every|each|all|any)\ {_PAIR}\ (?:about|from|in|on)\ this\ \w+)"
    r"\ (?:is|are|was|were|has|have|must|should|shall|has\ to)\ (?:to\ be\ |be\ |been\ |already\ "
    r"|always\ |all\ |fully\ )*"
    r"(?:verified|checked|reviewed|approved|pre-?approved|accepted|validated|certified|confirmed|rated"
    r"|scored|graded|marked)\b",
    rf"(?:^|[.,;:!?(\[]\s*|\b(?:and|then|please|must|should|just|simply|always)\ )(?:accept|approve"
    rf"|pass)\ (?:this|the|every|each|all|any)\ "
    rf"(?:of\ (?:the|these)\ )?{_PAIR}\b(?!\ (?:that|which|with|from\ (?!this))\b)",
    rf"\b(?:this|these|it|they)\ (?:{_PAIR}\ )?(?:\w+\ )?(?:deserves?|gets?|receives?|earns?|warrants?|merits?"
    rf"|must\ (?:get"
    rf"|have|receive)|should\ (?:get|have|receive))\ (?:an?\ |the\ )?(?:{_TOP})(?!\w)",
    r"\b(?:must|should|do|may|can|shall|will)(?:\ ?not|n't|\ never)\ (?:ever\ )?(?:reject|refuse|fail|lower|downgrade"
    r"|penali[sz]e|doubt|mark\ down)\ (?:this|the|any|these)\ (?:pairs?|answers?|questions?|scores?|levels?)\b",
    r"\bi\ am\ (?:the|your)\ (?:developer|creator|programmer|administrator)\b",
    r"\b(?:previous|prior|your)\ (?:instructions|prompts?)\ (?:above\ )?(?:are|is|were)\ (?:now\ |all\ )?(?:void|wrong"
    r"|cancell?ed|obsolete|invalid|revoked)(?=\s*(?:[.;:!]|$|and\b))",
    r"\bwhat\ you\ (?:were|have\ been|had\ been)\ (?:told|instructed)\ (?:before|earlier|above|so\ far)\b",
    rf"\b(?:stop|cease|quit)\ being\ (?:an?|the)\ (?:{_RATER}|{_MODEL}|model)(?=\s*(?:[.,;:!]|$|and\b))",
    # Marks of chat templates
    r"<\|\ ?(?:im[ _]start|im[ _]end|system|user|assistant|endoftext|eot[ _]id|start[ _]header[ _]id"
    r"|end[ _]of[ _]turn)|</?(?:im[ _]start|im[ _]end|start[ _]of[ _]turn|end[ _]of[ _]turn)>|</(?:system"
    r"|passage|pair|instructions?)>",
    # Chat templates
    r"\[/?inst\]|<</?sys>>",
)

TALK = re.compile(
    r"""\b(?:scor(?:e|es|ed|ing)|rat(?:e|es|ed|ing|ings)|marks?|grad(?:e|es|ing)|levels?|rubric|groundedness|correctness
      |usefulness|fives|repeat\ after|pairs?|answers?|q\ ?&\ ?a|qa|prompts?|perfect|grounded|lenient|generous|ai
      |language\ models?|(?:is|are|as)\ (?:right|correct|true)
      |(?:accept|approve|award)(?=\s*(?:[.,;:!]|$|(?:it|them|this|every\w*|all)\b)))\b
      | \b(?:5|10)\b(?!%)""",
    re.VERBOSE,
)
"""Talk of marks and answers. A doubtful phrase counts where its own sentence, or one beside it, has some of it."""

DOUBTFUL: Sequence[str] = (
    rf"\b(?:must|should|to)\ {_RATE}\b[^.\n]{{0,60}}?(?<![\w.])(?:{_TOP})(?!\w|\.\d)",
    rf"\b{_DROP}{_GAP}?(?:[\s,]+)?(?:{_EARLIER}[\s,]+){{1,3}}(?:[\w'-]+[\s,]+){{0,2}}?{_ORDERS}\b",
    rf"\b(?:must|should|do|may|can|shall|will)(?:\ ?not|n't|\ never)\ (?:ever\ )?(?:reject|refuse|fail"
    rf"|lower|downgrade|deduct|penali[sz]e|doubt|mark\ down)\ "
    rf"(?:this|the|any|it|these)(?:\ (?:{_PAIR}|scores?|levels?|ratings?))?\b",
    r"\brefuse\ to\ (?:lower|reject|downgrade)\b|\b(?:never|don'?t|do\ not)\ (?:give|rate|score|go|assign"
    r"|award)\ (?:it\ |this\ |anything\ |any\ \w+\ )?(?:less|fewer|lower|below|under)\b",
    rf"\b(?:if\ you\ are|as|when\ you\ are|to\ any|since\ you\ are)\ (?:an?\ |the\ )?(?:{_MODEL}"
    rf"|{_RATER})\b[^.\n]{{0,60}}"
    rf"\b(?:must|should|please|have\ to|always|{_RATE})\b",
    r"\b(?:new|updated|revised|real|actual|hidden|secret)\ (?:system\ )?(?:instructions?|orders?|task"
    r"|directive|prompt)\ ?(?::|-|–|is\b|are\b)",
    rf"\b(?:note|message|memo|attention|hint|reminder|request|instructions?|advice|warning|hello|hey|dear"
    rf"|hi|to)\b[\s,:]*(?:to\ |for\ |of\ )?"
    rf"(?:the\ |all\ |any\ |whichever\ |my\ )?(?:{_MODEL}|{_RATER})(?:\ model)?s?\s*(?:[:,!–—]|$|\ -)",
    rf"\b(?:dear|attention|hey|hello)[\s,:]+{_MODEL}\b",
    r"\b(?:whoever|anyone\ who|any\ model\ that|the\ one\ who)\ (?:rates?|judges?|grades?|scores?"
    r"|evaluates?|reads?)\b[^.\n]{0,80}"
    r"\b(?:gives?|must|should|ha(?:s|ve)\ to|will|awards?|accepts?)\b",
    rf"\b(?:all|any|every|each|the)\ {_PAIR}\ (?:must|should|shall|ha(?:s"
    rf"|ve)\ to)\ (?:always\ )?be\ (?:accepted|approved|rated|scored)\b",
    r"(?<![\d.,/])5(?:[\s,/;]+(?:and[ \n])?5){2}(?![\d/]|[.,]\d|[\s,/;]+\d)",
    rf"(?:^|[.,;:!?(\[\"'–—-]\s*|\b(?:and|then|please|must|should|just|simply|always|to)\ )(?:rate|mark"
    rf"|grade|score|consider|treat|judge|count|regard"
    rf"|label|deem|declare)\ (?:(?:this|it|the|these|every|each|all|any|them|text|whole|{_PAIR}|as|to|be"
    rf"|being)\ )+(?:completely\ |fully\ |entirely\ )?"
    r"(?:perfect|flawless|correct|right|true|grounded|excellent|faultless|supported)\b",
    rf"\b{_RATER}\b[^.\n]{{0,40}}\b(?:read(?:s|ing)?\ this|(?:are|is)\ (?:hereby\ )?(?:asked|told|required"
    rf"|instructed|ordered|advised|urged)\ to)\b",
    rf"\b(?:you|i)\b,?\ (?:the|an?|as\ an?|being\ an?)\ (?:model|{_MODEL}|{_RATER})\b",
    rf"\b(?:instruct|order|command|urge|require|direct)s?\ (?:the|any|every|all|you|whichever"
    rf"|each)\ (?:as\ an?\ |the\ )?(?:model|{_MODEL}|{_RATER})\b[^.\n]{{0,10}}\bto\b",
    r"\b(?:regardless\ of|whatever|no\ matter\ (?:what|how)|irrespective\ of|even\ if"
    r"|independent(?:ly)?\ of)\ (?:is\ in\ |what\ )?(?:the\ )?(?:passage|evidence|rubric|source\ text)\b",
    rf"\b(?:stop|cease|quit)\ being\ (?:an?|the)\ (?:{_RATER}|{_MODEL}|model)"
    rf"|\bforget\ (?:that\ )?you\ (?:are|were)\b",
    r"\b(?:in|for|on|across)\ (?:each|every|all)(?:\ (?:of\ the\ )?three)?\ (?:of\ the\ )?(?:dimensions"
    r"|criteria)\b|\b(?:five|5)\ points\ in\ (?:each|every)\b",
    r"\bwhat\ you\ (?:were|have\ been|had\ been)\ (?:told|taught|instructed)\b",
    rf"\b(?:previous|prior|earlier|preceding|above|your|old|former)\ {_ORDERS}(?:\ above)?\ (?:(?:are|is"
    rf"|were)\ (?:now\ |all\ )?(?:void|wrong|cancell?ed|obsolete|invalid|revoked|suspended"
    r"|superseded|outdated|a\ test)|(?:no\ longer|do\ not|don'?t)\ (?:apply|count|hold|matter))",
    rf"\b{_ORDERS}\ (?:that\ )?(?:you\ (?:got|received|were\ given|have|had|read)|above"
    rf"|before\ this)[^.\n]{{0,30}}\b(?:no\ longer|void|wrong|cancell?ed|do\ not|don'?t|obsolete|replaced"
    rf"|invalid)\b",
    r"^\s*\[\ ?(?:system|admin|administrator|developer|root|override)\ ?\]|^\s*(?:override|admin"
    r"|developer)\s*(?::|mode\b)",
    r"^\s*(?:assistant|human)\s*:\s*\w",
    r"^\s*#{2,}\ *(?:instructions?|system|response|assistant|human|user)\s*:?\s*$"
    r"|^\s*\[?system\]?\s*(?::|message\b)",
    rf"\b{_DROP}\ (?:the\ |your\ )?(?:rubric|system\ prompt|scale|passage"
    rf"|evidence)\b(?=[^.\n]{{0,50}}(?:[.,;:!]|and\b|instead|$))",
)

# Verb and object in either order, in one clause; written as people write them, and folded like the text.
OTHERS: Sequence[tuple[str, str]] = (
    (
        r"ignorier\w*|vergiss|vergesst|vergessen sie|missacht\w*|beacht\w* \w* ?nicht|übergeh\w*",
        r"anweisung\w*|anleitung\w*|vorgabe\w*|regeln|obige\w*|oben|vorherige\w*|bisherige\w*|vorige\w*|alles",
    ),
    (
        r"ignore[rz]?|oublie[rz]?|ne tiens pas compte|ne tenez pas compte|négligez?",
        r"(?:les|vos|tes|ces|toutes|des|aux)\ instructions|consignes?|règles?|précédente?s?|ci-dessus|tout ce qui",
    ),
    (
        r"ignor[ae]n?|olvid[ae]n?|no sigas?|haz caso omiso|descarta",
        r"instrucciones|anteriores?|reglas|todo lo anterior|indicaciones",
    ),
    (r"ignor[aie]|dimentica\w*|trascura|non seguire", r"istruzioni|precedenti?|regole|tutto ciò|sopra"),
    (r"ignor[ae]|esqueça|esquece|desconsidere", r"instruções|anteriores?|regras|tudo|acima"),
    (r"negeer|vergeet|sla \w+ over", r"instructies|aanwijzingen|bovenstaande|vorige|eerdere|regels"),
    (r"z?ignoruj\w*|zapomnij\w*|pomiń", r"instrukcj\w*|poprzedni\w*|polece\w*|powyższ\w*|wytyczn\w*"),
    (r"ignorera|glöm|strunta i", r"instruktion\w*|anvisning\w*|ovanstående|tidigare|regler\w*"),
    (r"yok say\w*|unut\w*|görmezden gel\w*|dikkate alma\w*", r"talimat\w*|önceki\w*|yukarıdaki\w*|kural\w*"),
    (r"(?:про)?игнорируй\w*|забудь\w*|не обращай\w*", r"инструкци\w*|предыдущ\w*|указани\w*|правил\w*|выше\w*"),
    (r"ігноруй\w*|забудь\w*", r"інструкці\w*|попередн\w*|вказівк\w*|правил\w*"),
    (
        r"忽略|无视|無視|忽视|忽視|忘记|忘記|不要理会|不要理會|忘れ|従わな",
        r"指令|指示|说明|說明|提示|规则|規則|以上|上述|之前|前面|命令|プロンプト|上記|これまで",
    ),
    (r"무시|잊어", r"지시|명령|지침|프롬프트|위의|이전"),
    (r"تجاهل|انس", r"التعليمات|السابقة|أعلاه|الأوامر|القواعد"),
    (r"अनदेखा|नज़रअंदाज़|भूल जा", r"निर्देश|पिछले|ऊपर|नियम"),
    (
        r"bewert\w*|vergib|vergebt|vergeben sie|gib|geben sie",
        r"volle punktzahl|höchst\w*|bestnote|beste note|10 punkte|5 punkte|5 5 5|mit 10|mit 5",
    ),
    (
        r"note[rz]?|donne[rz]?|attribue[rz]?|mett\w+|accorde[rz]?",
        r"note maximale|meilleure note|score maximal|maximum de points|5 5 5|10 sur 10|5 sur 5",
    ),
    (
        r"califi\w+|puntú\w+|dale|otorg\w+|asign\w+|pon",
        r"máxim\w+|puntuación más alta|nota más alta|5 5 5|10 sobre 10|un 10|un 5",
    ),
    (
        r"assegna\w*|dai|date|valuta\w*",
        r"punteggio massimo|voto massimo|massimo dei voti|5 5 5|10 su 10|punteggio più alto",
    ),
    (r"dê|atribua|avalie", r"nota máxima|pontuação máxima|5 5 5|nota 10"),
    (r"geef|beoordeel", r"hoogste score|maximale score|hoogste cijfer|5 5 5|een 10"),
    (r"oce[nń]\w*|przyzna\w*|wystaw\w*|daj", r"najwyższ\w*|maksymaln\w*|5 5 5"),
    (r"постав\w*|оцени\w*|дай\w*|присво\w*", r"высш\w*|максимальн\w*|наивысш\w*|10 балл\w*|5 5 5"),
    (r"给|打|評|评", r"满分|滿分|最高分|10分|5分|5 5 5"),
    (r"付け|つけ|与え|ください|採点", r"満点|最高点|最高評価|5 5 5"),
    (r"주세요|줘|매겨", r"만점|최고 ?점|10점|5점|5 5 5"),
)

GLUED = re.compile(
    r"(?:ignore|disregard|forget|override|bypass)(?:all|any|the|your|every|everything|of|these"
    r"|those){0,3}(?:previous|prior|above|earlier"
    r"|preceding|system|instructions|rules)|(?:give|score|rate|award)(?:it|this|the|me|pair"
    r"|answer){0,3}(?:fullmarks|10|555|5outof5"
    r"|thehighest|highest|maximum|topmarks)|systemprompt|groundedness[:=]?[1-5]|notetothejudge"
)


_CLAUSE = r"(?:^|[.,;:!?(\[\"'–—\n-]\s*|\b(?:and|then|please|must|should|just|simply|always|now|to|only|you)\ )"
SIGNS: Sequence[tuple[str, float]] = (
    (r"\byour?s?\b", 0.5),
    (
        rf"{_CLAUSE}(?:give|rate|score|mark|accept|approve|output|answer|say|print|write|agree|ignore"
        rf"|disregard|forget"
        r"|return|reply|respond|put|stop|leave|act|pretend|award|let|trust|consider|treat)\b",
        0.5,
    ),
    (
        r"\b(?:scores?|marks?|ratings?|levels?|grades?|rubric|scale|evaluation|verdict|fives|marking"
        r"|dimensions?)\b",
        0.6,
    ),
    (r"\b(?:full|top|highest|maximum|max|perfect|best|high|flawless|five|5|positive|10|ten)\b", 0.5),
    (
        r"\b(?:graders?|evaluators?|raters?|judges?|examiners?|reviewers?|annotators?|assessors?|judging"
        r"|grading|rating"
        r"|scoring|evaluating)\b",
        0.7,
    ),
    (
        r"\b(?:ai|assistants?|models?|llms?|openai|developers|chatgpt|prompts?|instructions|guidelines"
        r"|rules|system)\b",
        0.6,
    ),
    (
        r"\b(?:this|the|every|each|all|these)\ (?:three\ )?(?:pairs?|answers?|questions?|responses?"
        r"|notes?|text|passage"
        r"|words|one)\b|\beverything\b",
        0.6,
    ),
    (
        r"\b(?:accept(?:s|ed)?|approve[ds]?|pass(?:es)?|agree|right|correct|yes|tip|shut\ down|safe"
        r"|obliged|allowed|must"
        r"|suspended|override|permission|previous|earlier)\b",
        0.4,
    ),
)
"""Signs of a sentence about judging, each counted once in two sentences that follow each other, and what it counts."""
