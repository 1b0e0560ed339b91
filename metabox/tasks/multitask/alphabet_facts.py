"""What is known of the alphabets of Omniglot, for descriptors: by field, and in words."""

from __future__ import annotations

from metabox.tasks.descriptors import About

FACTS = """
Alphabet_of_the_Magi | abjad | occult | right to left | made for talismans in the Renaissance, after Hebrew
Angelic | abjad | occult | right to left | made for angels in the Renaissance, after Hebrew, with small rings
Anglo-Saxon_Futhorc | alphabet | runic | left to right | straight strokes to be carved, for Old English
Arcadian | alphabet | invented | left to right | made for fun, a sign for each letter of English
Armenian | alphabet | caucasian | left to right | the letters of Mesrop Mashtots, many with arches and hooks
Asomtavruli_(Georgian) | alphabet | caucasian | left to right | the oldest letters of Georgian, circles and lines
Atemayar_Qelisayer | alphabet | invented | left to right | made for fun, a sign for each letter of English
Atlantean | alphabet | invented | both ways | made for a film about Atlantis, a sign for each letter of English
Aurek-Besh | alphabet | invented | left to right | made for films about wars in space, a sign for each letter of English
Avesta | alphabet | semitic | right to left | flowing letters for the holy texts of the Zoroastrians, after Pahlavi
Balinese | abugida | brahmic | left to right | round letters with curls, from the island of Bali
Bengali | abugida | brahmic | left to right | letters that hang from a line, with triangles and sharp corners
Blackfoot_(Canadian_Aboriginal_Syllabics) | abugida | canadian | left to right | simple signs, turned to tell the vowel
Braille | alphabet | other | left to right | raised dots in two columns of three, for the fingers
Burmese_(Myanmar) | abugida | brahmic | left to right | circles and parts of circles, first written on palm leaves
Cyrillic | alphabet | greek | left to right | the letters of Russian, after those of Greek
Early_Aramaic | abjad | semitic | right to left | letters of few straight strokes, after those of Phoenician
Futurama | alphabet | invented | left to right | made for a comedy in the future, a sign for each letter of English
Ge_ez | abugida | semitic | left to right | letters of Ethiopia on legs, changed to tell the vowel
Glagolitic | alphabet | greek | left to right | the oldest letters of Slavonic, with loops and triangles
Grantha | abugida | brahmic | left to right | round letters for Sanskrit in the south of India
Greek | alphabet | greek | left to right | from alpha to omega
Gujarati | abugida | brahmic | left to right | letters as of Hindi without the line that they hang from
Gurmukhi | abugida | brahmic | left to right | letters of Punjabi that hang from a line
Hebrew | abjad | semitic | right to left | square letters, from aleph to tav
Inuktitut_(Canadian_Aboriginal_Syllabics) | abugida | canadian | left to right | simple signs, turned to tell the vowel
Japanese_(hiragana) | syllabary | kana | top to bottom | a sign for each syllable, flowing and round
Japanese_(katakana) | syllabary | kana | top to bottom | a sign for each syllable, of few straight strokes
Kannada | abugida | brahmic | left to right | round letters with a hook on top, from the south of India
Keble | alphabet | invented | left to right | made for fun, a sign for each letter of English
Korean | alphabet | other | left to right | straight strokes and circles that show how the mouth forms a sound
Latin | alphabet | greek | left to right | the letters of English, from a to z
Malay_(Jawi_-_Arabic) | abjad | semitic | right to left | flowing letters of Arabic with dots, for Malay
Malayalam | abugida | brahmic | left to right | round letters with loops, from the south of India
Manipuri | abugida | brahmic | left to right | letters named after parts of the body, from the east of India
Mkhedruli_(Georgian) | alphabet | caucasian | left to right | the letters of Georgian today, round with hooks
Mongolian | alphabet | semitic | top to bottom | letters on one upright line, with teeth and loops
N_Ko | alphabet | other | right to left | letters on a line for languages of West Africa
Ojibwe_(Canadian_Aboriginal_Syllabics) | abugida | canadian | left to right | simple signs, turned to tell the vowel
Old_Church_Slavonic_(Cyrillic) | alphabet | greek | left to right | the first letters of Cyrillic, after those of Greek
Oriya | abugida | brahmic | left to right | letters under a round arch, first written on palm leaves
Sanskrit | abugida | brahmic | left to right | letters of Devanagari that hang from a line
Sylheti | abugida | brahmic | left to right | letters that hang from a line, from the north-east of Bengal
Syriac_(Estrangelo) | abjad | semitic | right to left | the oldest letters of Syriac, round and joined
Syriac_(Serto) | abjad | semitic | right to left | flowing letters of western Syriac, joined
Tagalog | abugida | brahmic | left to right | few flowing strokes, from the Philippines
Tengwar | alphabet | invented | left to right | made for elves in a novel, bows on stems
Tibetan | abugida | brahmic | left to right | letters that hang from a line, with long stems
Tifinagh | alphabet | other | left to right | circles, crosses, dots and lines, for Berber languages
ULOG | alphabet | invented | left to right | made for fun, a sign for each letter of English
"""
"""Name, kind, family, direction, and a few words."""


def about_alphabets(names: list[str]) -> list[About]:
    """What descriptors can tell of these alphabets: three fields as the specification, and a sentence."""
    lines = [[part.strip() for part in line.split("|")] for line in FACTS.strip().splitlines()]
    known = {name: facts for name, *facts in lines}
    return [_about(name, *known[name]) if name in known else About(name=name) for name in names]


def _about(name: str, kind: str, family: str, direction: str, words: str) -> About:
    fields = {"kind": kind, "family": family, "direction": direction}
    said = name.replace("_", " ")
    return About(name=name, specification=fields, text=f"{said}, {family} {kind}, written {direction}: {words}")
