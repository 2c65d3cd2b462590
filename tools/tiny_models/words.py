"""The words that the tiny models know: about 2,000 common forms, by part of speech.

Written for this project. Words that sound like another word are listed only where the sentence
tells them apart.
"""

from __future__ import annotations

NOUNS = """
day year week month hour minute morning evening night time moment summer winter spring autumn season weekend holiday birthday
man woman child boy girl baby friend family mother father brother sister uncle aunt cousin parent husband wife neighbor guest
teacher student doctor nurse driver pilot farmer writer artist singer painter baker lawyer judge soldier captain king queen prince
manager worker engineer player leader member visitor customer stranger police officer actor dancer sailor hunter president
house home room kitchen garden window door floor wall roof stair street road bridge city town village country market shop store
office school church hotel hospital station airport library museum theater restaurant park beach island river lake ocean mountain
hill valley forest field farm desert castle tower corner square factory building apartment bathroom bedroom basement garage gate
table chair bed lamp sofa desk shelf box bag basket bottle cup glass plate bowl knife fork spoon pan oven clock mirror picture
carpet blanket pillow towel soap brush candle key lock phone radio computer screen keyboard printer camera battery engine machine
tool hammer nail rope ladder bucket wheel button needle thread paper pencil pen book letter page story poem song newspaper magazine
ticket map card coin money bank dollar price bill gift toy ball game puzzle doll kite drum piano guitar violin trumpet bell
car bus train truck boat ship plane bicycle taxi wagon tractor helicopter rocket
bread butter cheese milk water coffee juice sugar salt pepper rice soup salad egg meat chicken fish apple orange banana lemon
cherry grape peach potato tomato onion carrot cabbage bean corn cake cookie candy chocolate honey sandwich pizza dinner lunch breakfast
dog cat horse cow pig sheep goat bird duck rabbit mouse lion tiger monkey elephant bear wolf fox snake frog turtle spider bee
tree leaf branch root grass flower rose seed fruit wood stone rock sand dirt mud
rain snow wind storm cloud sky moon star fire smoke ice weather thunder shadow light
head face eye nose mouth tooth tongue neck shoulder arm hand finger leg foot knee heart brain blood skin hair bone voice
shirt coat dress skirt shoe boot hat glove scarf sock jacket pocket belt ring necklace watch umbrella
color number word name question answer idea plan problem reason rule law lesson test story secret promise dream fear hope
problem mistake accident trip journey vacation party concert meeting wedding race match war peace
job work business company project report message email file program system network model server signal password
world people place side end line point part piece group team class kind way thing matter fact group level
north south east west center middle front back top bottom edge path track trail
sound noise music dance film movie show news event history science art sport health medicine pain energy power
metal gold silver iron steel plastic rubber leather cotton wool paper glass
garden fence yard porch chimney ceiling curtain drawer cabinet closet
problem speed distance weight size shape temperature pressure degree percent
""".split()

PEOPLE = """
man woman boy girl friend mother father brother sister uncle aunt cousin neighbor guest teacher student doctor nurse driver pilot
farmer writer artist singer painter baker lawyer judge soldier captain king queen manager worker engineer player leader visitor
customer stranger officer actor dancer sailor hunter president husband wife child
""".split()

PLACES = """
house room kitchen garden street road bridge city town village market shop store office school church hotel hospital station airport
library museum theater restaurant park beach island river lake ocean mountain hill valley forest field farm castle tower corner
factory building apartment bedroom basement garage gate yard porch center
""".split()

IRREGULAR_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "wife": "wives", "knife": "knives", "shelf": "shelves", "leaf": "leaves",
    "tooth": "teeth", "foot": "feet", "mouse": "mice", "sheep": "sheep", "fish": "fish", "people": "people", "police": "police",
    "wolf": "wolves",
}  # fmt: skip

MASS = set(
    """bread butter cheese milk water coffee juice sugar salt pepper rice soup meat chicken fish corn candy chocolate honey grass wood sand
    dirt mud rain snow wind smoke ice weather thunder light blood skin hair money music news history science art health medicine energy
    power metal gold silver iron steel plastic rubber leather cotton wool paper glass work business peace war police people soap home
    sheep time dirt traffic pain fear hope north south east west""".split()
)

NAMES = """
anna ben carla daniel emma frank grace henry irene jack karen leo maria nina oscar paul rachel simon tina victor walter alice
david susan peter laura thomas julia robert helen kevin linda martin sarah george sophie
""".split()

# base, third person, past, -ing, and what follows: t an object, i nothing, p a place
VERBS = """
see sees saw seeing t|find finds found finding t|want wants wanted wanting t|need needs needed needing t|like likes liked liking t
love loves loved loving t|hate hates hated hating t|take takes took taking t|bring brings brought bringing t|buy buys bought buying t
sell sells sold selling t|make makes made making t|build builds built building t|break breaks broke breaking t|fix fixes fixed fixing t
open opens opened opening t|close closes closed closing t|watch watches watched watching t|read reads read reading t
write writes wrote writing t|draw draws drew drawing t|paint paints painted painting t|carry carries carried carrying t
push pushes pushed pushing t|pull pulls pulled pulling t|throw throws threw throwing t|catch catches caught catching t
hold holds held holding t|keep keeps kept keeping t|lose loses lost losing t|forget forgets forgot forgetting t
remember remembers remembered remembering t|learn learns learned learning t|teach teaches taught teaching t
study studies studied studying t|understand understands understood understanding t|know knows knew knowing t
help helps helped helping t|call calls called calling t|visit visits visited visiting t|meet meets met meeting t
follow follows followed following t|lead leads led leading t|drive drives drove driving t|ride rides rode riding t
cook cooks cooked cooking t|eat eats ate eating t|drink drinks drank drinking t|taste tastes tasted tasting t
wash washes washed washing t|clean cleans cleaned cleaning t|cut cuts cut cutting t|cover covers covered covering t
fill fills filled filling t|empty empties emptied emptying t|count counts counted counting t|measure measures measured measuring t
check checks checked checking t|start starts started starting t|stop stops stopped stopping t|finish finishes finished finishing t
change changes changed changing t|move moves moved moving t|turn turns turned turning t|send sends sent sending t
receive receives received receiving t|save saves saved saving t|spend spends spent spending t|pay pays paid paying t
lend lends lent lending t|borrow borrows borrowed borrowing t|give gives gave giving t|show shows showed showing t
hide hides hid hiding t|choose chooses chose choosing t|use uses used using t|plan plans planned planning t
plant plants planted planting t|grow grows grew growing t|hunt hunts hunted hunting t|feed feeds fed feeding t
kill kills killed killing t|protect protects protected protecting t|attack attacks attacked attacking t|win wins won winning t
hear hears heard hearing t|touch touches touched touching t|smell smells smelled smelling t|believe believes believed believing t
discover discovers discovered discovering t|explain explains explained explaining t|describe describes described describing t
answer answers answered answering t|ask asks asked asking t|invite invites invited inviting t|accept accepts accepted accepting t
refuse refuses refused refusing t|order orders ordered ordering t|repair repairs repaired repairing t|cross crosses crossed crossing t
reach reaches reached reaching t|leave leaves left leaving t|enter enters entered entering t|pass passes passed passing t
join joins joined joining t|share shares shared sharing t|collect collects collected collecting t|search searches searched searching t
copy copies copied copying t|print prints printed printing t|control controls controlled controlling t|lift lifts lifted lifting t
drop drops dropped dropping t|kick kicks kicked kicking t|hit hits hit hitting t|burn burns burned burning t
go goes went going p|come comes came coming p|walk walks walked walking p|run runs ran running p|travel travels traveled traveling p
return returns returned returning p|climb climbs climbed climbing t|jump jumps jumped jumping i|swim swims swam swimming i
fly flies flew flying p|sail sails sailed sailing p|hurry hurries hurried hurrying p|drift drifts drifted drifting p
live lives lived living i|work works worked working i|stay stays stayed staying i|wait waits waited waiting i
sleep sleeps slept sleeping i|wake wakes woke waking i|sit sits sat sitting i|stand stands stood standing i|rest rests rested resting i
laugh laughs laughed laughing i|cry cries cried crying i|smile smiles smiled smiling i|sing sings sang singing i
dance dances danced dancing i|play plays played playing i|talk talks talked talking i|speak speaks spoke speaking i
listen listens listened listening i|think thinks thought thinking i|dream dreams dreamed dreaming i|fall falls fell falling i
arrive arrives arrived arriving i|happen happens happened happening i|appear appears appeared appearing i
disappear disappears disappeared disappearing i|begin begins began beginning i|fight fights fought fighting i
shout shouts shouted shouting i|whisper whispers whispered whispering i|wonder wonders wondered wondering i
cough coughs coughed coughing i|breathe breathes breathed breathing i|relax relaxes relaxed relaxing i
complain complains complained complaining i|agree agrees agreed agreeing i|practice practices practiced practicing i
"""

ADJECTIVES = """
good bad big small large little long short tall old new young early late fast slow hot cold warm cool dry wet clean dirty full empty
heavy light dark bright loud quiet strong weak hard soft easy difficult simple strange common rare cheap expensive free busy lazy
happy sad angry calm tired hungry thirsty sick healthy rich poor brave afraid kind cruel clever stupid funny serious famous beautiful
ugly pretty lovely perfect wonderful terrible dangerous safe sharp flat round square narrow wide deep shallow thick thin smooth rough
sweet bitter sour fresh rotten raw ripe red blue green yellow black white brown gray pink purple orange golden wooden broken whole
modern ancient foreign local public private secret important useful ready careful gentle polite rude proud shy honest nervous
lonely crowded noisy peaceful cloudy sunny rainy windy frozen hidden open closed next last first second third final main extra
different similar equal special general possible correct wrong true false real favorite usual daily
""".split()

ADVERBS = """
quickly slowly quietly loudly carefully suddenly usually often always never sometimes again today tomorrow yesterday tonight now then
soon later early here there everywhere outside inside upstairs together alone already finally gently badly well hardly
""".split()

FUNCTION_WORDS = """
the a an this that these those my your his her our their its some any every each many few several both all no
i you he she it we they me him us them is are was were be been am has have had do does did will would can could should may might must
and or but because if when while before after until since so as than of in on at to from with without about over under between behind
near through across around along into onto up down off out by for not who what where why how which whose very too much more most less
only just still almost even also yes please thank thanks hello goodbye welcome sorry maybe okay there nothing something everything
someone everyone nobody myself himself herself
""".split()

DIGITS = "zero one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
)
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
MONTHS = (
    "january february march april may june july august september october november december".split()
)
LETTERS = list("abcdefghijklmnopqrstuvwxyz")

COMMANDS = (
    """
turn on the {device}|turn off the {device}|turn the {device} {updown}|switch the {device} {onoff}|open the {thing}|close the {thing}
play the next song|play some music|stop the music|pause the movie|set a timer for {number} minutes|set an alarm for {clock}
wake me at {clock}|remind me to {do} {when}|call {name}|call my {person} {when}|send a message to {name}|read the message from {name}
what time is it|what is the weather like {when}|how far is the {place}|where is the nearest {place}|go back|go to page {number}
go to the next page|show me the {place} on the map|start the {device} now|stop the {device}|lock the {thing}|unlock the {thing}
add {thing} to the list|remove {thing} from the list|save the file|delete the file|print the page|repeat that please
yes please|no thanks|thank you very much|good morning {name}|good night {name}|hello {name}|see you {when}|help me please
go left at the {place}|go right at the {place}|go straight on|wait a moment|come here please|be quiet please|say that again
restart the server|check the battery|show the report for {month}|cancel the meeting on {day}|move the meeting to {day} at {clock}
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
DEVICES = "light lamp radio heater fan television oven camera printer computer engine machine alarm music".split()


def plural(noun: str) -> str:
    """Return the plural of a noun of `NOUNS`."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun in ("potato", "tomato"):
        return noun + "es"
    return noun + "s"


def verbs() -> list[tuple[str, str, str, str, str]]:
    """Return base, third person, past, -ing form and kind of each verb."""
    rows = [tuple(row.split()) for line in VERBS.splitlines() if line for row in line.split("|")]
    assert all(len(row) == 5 for row in rows), [row for row in rows if len(row) != 5]
    return rows  # type: ignore[return-value]


def vocabulary() -> list[str]:
    """Return every word form that the generator can write, sorted."""
    forms = set(NOUNS) | {plural(noun) for noun in NOUNS if noun not in MASS}
    for verb in verbs():
        forms |= set(verb[:4])
    for group in (
        NAMES,
        ADJECTIVES,
        ADVERBS,
        FUNCTION_WORDS,
        DIGITS,
        TEENS,
        TENS,
        ORDINALS,
        DAYS,
        MONTHS,
        LETTERS,
        DEVICES,
    ):
        forms |= set(group)
    for command in COMMANDS:
        forms |= {word for word in command.split() if "{" not in word}
    return sorted(forms | {"hundred", "thousand", "o'clock", "half", "past", "quarter"})
