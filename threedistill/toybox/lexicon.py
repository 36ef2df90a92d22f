"""The words of the Toybox world: its things, colours, parts and what can be said of them.

Tables only. :mod:`threedistill.toybox.grammar` makes captions of them and reads prompts,
:mod:`threedistill.toybox.world` builds what they name. A trained prior knows the words it was trained on, which may
be fewer: see
:func:`threedistill.toybox.grammar.parse`.
"""

from __future__ import annotations

__all__ = [
    "ACCESSORIES", "BASES", "COLORS", "DEGRADED_WORDS", "FILLER", "FINISHES", "FRONTED", "GRAMMAR_WORDS", "HOLLOW",
    "KINDS", "KIND_PARTS", "MEANINGS", "NEIGHBOURS", "NEWER", "PARTS", "PATTERNS", "PLURALS", "RELATIONS", "SIZES",
    "STYLE_WORDINGS", "SYNONYMS", "TOPS", "TUNNELS", "VIEW_WORDINGS", "WEARERS",
]  # fmt: skip

#: sRGB of every colour word.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.97, 0.50, 0.05),
    "yellow": (0.97, 0.85, 0.12),
    "green": (0.13, 0.60, 0.18),
    "blue": (0.12, 0.30, 0.85),
    "purple": (0.50, 0.17, 0.70),
    "pink": (0.97, 0.55, 0.74),
    "brown": (0.45, 0.25, 0.11),
    "black": (0.10, 0.10, 0.11),
    "white": (0.94, 0.94, 0.95),
}

#: Every kind, with the colours it comes in when no colour is asked for (the first is the canonical one).
KINDS: dict[str, tuple[str, ...]] = {
    "duck": ("yellow", "yellow", "white", "brown"),
    "car": ("red", "blue", "white", "black"),
    "robot": ("blue", "white", "orange", "red"),
    "snowman": ("white", "white", "white", "blue"),
    "teddy bear": ("brown", "brown", "pink", "white"),
    "house": ("white", "yellow", "red", "blue"),
    "television": ("brown", "black", "red", "white"),
    "mug": ("white", "red", "blue", "green"),
    "owl": ("brown", "brown", "purple", "white"),
    "airplane": ("white", "red", "blue", "yellow"),
    "rocket": ("white", "red", "blue", "orange"),
    "chair": ("brown", "red", "blue", "green"),
    "cat": ("black", "orange", "white", "brown"),
    "truck": ("red", "yellow", "blue", "green"),
    "pig": ("pink", "pink", "pink", "brown"),
    "ball": ("red", "blue", "yellow", "green"),
    "donut": ("pink", "brown", "white", "purple"),
    "cone": ("orange", "orange", "red", "yellow"),
    "mushroom": ("red", "red", "brown", "orange"),
    "tree": ("green", "green", "green", "orange"),
    "table": ("brown", "brown", "white", "black"),
    "lamp": ("yellow", "white", "red", "green"),
    "cube": ("blue", "red", "green", "yellow"),
    "vase": ("blue", "white", "green", "purple"),
    "cactus": ("green", "green", "green", "green"),
    "apple": ("red", "red", "green", "yellow"),
    "cupcake": ("pink", "white", "brown", "purple"),
    "dog": ("brown", "brown", "white", "black"),
    "rabbit": ("white", "white", "brown", "pink"),
    "frog": ("green", "green", "green", "orange"),
    "penguin": ("black", "black", "blue", "purple"),
    "elephant": ("blue", "blue", "pink", "purple"),
    "fish": ("orange", "orange", "blue", "yellow"),
    "train": ("green", "red", "blue", "black"),
    "clock": ("red", "yellow", "blue", "green"),
    "sofa": ("red", "brown", "blue", "green"),
    "pumpkin": ("orange", "orange", "orange", "white"),
    "ice cream": ("pink", "white", "brown", "green"),
    "flower": ("red", "yellow", "pink", "purple"),
    "umbrella": ("red", "blue", "yellow", "purple"),
}

#: Kinds whose front cannot be mistaken: the rest look alike from (nearly) all sides.
FRONTED: frozenset[str] = frozenset(
    (
        *(
            "duck",
            "car",
            "robot",
            "snowman",
            "teddy bear",
            "house",
            "television",
            "mug",
            "owl",
            "airplane",
            "rocket",
        ),
        *(
            "chair",
            "cat",
            "truck",
            "pig",
            "dog",
            "rabbit",
            "frog",
            "penguin",
            "elephant",
            "fish",
            "train",
            "clock",
        ),
        "sofa",
    )
)
#: The kinds that came after the first weights (toybox-1): their held-out combinations are in the second list.
NEWER: tuple[str, ...] = tuple(KINDS)[27:]

#: Everything that a face of the world can belong to, in a fixed order (labels and caches store the index).
PARTS: tuple[str, ...] = (
    "body", "head", "eyes", "pupils", "nose", "beak", "mouth", "smile", "snout", "nostrils", "ears", "inner ears",
    "belly", "arms", "hands", "legs", "feet", "paws", "wings", "tail", "joints", "panel", "buttons", "antenna",
    "windows", "frames", "door", "roof", "chimney", "knobs", "screen", "speaker", "wheels", "hubs", "lights", "grille",
    "cabin", "chassis", "bumper", "propeller", "tips", "struts", "fins", "nozzle", "flame", "backrest", "cushion",
    "handle", "inside", "drink", "badge", "hole", "icing", "dough", "sprinkles", "base", "band", "stem", "trunk",
    "shade", "pole", "pot", "blossom", "leaf", "wrapper", "cherry", "face", "pointers", "bells", "collar", "tusks",
    "wafer", "lines", "petals", "center", "dome", "numerals", "stripes", "spots", "hat", "scarf",
)  # fmt: skip

#: Parts of each kind that can be given a colour of their own ("a red car with white wheels").
KIND_PARTS: dict[str, tuple[str, ...]] = {
    "duck": ("beak", "wings", "feet"),
    "car": ("wheels", "windows", "lights", "cabin"),
    "robot": ("head", "arms", "legs", "feet", "antenna", "eyes"),
    "snowman": ("nose", "buttons", "head"),
    "teddy bear": ("ears", "belly", "paws", "arms"),
    "house": ("roof", "door", "windows"),
    "television": ("screen", "knobs", "antenna"),
    "mug": ("handle",),
    "owl": ("wings", "belly", "beak", "eyes"),
    "airplane": ("wings", "tail", "nose", "windows"),
    "rocket": ("fins", "nose", "windows"),
    "chair": ("backrest", "legs", "cushion"),
    "cat": ("ears", "belly", "tail", "paws", "eyes"),
    "truck": ("wheels", "cabin", "windows"),
    "pig": ("snout", "ears", "feet"),
    "donut": ("sprinkles", "dough"),
    "cone": ("band", "base"),
    "mushroom": ("stem",),
    "tree": ("trunk",),
    "table": ("legs",),
    "lamp": ("base", "pole"),
    "cactus": ("pot", "blossom"),
    "apple": ("leaf", "stem"),
    "cupcake": ("wrapper", "cherry"),
    "dog": ("ears", "collar", "tail", "snout"),
    "rabbit": ("ears", "tail", "paws"),
    "frog": ("eyes", "belly", "feet"),
    "penguin": ("belly", "beak", "feet"),
    "elephant": ("ears", "trunk", "tusks"),
    "fish": ("fins", "tail", "eyes"),
    "train": ("wheels", "chimney", "cabin", "windows"),
    "clock": ("face", "bells", "pointers"),
    "sofa": ("cushion", "legs"),
    "pumpkin": ("stem", "leaf"),
    "ice cream": ("wafer", "cherry"),
    "flower": ("center", "stem", "leaf"),
    "umbrella": ("handle", "pole"),
}

#: How many ways lead through things that are not without any: at least, and at most. A mug has its handle's; the most
#: counts gaps as well that close at the size of a teacher's pixel, such as those between a cat's legs and its body.
TUNNELS: dict[str, tuple[int, int]] = {
    "mug": (1, 1), "donut": (1, 1), "clock": (1, 3), "pig": (0, 1), "cat": (0, 2), "rabbit": (0, 8),
    "elephant": (0, 4), "penguin": (0, 2), "train": (0, 4), "robot": (0, 2), "dog": (0, 3), "television": (0, 1),
}  # fmt: skip

#: Kinds that the world makes of sheets without thickness: their volume means nothing.
HOLLOW: frozenset[str] = frozenset(["lamp", "umbrella"])

PATTERNS: tuple[str, ...] = ("striped", "spotted")
ACCESSORIES: tuple[str, ...] = ("hat", "scarf")
#: "tall" stretches a thing upwards; "big" and "small" tell two things apart, and of a single one they say nothing.
SIZES: tuple[str, ...] = ("big", "small", "tall")
#: "shiny" things show a highlight; "matt" is what all others are.
FINISHES: tuple[str, ...] = ("shiny", "matt")
#: Kinds with a head and a neck to dress.
WEARERS: tuple[str, ...] = (
    "duck", "robot", "snowman", "teddy bear", "owl", "cat", "dog", "rabbit", "penguin", "elephant",
)  # fmt: skip
RELATIONS: tuple[str, ...] = ("on", "next to")
#: What can stand on what, and what can stand side by side.
TOPS: tuple[str, ...] = (
    "ball", "donut", "cone", "mushroom", "duck", "mug", "apple", "vase", "cat", "owl", "cactus",
    "rabbit", "frog", "penguin", "clock", "pumpkin", "flower",
)  # fmt: skip
BASES: tuple[str, ...] = ("cube", "table")
NEIGHBOURS: tuple[str, ...] = (
    *TOPS, "cube", "robot", "snowman", "tree", "rocket", "lamp", "cupcake", "dog", "ice cream",
)  # fmt: skip

#: Plurals that are not the singular and an s.
_IRREGULAR = {"snowman": "snowmen", "cactus": "cacti", "fish": "fish"}
PLURALS: dict[str, str] = {kind: _IRREGULAR.get(kind, kind + "s") for kind in KINDS}

VIEW_WORDINGS: dict[str, tuple[str, ...]] = {
    "front": ("front view", "front view", "seen from the front", "facing the camera"),
    "side": ("side view", "side view", "seen from the side"),
    "back": ("back view", "back view", "rear view", "seen from behind"),
    "overhead": ("overhead view", "overhead view", "top view", "seen from above"),
}
DEGRADED_WORDS: tuple[str, ...] = ("blurry", "noisy", "broken")
STYLE_WORDINGS: dict[str, tuple[str, ...]] = {
    "clay": ("clay model", "clay render"),
    "normal": ("normal map", "normal map render"),
}

#: Printed by ``threedistill list words``: words that are read as another word.
SYNONYMS: dict[str, str] = {
    "automobile": "car", "teddy": "teddy bear", "bear": "teddy bear", "tv": "television", "doughnut": "donut",
    "plane": "airplane", "aeroplane": "airplane", "cup": "mug", "kitten": "cat", "kitty": "cat", "piglet": "pig",
    "sphere": "ball", "box": "cube", "lorry": "truck", "spaceship": "rocket", "toadstool": "mushroom",
    "duckling": "duck", "muffin": "cupcake", "violet": "purple", "scarlet": "red", "crimson": "red",
    "dotted": "spotted", "dots": "spots", "striped": "striped", "stripey": "striped", "cap": "hat",
    "atop": "on", "beside": "next to", "rear": "back", "top": "overhead",
    "puppy": "dog", "bunny": "rabbit", "locomotive": "train", "couch": "sofa", "parasol": "umbrella",
    "icecream": "ice cream", "large": "big", "huge": "big", "tiny": "small", "glossy": "shiny", "polished": "shiny",
    "matte": "matt", "tires": "wheels", "tyres": "wheels", "tire": "wheels", "tyre": "wheels", "wing": "wings",
    "wheel": "wheels", "window": "windows", "eye": "eyes", "ear": "ears", "foot": "feet", "paw": "paws", "leg": "legs",
    "arm": "arms", "button": "buttons", "knob": "knobs", "sprinkle": "sprinkles", "headlights": "lights",
    "light": "lights", "fin": "fins", "tusk": "tusks", "bell": "bells", "cushions": "cushion", "antennas": "antenna",
}  # fmt: skip
#: Things and colours that the world has not, and what in it is most like them.
MEANINGS: dict[str, tuple[str, ...]] = {
    word: alike
    for alike, words in (
        (
            ("cat", "dog"),
            "corgi poodle terrier dachshund labrador husky wolf fox animal pet hound beagle lion tiger "
            "leopard panther cheetah puma lynx squirrel raccoon hamster",
        ),
        (
            ("pig", "elephant"),
            "cow horse sheep goat donkey pony zebra deer bull boar hippo rhino camel giraffe unicorn",
        ),
        (("rabbit", "cat"), "mouse rat hare hedgehog kangaroo"),
        (("teddy bear",), "panda koala monkey gorilla doll plush ape"),
        (
            ("duck", "owl", "penguin"),
            "bird chicken hen goose swan parrot eagle crow pigeon rooster turkey chick",
        ),
        (("fish",), "shark whale dolphin salmon goldfish tuna submarine"),
        (("frog", "fish"), "toad turtle tortoise lizard snake crocodile dinosaur dragon"),
        (("robot",), "android cyborg astronaut machine transformer droid knight soldier"),
        (
            ("robot", "snowman"),
            "man woman person boy girl human child figure wizard king queen princess pirate ninja",
        ),
        (
            ("truck", "car"),
            "bus van taxi jeep tractor ambulance vehicle bulldozer tank motorcycle bicycle scooter",
        ),
        (("train", "truck"), "tram wagon railway engine"),
        (("airplane",), "jet helicopter glider drone aircraft zeppelin blimp airship"),
        (("rocket", "airplane"), "missile satellite ufo spacecraft shuttle"),
        (("house",), "castle hut cottage barn church tower building home temple tent palace shed skyscraper"),
        (("chair", "sofa"), "stool throne bench armchair furniture bed"),
        (("table",), "desk counter shelf"),
        (("lamp",), "candle lantern torch bulb chandelier"),
        (("mug", "vase"), "teapot kettle bottle glass jug pitcher bowl jar teacup goblet bucket barrel can"),
        (("television", "clock"), "computer monitor laptop radio phone microwave"),
        (("clock",), "watch timer compass"),
        (("tree", "flower", "cactus"), "bush plant rose tulip palm grass forest daisy sunflower bonsai pine"),
        (
            ("apple", "pumpkin"),
            "pear tomato peach fruit lemon banana strawberry melon vegetable carrot pineapple",
        ),
        (
            ("cupcake", "donut", "ice cream"),
            "cake cookie pie bread bagel dessert food candy pancake hamburger pizza",
        ),
        (("ball", "cube"), "egg stone rock moon planet globe dice pyramid cylinder ring"),
        (("hat",), "helmet crown beanie cape glasses"),
        (("purple", "pink"), "magenta lilac lavender maroon indigo"),
        (("blue", "green"), "teal turquoise cyan navy azure"),
        (("yellow", "brown"), "gold golden beige tan bronze"),
        (("white", "black"), "grey gray silver"),
        # Newer things, for weights that do not know them.
        (("cat", "pig"), "dog rabbit elephant"),
        (("duck",), "frog penguin fish"),
        (("truck", "car"), "train"),
        (("television",), "clock"),
        (("chair",), "sofa"),
        (("apple",), "pumpkin"),
        (("cupcake",), "cream"),
        (("mushroom",), "flower umbrella"),
    )
    for word in words.split()
}
#: Words that name nothing; they are dropped and reported.
FILLER: frozenset[str] = frozenset(
    (
        *(
            "photo",
            "photograph",
            "picture",
            "image",
            "render",
            "rendering",
            "3d",
            "model",
            "cute",
            "little",
            "nice",
        ),
        *(
            "beautiful",
            "dslr",
            "toy",
            "object",
            "simple",
            "realistic",
            "high",
            "quality",
            "highly",
            "detailed",
            "hd",
        ),
        *("4k", "single", "asset", "good"),
    )
)
#: Words that hold captions together.
GRAMMAR_WORDS: tuple[str, ...] = (
    "a", "an", "the", "of", "on", "next", "to", "wearing", "with", "and", "in", "standing", "sitting", "view", "seen",
    "from", "facing", "camera", "behind", "above", "one", "very",
)  # fmt: skip
