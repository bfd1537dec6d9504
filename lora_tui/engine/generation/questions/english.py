"""English words by their class, and the forms of verbs: what sentence patterns need instead of a parser.

The closed classes (auxiliaries, prepositions, pronouns, ...) are complete for practical purposes. Open classes cannot
be: verbs are the irregular ones and some hundred regular ones that texts are full of; a word that is in no list counts
as a noun. Whoever stands on this has to treat "unknown" as "do not ask".
"""

import re
from dataclasses import dataclass
from typing import Literal

Tense = Literal["past", "third", "base", "ing", "participle"]
"""Form of a verb: opened, opens, open, opening; the participle only where it differs from the past (taken)."""

BE = frozenset("is are was were am be been being".split())
FINITE_BE = frozenset("is are was were".split())
FINITE_HAVE = frozenset("has have had".split())
DO = frozenset("do does did".split())
MODALS = frozenset("can could will would may might must should shall".split())
FINITE_AUXILIARIES = FINITE_BE | FINITE_HAVE | DO | MODALS

DETERMINERS = frozenset(
    "a an the this that these those each every some any no all both either neither another my your his her its our "
    "their much many several few enough such what which whose".split()
)
PREPOSITIONS = frozenset(
    "of in on at to for from by with without within into onto over under above below between among through during "
    "until till since before after around about against along across behind beside besides beyond near inside outside "
    "off out up down toward towards upon via per as like than despite except throughout beneath underneath opposite "
    "past round".split()
)
SUBORDINATORS = frozenset(
    "because since although though unless until while whereas if when whenever where wherever once as before after so "
    "that whether".split()
)
CONJUNCTIONS = frozenset("and or but nor yet".split())
PERSONAL = frozenset("i you he she it we they me him us them one".split())
PRONOUNS = PERSONAL | frozenset(
    "this that these those who whom which what whose mine yours hers ours theirs itself himself herself themselves "
    "myself yourself ourselves something someone somebody anything anyone anybody nothing nobody everything everyone "
    "everybody others there here none both each few many most some several all ones".split()
)
NEGATIONS = frozenset("not never no nobody nothing none neither nor cannot without hardly".split())
ADVERBS = frozenset(
    "also always never often sometimes usually still already only just even again once twice almost nearly soon now "
    "then later first last too very quite rather here there today together alone ever instead however therefore thus "
    "otherwise moreover furthermore meanwhile afterwards perhaps maybe not well much more most less least far further "
    "straight indeed hence twice seldom rarely".split()
)
NUMBER_WORDS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion dozen "
    "half".split()
)
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
WEEKDAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
SEASONS = "spring|summer|autumn|winter|fall"

# base past participle; where two are given, the participle is the past.
_IRREGULAR = """
be was been|bear bore borne|beat beat beaten|become became become|begin began begun|bend bent|bind bound
|bite bit bitten|bleed bled|blow blew blown|break broke broken|breed bred|bring brought|build built|burst burst
|buy bought|catch caught|choose chose chosen|cling clung|come came come|cost cost|creep crept|cut cut|deal dealt
|dig dug|do did done|draw drew drawn|drink drank drunk|drive drove driven|eat ate eaten|fall fell fallen|feed fed
|feel felt|fight fought|find found|fit fit|flee fled|fly flew flown|forbid forbade forbidden
|forget forgot forgotten|freeze froze frozen|get got|give gave given|go went gone|grow grew grown|hang hung
|have had|hear heard|hide hid hidden|hit hit|hold held|hurt hurt|keep kept|know knew known|lay laid|lead led
|leave left|lend lent|let let|lie lay lain|light lit|lose lost|make made|mean meant|meet met
|overcome overcame overcome|pay paid|prove proved proven|put put|read read|ride rode ridden|ring rang rung
|rise rose risen|run ran run|say said|see saw seen|seek sought|sell sold|send sent|set set|sew sewed sewn
|shake shook shaken|shine shone|shoot shot|show showed shown|shrink shrank shrunk|shut shut|sing sang sung
|sink sank sunk|sit sat|sleep slept|slide slid|sow sowed sown|speak spoke spoken|spend spent|spin spun|split split
|spread spread|spring sprang sprung|stand stood|steal stole stolen|stick stuck|sting stung|strike struck
|swear swore sworn|sweep swept|swell swelled swollen|swim swam swum|swing swung|take took taken|teach taught
|tear tore torn|tell told|think thought|throw threw thrown|undergo underwent undergone|understand understood
|undertake undertook undertaken|wake woke woken|wear wore worn|weave wove woven|weigh weighed|win won|wind wound
|withdraw withdrew withdrawn|write wrote written|rebuild rebuilt|overtake overtook overtaken
|mistake mistook mistaken|oversee oversaw overseen|withstand withstood|uphold upheld|foresee foresaw foreseen
|redraw redrew redrawn|rewrite rewrote rewritten
|arise arose arisen|awake awoke awoken|broadcast broadcast|cast cast|fling flung|forgive forgave forgiven|grind ground
|kneel knelt|mislead misled|override overrode overridden|overthrow overthrew overthrown|repay repaid|sling slung
|spit spat|stride strode stridden|string strung|strive strove striven|thrust thrust|tread trod trodden
|undo undid undone|unwind unwound|upset upset|weep wept|withhold withheld|wring wrung
"""
_REGULAR = frozenset(
    """
    nest
    obey disobey
    rate ache age amaze amuse anger annoy apologise apologize applaud arouse assert astonish attain await betray
    blacken blame bless bother bribe calibrate chase choke clap collide commend confess confirm confuse
    congratulate consult creak crumble dazzle deny deprive derail deserve despise detach detain detect detest
    disagree disconnect dismantle dismay disobey disturb dwell educate embrace embroider enchant endanger erase
    erode erupt exaggerate excavate excite exclaim excuse exhaust exhibit explode fasten flatter fumble furnish
    greet heave hesitate hinder impress imprison inflate inquire insist install interrupt interview invade
    irritate juggle loosen magnify melt mend mourn mumble notify occupy offend omit ooze overcharge overhear
    overload paralyse peep persuade pity ponder portray postpone pray preach presume pretend prevail proceed
    proclaim prosper quit recite reckon reclaim reconcile refine rehearse relax relieve render repay repel
    resemble resent revise revive revolve ripen rub scribble shelve soothe stammer stifle stoop straighten stuff
    stun subtract summon suppose surrender swap switch tame tangle tempt terrify tether trample tremble unearth
    unfold unpack unplug unveil unwrap uproot vanquish veer wade wean weld whitewash widen wobble wrestle
    wriggle yield zip
    drag rob sweat flee peck gnaw scratch bite glue lift hover swarm sprinkle moor row tow ferry graze plough mow
    rake sow thresh grind sift knit sew dye weave spin carve sculpt sketch engrave gild varnish nail saw hammer weld
    solder rivet bolt screw unscrew tilt lean kneel crouch bend stretch yawn sneeze cough breathe inhale exhale
    swallow chew digest starve fast nourish suckle shed moult hibernate migrate roost perch nestle burrow tunnel dam
    dredge drown sink float drift sail steer dock land taxi hover crash skid swerve collide derail strand rescue
    evacuate treat heal vaccinate operate amputate diagnose prescribe donate bequeath inherit lend borrow mortgage
    auction bid trade smuggle tax levy exempt fine sue acquit convict sentence imprison release pardon exile banish
    crown elect nominate appoint dismiss resign retire succeed precede outlive outnumber outgrow exceed surpass
    double triple halve quarter shower calm oil borrow overlook oversleep disagree matter crowd reward punish spell
    guess compare quarantine click type paste scan tune freeze feel last prune harvest requeen swarm nectar forage
    buzz strain spoil uncap cap extract store sow weed irrigate overflow drill anchor tighten steer slam brake climb
    descend plunge dip splash rinse chlorinate disinfect sanitize heat chill thaw melt boil simmer stir whisk knead
    bake roast fry grill toast smoke pickle preserve ferment brew distil label taste serve grease rename haul absorb
    accept access accompany achieve acquire act adapt add adjust admit adopt advance advise affect agree aim allow
    alter amount announce answer appear apply appoint approach approve arrange arrive ask assemble assign assist
    attach attack attend attract average avoid award balance ban bathe behave believe belong block bore breathe
    brush burn bury calculate call cancel care carry carve cast cause celebrate change charge check claim clean
    clear close collapse collect colour combine commission communicate compete complain complete compose compress
    conclude conduct confirm connect consider consist construct consume contain continue contribute control convert
    cook cool copy correct count cover crack crash create cross crush cultivate cure damage dance date decide
    declare decline decorate decrease define delay deliver demand demolish depart depend derive describe design
    destroy detect determine develop devote die differ digest direct disappear discharge discover discuss dissolve
    distribute dive divide donate double drain dress drip drop dry earn employ empty enable enclose encourage end
    endure engrave enjoy enlarge enter equip escape establish estimate evaporate examine exceed exchange exclude
    execute exist expand expect expire explain explode explore export expose express extend face fade fail fasten
    favour fear feature fetch fill filter finance finish fire fix flash float flood flow focus fold follow force
    form found frame free fund fulfil function gain gather generate govern guard guarantee guide halt handle happen
    hatch head help hire hoist honour hope host house identify ignore import improve include increase indicate
    inform inhabit inherit inject injure insert inspect install instruct insulate insure intend introduce invent
    invest invite involve isolate issue join judge jump kill lack land launch lean learn level lift limit line link
    list listen live load locate lock look lower lubricate maintain manage manufacture march mark marry match
    measure mention migrate mix modify monitor mount move multiply name need neglect notice number observe obtain
    occupy occur offer open operate order organise organize originate own pack paint park pass patrol peel perform
    permit pick pierce pilot place plan plant play please plough point polish pollinate possess pour power practise
    predict prefer prepare press prevent print process produce prohibit project promise promote propose protect
    provide publish pull pump purchase purify push qualify quote raise range rank reach react realise receive
    recommend record recover recycle reduce refer reflect refuse regard register regulate reject relate release rely
    remain remember remind remove renew renovate rent repair repeat replace reply report represent reproduce request
    require rescue reserve resign resist resolve rest restore result retain retire return reuse reveal roll rot
    rotate rule rush sail salute save scatter schedule score scrape scrub seal search seat secure select separate
    settle share sharpen shelter shift shorten shout sign signal skim slip slow smell smooth soak solve sound spark
    specify spill sponsor spot squeeze stain stamp start state stay stimulate stock stop stretch strengthen study
    submit succeed suck suffer suggest suit supply support surround survey survive suspend sustain switch tend test
    thank tie tip touch tow trace track trade train transfer transform translate transport trap travel treat trigger
    trim trust try turn twist unite unload unlock update use vanish vary ventilate vibrate view visit vote wait walk
    want warm warn wash waste watch weaken welcome widen wipe wish wonder work worry wrap yield accelerate activate
    abandon abolish accommodate accumulate accuse adhere adjourn administer adore afford align allege allocate amend
    analyse analyze anticipate appreciate argue assume assure authorise authorize avert bark beg bewilder blend
    blink bloom bounce broaden browse bulge bypass cater cease chatter cheat cheer chop circulate cite clarify
    clatter coincide collaborate comfort commence compensate comply comprise conceal concede conceive concern
    condemn condense confer confine conform confront congregate conquer conserve constrain contaminate contemplate
    contend contract contradict contrast convene convey convince corrode cram crawl criticise criticize cruise
    crunch curl curse dangle dare deduct deem deepen deflect deliberate demonstrate depict deplete deposit designate
    despatch deter deteriorate devise devour dictate dilute diminish disband disclose discourage disguise dislike
    dispense disperse dispose dispute disrupt distinguish distort distract divert dodge dominate doze draft drape
    dread dump eject elapse elevate eliminate embark embed emerge emigrate emphasise emphasize encounter encroach
    endorse enforce engage enhance enlist enrich enrol ensue ensure entail entertain envisage equal eradicate evict
    evolve exert expedite exploit extinguish facilitate falter flap flare flatten flicker flinch flip flourish flush
    forfeit fray freshen frighten frown gallop gasp gaze giggle glance gleam glimmer glitter glow gossip grab grasp
    grieve grin grip groan growl grumble harass harden hasten haunt heed hike hint hiss hoard hop howl hug hum hunt
    hurl hurry illuminate illustrate imagine imitate immerse impair impede implement imply impose improvise incline
    incorporate incur induce indulge infect infer initiate innovate inscribe insult integrate intensify intercept
    interfere interpret intervene investigate jog jolt justify kick kidnap kindle knock lament laugh leak lessen
    liberate lick linger loathe lurch lure manipulate mature meddle mediate memorise mingle minimise moan mobilise
    mock moisten motivate muddle murmur mutter nag negotiate nod nudge oblige obscure obsess obstruct oppose oppress
    opt orbit outlast outline overhaul overturn overwhelm paddle pant participate pave peer perceive perish persist
    pester phone pinch pledge pluck plunder ply poke pose preside prick procure prolong prompt pronounce propel
    prosecute provoke prowl puncture pursue puzzle quarrel quench quicken quiver rain ramble rattle ravage reap
    reassure rebel rebound recall recede recline recognise recognize recount recruit rectify redden redirect refill
    refrain refuel refurbish regain regret reign reinforce reinstall reiterate rejoice relinquish relish relocate
    remark remedy renounce reopen reorganise repaint replenish reprint reproach rescind reside restrain restrict
    resume retrace retreat retrieve reunite reverse rhyme ridicule rip roam roar rumble rust sag saturate savour
    scald scare scold scoop scorch scour scramble scream scrutinise seize sever shatter shave shiver shovel shrug
    shuffle shun shuttle signify simplify sip situate skate skip slacken slap slaughter slice slump smash smear
    smile smother snap snatch sneak sniff snore snow soar sob soften span spare sparkle specialise specialize
    speculate sprain sprawl spray sprout squash squat squeak squeal squint stab stagger stall stare startle
    sterilise stipulate stray stroll struggle stumble subdue submerge subside subsidise substitute summarise
    supervise supplement suppress surge surmount suspect sway swoop tackle tap taper tarnish tease telephone
    terminate thicken thrash threaten thrive throb tidy toil tolerate topple torment toss transcribe transmit
    transplant trickle trot trudge tug tumble twinkle twitch underline undermine unfasten unravel untie urge usher
    utilise utter vacate venture verify wag wail wander wane waver whine whip whirl whisper whistle wilt wink wither
    worsen worship wreck yearn yell
    bind bubble buffer catch clip compile compute configure customise customize debug decode default deploy dispatch
    display edit emit encode evaluate format highlight initialise initialize invoke iterate map mask merge minimize
    navigate override parse pop post prefix query reference refresh render reset resize respond restart scale scroll
    simulate style subclass subscribe tokenize toggle upload validate overfit sample sum penalise penalize weight
    """.split()
)

HUMANS = frozenset(
    """
    man woman boy girl child person people engineer mayor driver guard keeper beekeeper baker owner founder
    architect designer inventor teacher doctor nurse farmer miner worker builder mechanic operator attendant
    lifeguard swimmer visitor guest passenger pilot captain king queen president minister director manager chairman
    chairwoman secretary treasurer judge lawyer artist painter sculptor writer author poet musician singer composer
    scientist researcher professor student pupil apprentice carpenter mason smith blacksmith gardener shepherd
    hunter fisherman sailor soldier officer inspector conductor clerk member volunteer resident villager citizen
    parent mother father son daughter brother sister husband wife widow uncle aunt grandfather grandmother family
    merchant trader customer user developer programmer reader librarian monk priest bishop saint bather coach
    trainer instructor caretaker warden watchman ranger guide cook chef miller brewer weaver potter printer surveyor
    photographer historian geologist botanist chemist physicist patron donor heir tenant landlord adult beginner
    newcomer staff police army group tailor porter brewer schoolteacher stranger stoker jeweller sailor shareholder
    friend friar protagonist hero heroine character actor actress neighbour colleague lover philosopher
    successor predecessor champion locksmith assistant mate spokesman spokeswoman winner loser warden beekeeper joiner
    veterinarian vicar crew-member shopkeeper innkeeper carter ferryman councillor applicant
    dealer electrician grower breeder owner landlady apprentice clerk shepherd shepherdess archivist midwife tutor
    technician scholar colonel general sergeant lieutenant admiral emperor empress prince princess duke duchess count
    countess baron abbot deacon pastor priestess butcher grocer tanner cobbler shoemaker cooper dyer furrier glazier
    goldsmith saddler stonemason thatcher wheelwright barber waiter waitress bartender banker broker accountant
    auditor treasurer notary mechanic plumber welder foreman navigator sailor captain helmsman boatman oarsman
    goalkeeper referee umpire juggler clown acrobat magician puppeteer dancer conductor drummer violinist cellist
    tenor soprano novelist essayist editor reporter translator interpreter tourist traveller pilgrim hermit orphan
    twin niece nephew cousin grandmother grandson granddaughter godfather godmother stepfather stepmother bride groom
    fiancé fiancée resident lodger immigrant refugee prisoner thief burglar smuggler pirate
    quarryman nun team crew council committee board company firm society club association guild parish town village
    """.split()
)
GROUPS = frozenset(
    """
    staff police army group team crew council committee board company firm society club association guild parish
    town village family
    """.split()
)
"""Nouns for which both "who" and "what" are asked for, and that are no persons when they are counted."""

IRREGULAR_PLURALS = frozenset(
    """
    larvae bacteria fungi algae criteria people men women children feet teeth mice geese oxen sheep fish bees data
    """.split()
)

FIRST_NAMES = frozenset(
    """
    Ada Adam Adele Agnes Albert Alexander Alfred Alice Amelia Ana Andrea Andreas Andrew Anna Anne Anton Arthur
    August Beatrice Ben Benjamin Bernard Bertha Brigitte Carl Carla Caroline Catherine Cecil Charles Charlotte
    Christian Christopher Clara Claire Claude Conrad Daniel David Dora Dorothy Edgar Edith Edmund Edward Eleanor
    Elena Elias Elisabeth Elise Eliza Elizabeth Ella Elsa Emil Emily Emma Eric Erik Ernest Ernst Esther Eugene Eva
    Felix Ferdinand Florence Frances Francis Frank Franz Frederick Friedrich Fritz George Georg Gerald Gertrude
    Gilbert Giovanni Grace Greta Gustav Hanna Hannah Hans Harold Harriet Harry Heinrich Helen Helena Henri Henrik
    Henry Herbert Herman Hermann Hilda Hugo Ida Ines Ingrid Irene Irma Isaac Isabel Ivan Jack Jacob Jakob James Jan
    Jane Jean Joan Johan Johann Johanna John Jonas Joseph Josef Judith Julia Julian Julius Karl Karin Kate Katharina
    Katherine Klara Konrad Laura Lawrence Lena Leo Leon Leonard Leopold Lena Liam Lina Lisa Lise Louis Louisa Louise
    Lucas Lucy Ludwig Lukas Luise Maja Marcus Margaret Margarethe Maria Marie Marion Mark Marta Martha Martin Mary
    Mathilde Matthew Matthias Max Maximilian Michael Mina Miriam Moritz Nadia Nicholas Nils Nina Nora Olga Oliver
    Olivia Oscar Oskar Otto Patrick Paul Paula Pauline Peter Petra Philip Pierre Rachel Ralph Raymond Rebecca
    Richard Robert Robin Roger Rosa Rose Rudolf Ruth Samuel Sara Sarah Sebastian Selma Sigrid Simon Sofia Sophia
    Sophie Stefan Stephen Susan Susanna Sven Theodor Theodore Theresa Thomas Tilda Tobias Tom Ursula Valentin Vera
    Victor Viktor Vincent Viola Walter Werner Wilhelm William Wilma Xaver Yvonne
    """.split()
)
NATIONS = frozenset(
    """
    American English British French German Italian Spanish Swiss Austrian Dutch Danish Swedish Norwegian Polish Russian
    Chinese Japanese Indian African Asian European Australian Canadian Greek Roman Latin Christian Victorian
    """.split()
)
TITLES = frozenset("Mr Mrs Ms Miss Dr Prof Professor Doctor Sir Lady Lord St King Queen Captain".split())


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb form: its base (dictionary) form, empty where it is not known, and which form it is."""

    base: str
    tense: Tense


def _third(base: str) -> str:
    if base == "have":
        return "has"
    if re.search(r"(?:s|x|z|ch|sh|o)$", base):
        return f"{base}es"
    return f"{base[:-1]}ies" if re.search(r"[^aeiou]y$", base) else f"{base}s"


def _doubled(base: str) -> str:
    """Return the base as it stands before -ed and -ing where its last consonant is doubled (stop, stopped)."""
    short = re.fullmatch(r"[^aeiou]*[aeiou][bdgklmnprt]", base) and base not in ("open",)
    longer = base in ("admit permit submit transfer refer prefer occur control compel commit forget begin".split())
    return base + base[-1] if short or longer else base


def _past(base: str) -> str:
    if base.endswith("e"):
        return f"{base}d"
    return f"{base[:-1]}ied" if re.search(r"[^aeiou]y$", base) else f"{_doubled(base)}ed"


def _ing(base: str) -> str:
    if base.endswith("ie"):
        return f"{base[:-2]}ying"
    return f"{base[:-1]}ing" if re.search(r"[^eoy]e$", base) else f"{_doubled(base)}ing"


def _forms() -> dict[str, tuple[Verb, ...]]:
    forms: dict[str, list[Verb]] = {}

    def add(form: str, base: str, tense: Tense) -> None:
        forms.setdefault(form, []).append(Verb(base, tense))

    irregular = [entry.split() for entry in _IRREGULAR.replace("\n", "").split("|")]
    for base, past, *participle in irregular:
        if base == "be":
            continue
        add(past, base, "past")
        if participle and participle[0] != past:
            add(participle[0], base, "participle")
    add("born", "bear", "participle")
    for base in sorted(_REGULAR - {entry[0] for entry in irregular}):
        add(_past(base), base, "past")
    for base in sorted(_REGULAR | {entry[0] for entry in irregular} - {"be"}):
        add(base, base, "base")
        add(_third(base), base, "third")
        add(_ing(base), base, "ing")
    return {form: tuple(verbs) for form, verbs in forms.items()}


_FORMS = _forms()


def verbs_of(word: str) -> tuple[Verb, ...]:
    """Return the verb forms that a word can be. Unknown words in -ed are past forms without a known base."""
    lowered = word.casefold()
    if (known := _FORMS.get(lowered)) is not None:
        return known
    if re.fullmatch(r"[a-z]{3,}ed", lowered) and not lowered.endswith("eed"):
        return (Verb("", "past"),)
    return ()


def is_plural(noun: str) -> bool:
    """Guess whether a noun is plural from its ending."""
    lowered = noun.casefold()
    return lowered in IRREGULAR_PLURALS or (
        lowered.endswith("s") and not re.search(r"(?:ss|us|is|ous|news|lens|gas)$", lowered)
    )


def is_human(noun: str) -> bool:
    """Tell whether a noun in the singular or plural names people or a body of people."""
    lowered = noun.casefold()
    singular = re.sub(r"men$", "man", lowered)
    singular = re.sub(r"ies$", "y", singular) if singular.endswith("ies") else singular.removesuffix("s")
    return (
        lowered in HUMANS
        or singular in HUMANS
        or bool(re.search(r"[a-z]{3}(?:ist|ician|maker|keeper|woman|monger|smith|wright)$", singular))
    )


_ADJECTIVES = frozenset(
    """
    common important useful old new young large small big little long short high low deep wide narrow thick thin
    heavy light warm cold hot cool dry wet clean dirty full empty open closed free busy quiet loud strong weak rich
    poor good bad better worse safe dangerous easy difficult hard simple possible necessary famous popular known
    rare wooden main upper lower former present whole entire visible ready able likely available expensive cheap
    bright dark slow fast quick early late different similar special particular several certain white black red
    green blue yellow brown
    """.split()
)


def is_adjective(word: str) -> bool:
    """Tell whether a word is one of the adjectives that noun phrases without a noun end with."""
    return word in _ADJECTIVES


def past_of(verb: Verb) -> str | None:
    """Return the past tense of a verb, or None where its base is not known."""
    return (
        next((form for form, verbs in _FORMS.items() if Verb(verb.base, "past") in verbs), None) if verb.base else None
    )


def third_of(verb: Verb) -> str | None:
    """Return the third person singular of a verb, or None where its base is not known."""
    return _third(verb.base) if verb.base else None


def past_only(word: str) -> bool:
    """Tell whether a word is the past tense of an irregular verb and not its participle: fell, took, wrote."""
    verbs = _FORMS.get(word, ())
    return bool(verbs) and all(
        verb.tense == "past" and any(Verb(verb.base, "participle") in others for others in _FORMS.values())
        for verb in verbs
    )
