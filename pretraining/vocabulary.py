"""The words the tokenizer's merges are learned from: the world's own, and plain English."""

from nsync_pipeline.sketchbook.scene import COLOURS, OBJECTS
from pretraining.prompts import PLACEHOLDER_WORDS, STYLE_WORDS

_OTHER_WORDS = """
a an in on under beside front of the style grass sand water snow sun moon clouds rainbow
"""
WORLD_WORDS: tuple[str, ...] = (
    *COLOURS,
    *OBJECTS,
    *STYLE_WORDS,
    *PLACEHOLDER_WORDS,
    *_OTHER_WORDS.split(),
)

# Written for this file, so that captions from elsewhere take two tokens a word, not six.
_ENGLISH = """
about above across after against along among around away back before behind below between beyond
both bright broad brown calm clear close cloud cloudy cold colour colourful dark dawn deep
distant down dusk each early edge empty evening far few field figure figures fine flat floating
flowing from full garden gentle glowing gold golden grand green grey ground group half hand
hanging hazy head heavy high hill hills hillside horizon into lake land landscape lane large
last late leaf leaves left light lilac line lines little lone long low lying man many mauve
meadow middle mist misty morning mountain mountains much narrow near night off old one open
orchard outside over overcast pale park path people person pink plain plant plants pool pond
quiet rain reflected reflecting reflection reflections right ripple rippling rising river
riverbank road rock rocks rocky rose rough round rounded row rows running sail sailing sails
scene sea seated shade shadow shadows shape ship shore shrub side silhouette silver single
sitting sky slender small smoke soft some spring standing station steam steep still stone storm
stormy straw stream street strong summer sunlight sunlit sunny sunrise sunset surface tall thick
thin three through tiny top tower town tower trunk trunks turning two upon upper very view
village violet walking wall walls warm wave waves white wide wild willow wind window windows
winter with woman women wood wooden woods yellow young arch autumn bank bay beach bells bird
birds blossom blossoms blooming boats branch branches bridge broken building buildings bush
bushes canal castle cathedral child children church cliff cliffs coast cottage country couple
cows crowd dense dome dress dust dwelling farm fence fences fire fish fisherman fishing flag
flags flowering flowers fog foliage forest fountain frost garden gate girl glass hair harbour
harvest hat haystack headland heath hedge horse hot ice island ivory ivy kimono lady lamp
lantern lilies lily lighthouse looking mast masts mirror mill moonlight moored mooring mother
nest open palace parasol patch peak petals pier pine pines plum pole poles poppies port portrait
poplar poplars quay rail red reeds resting roof roofs root ruins rural sailor seaside setting
seen seedling shop shoulder sleeping slope smoky snowy spire stems steps stormy sunflower swan
table temple terrace tide town traveller travellers tree trees tulip valley vase veil vine walk
warrior wearing weather wet wheat wing wings actor apple bamboo basket beard bee beetle berries
blue book botanical bottle bowl bow bulb butterfly carrying chair cherry chimney cluster coat
crane cup curved dancing dog door dragon duck fan face fairy fern floor folded fruit furry gown
holding hollow hood insect iris jar kneeling lying mask moth mouse mushrooms music nose orchid
painted paper peony pointed poppy pot pumpkin rabbit reading riding robe rope samurai sash
scroll seed seeds shell showing sleeve smiling snake spotted sprig squirrel stalk star stars
striped sword tail tea tiger toadstool umbrella veined woven wrapped able act add age air all
also another any are area art ask bad ball base bed been being best big body box boy bring build
but buy call came can care case change city class come could cut day did different do does done
draw drawing drop easy eat end enough even ever every eye fall family fast feel feet fill final
find first floor fly follow food foot for form found four free fresh friend game get give go
good great grow had hard has have he hear help her here him his hold home hope hour how idea
inside is it join just keep kind king know large learn leave let life like list live look lost
love made main make map mark may me mean meet men mind more most move must name nature need
never new next no north not note now number often oil only or order other our out own page pair
part pass past picture piece place play point press put queen question quick rather ready real
rest ring room said same save saw school second self send sent set she short show sing size
sleep slow so song soon sort sound south space speak stand start state stay stop story such sun
sure take tell than that their them then there these they thing think this those time to
together told too took toward town try turn under unit until up us use usual wait want war was
watch way we week well went west what when where which while who whole why will wish within
without word work world would write year yes yet you your ation ings ness ment able ible ture
tion sion ally ence ance
"""
ENGLISH_WORDS: tuple[str, ...] = tuple(_ENGLISH.split())
