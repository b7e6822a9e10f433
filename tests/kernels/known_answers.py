"""Random123's known answers (kat_vectors) for Philox4x32-10: counter, key, words."""

_HEXADECIMAL = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
KNOWN_ANSWERS = [
    tuple([int(word, 16) for word in text.split()] for text in known) for known in _HEXADECIMAL
]

#: Samples of image 0 in stream 1 under seed 0, three blocks long: in each, one block has a radius
#: word in the last cells.
FAR_SAMPLES = [2_377_133, 10_450_332, 10_753_315]
#: And samples of integer noise (sigma 0.25, 255 levels) with a word that the guide does not decide.
UNDECIDED_SAMPLES = [50_570, 57_388, 127_181]
#: SHA-256 of 24,576 normals, none of them from the last cells: as before 64 bits divided these.
DIGEST = "51fea0907a84b687d0afa5b023aab07eeb047ee2255bdbbc975b7860dcc9b523"
