"""Strings for the tokenizers: ordinary ones, and each kind that has broken a tokenizer before."""

import unicodedata

import numpy as np

ENGLISH = [
    "",
    " ",
    "Hello world",
    "Hello, world! How are you?",
    "The quick brown fox jumps over the lazy dog.",
    "To be, or not to be: that is the question.",
    "In the beginning God created the heaven and the earth.",
    "Once upon a time, there was a princess who lived in 3 castles.",
    " leading space",
    "trailing space ",
    "  two leading",
    "two trailing  ",
    "many      spaces   inside",
    "Tokenization of uncharacteristically long words, e.g. antidisestablishmentarianism.",
    "UPPERCASE lowercase MiXeD CamelCaseWords snake_case_words kebab-case-words",
    "a",
    "I",
    ".",
    "...",
    "Wait... what?!?! No --- really",
    "(parentheses) [brackets] {braces} <angles>",
    "email@example.com https://example.com/path?query=1&other=2#fragment",
    "$1,234.56 + 7% = ~1,321.05; 3/4 of 1e-5 is 7.5e-6",
    "1234567890 12345 123 1 007 3.14159",
    "2024-05-17T12:34:56Z",
    "Mr. O'Neill didn't think the boys' stories about Chile's capital aren't amusing.",
    "The U.S.A.'s policy, Dr. Smith's idea; John's and Mary's.",
    "\"Quoted\" and 'single quoted' and “curly” and ‘single curly’",
]
CONTRACTIONS = [
    "I'm you're he's we've they'll I'd can't",
    "I'M YOU'RE HE'S WE'VE THEY'LL I'D CAN'T",
    "'s 't 're 've 'm 'll 'd",
    "'S 'T 'RE 'VE 'M 'LL 'D",
    "it's'll've",
    "'sname 'tis 'reel 'veto 'mouse 'llama 'dog",
    "''s '' ' 's' 'l 'r 'v",
    "l'été d'accord qu'il aujourd'hui",
    "it’s don’t we’re",
    " 's  's\t's\n's",
    "1's 2'd 3'll !'s _'t",
    "é'ſ 'ſ I'll'",
]
CODE = [
    "def f(x: int) -> int:\n    return x ** 2 + 1\n",
    "for (int i = 0; i < n; ++i) { sum += a[i]; }",
    "if __name__ == '__main__':\n\tmain()\n",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x' -- comment",
    '{"key": [1, 2.5, null, true], "nested": {"a": "b"}}',
    '<html><body class="x">&amp;</body></html>',
    "\\begin{equation} \\alpha_{i}^2 \\leq \\frac{1}{2} \\end{equation}",
    "#!/bin/bash\necho \"$HOME\" | sed 's/a/b/g' >> out.txt 2>&1",
    "x = [i for i in range(10) if i % 2 == 0]  # even",
    "\t\tindented\n\t\t\tmore\n        spaces\n",
    "0xDEADBEEF 0b1010 1_000_000 1e10 .5 5.",
    "a+=b&&c||!d^e~f@g`h`",
]
WHITE_SPACE = [
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    " \n ",
    "a\nb",
    "a\n\nb",
    "a \n b",
    "a\r\nb\r\nc",
    "a\tb\t\tc",
    " \t \n \r ",
    "line\n   indented",
    "end   \n",
    "a\x0bb\x0cc",
    "a\x1cb\x1dc\x1ed\x1fe",
    "a\x85b",
    "a \x85 b",
    "a\u00a0b",
    "a \u00a0 b",
    "\u00a0\u00a0a",
    "a\u1680b",
    "a\u2000b\u2001c\u2002d\u2003e\u2004f\u2005g\u2006h\u2007i\u2008j\u2009k\u200al",
    "a\u2028b\u2029c",
    "a\u202fb\u205fc\u3000d",
    "全角\u3000空白",
    "a\u200bb\u2060c\ufeffd",
    "\ufeffBOM first",
    "a\u180eb",
    "   \u3000\u3000  x",
    "x \u2028\u2028 y",
    "a  \n  \n  b",
]
CONTROL = [
    "\x00",
    "a\x00b",
    "\x00\x00\x00",
    " \x00 ",
    "".join(map(chr, range(32))),
    "\x7f\x80\x81\x9f\xa0\xad",
    "\x1b[31mred\x1b[0m",
    "bell\x07 back\x08space",
    "\ufffd \ufffe \uffff",
    "\U0010ffff \U000f0000 \ue000",
    "soft\u00adhyphen zero\u200bwidth\u200cnon\u200djoiner",
    "\u200eleft\u200fright\u202aembedded\u202c",
]
SCRIPTS = [
    "Ça coûte très cher à Noël, n'est-ce pas, Zoë?",
    "Größe, Straße, Übermut, Äpfel, Öl",
    "El niño comió piñas; ¿cuándo? ¡Ahora!",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Zażółć gęślą jaźń",
    "Árvíztűrő tükörfúrógép",
    "İstanbul'da ığdır şöyle",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "Їжак із ґанку",
    "Η γρήγορη καφέ αλεπού",
    "Հայերեն տեքստ",
    "ქართული ენა",
    "שלום עולם, מה שלומך?",
    "שָׁלוֹם",
    "مرحبا بالعالم، كيف حالك؟",
    "العَرَبِيَّة ١٢٣٤٥",
    "فارسی می‌نویسم",
    "اردو زبان",
    "नमस्ते दुनिया, कैसे हो? १२३",
    "বাংলা ভাষা ৪৫৬",
    "தமிழ் மொழி",
    "తెలుగు భాష",
    "ภาษาไทยไม่มีช่องว่าง",
    "ພາສາລາວ",
    "မြန်မာဘာသာ",
    "ភាសាខ្មែរ",
    "བོད་སྐད་",
    "አማርኛ ፊደል",
    "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ",
    "你好,世界!今天天气怎么样?",
    "漢字とひらがなとカタカナ、半角カナ",
    "日本語のテキスト。123円",
    "한국어 텍스트입니다. 각각",
    "Tiếng Việt có dấu",
    "ᠮᠣᠩᠭᠣᠯ",
    "𐌲𐌿𐍄𐌹𐍃𐌺 𝔉𝔯𝔞𝔨𝔱𝔲𝔯 𝟏𝟐𝟑 𐎀𐎁",
    "𠀀𠀁𪚥",
    "ÀÁÂÃÄÅ àáâãäå ĀāĂ㥹",
    "ﬁ ﬂ ligatures ﬀ ﬃ",
    "Ω≈ç√∫˜µ≤≥÷ ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋",
    "x² + y³ = z¹ ½ ¼ ⅓ Ⅳ ⅷ ① ⑵ ㊿",
    "٠١٢٣ ۰۱۲۳ ०१२३ ০১২৩ ๐๑๒๓ ０１２３",
    "€ £ ¥ ₹ ₿ ¢ ₽",
    "→ ⇒ ↑ ■ ▲ ♠ ♥ ♦ ♣ ☃ ✓ ✗",
    "ａｂｃ ＡＢＣ ！？",
    "ǅ ǈ ǋ ʰ ˈ ͺ ª º",
]
MARKS = [
    "e\u0301 vs é",
    "a\u0308\u0304o\u0302\u0323",
    "\u0301",
    " \u0301a",
    "n\u0303o\u0308",
    "Z\u0351\u036b\u0343a\u0322\u0306l\u0334\u0313g\u034ao\u0351",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8",
    "क\u094dष",
    "a\u20ddb\u20e3",
    "1\u20e3 #\u20e3",
    "\u0308\u0308\u0308",
    "word\u0301s and\u0301 1\u0301 2",
]
EMOJI = [
    "😀",
    "😀😁😂",
    "I ❤️ you 💕!",
    "👨‍👩‍👧‍👦",
    "👩🏽‍💻 👍🏿 🤦🏼‍♂️",
    "🏳️‍🌈 🏴‍☠️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "🇫🇷🇩🇪 🇯🇵",
    "✌🏻☝️⛹️‍♀️",
    "a😀b 1😀2 .😀.",
    "❤ ❤\ufe0e ❤\ufe0f",
    "🫠🫡🫶",
    "™ © ® ℗",
]
SPECIAL = [
    "<|endoftext|>",
    "a<|endoftext|>b",
    "a <|endoftext|> b",
    "<|endoftext|><|endoftext|>",
    "Hello.<|endoftext|>\nNext document",
    "  <|endoftext|>  ",
    "<|endoftext",
    "<|endoftext |>",
    "<|ENDOFTEXT|>",
    "<<|endoftext|>>",
    "\n<|endoftext|>\n",
    "<|endoftext|>'s",
    "é<|endoftext|>é",
    "<pad><s></s><unk>[MASK]",
]
REPEATS = [
    "a" * 100,
    "ab" * 50,
    " " * 17,
    "\n" * 9,
    "=" * 33,
    "-" * 80,
    "ha" * 20 + "!" * 20,
    "的" * 12,
    "0" * 30,
    "aA" * 10,
]

# Letters and numbers of Unicode 15.1 to 17, which programs with other tables split differently.
RECENT = [
    "a\U0002ebf0b",  # CJK extension I, Unicode 15.1
    "a\U00010d4ab",  # Garay letter, Unicode 16
    "x\U00010d40\U00010d415",  # Garay digits, Unicode 16
    " \U00011380 \U00011390",  # Tulu-Tigalari, Unicode 16
    "\ua7cb\ua7cc\ua7da\ua7dc",  # Latin letters, Unicode 16
    "a\ua7ceb",  # Latin letter, Unicode 17
    "a\U00016ea0b",  # Beria Erfe, Unicode 17
    "\U000323b0\U000323b1x",  # CJK extension J, Unicode 17
    "\U00011de0\U00011de1",  # Tolong Siki digits, Unicode 17
]

RANDOM_SEED = 600


def texts() -> list[str]:
    """Every string."""
    groups = (
        ENGLISH,
        CONTRACTIONS,
        CODE,
        WHITE_SPACE,
        CONTROL,
        SCRIPTS,
        MARKS,
        EMOJI,
        SPECIAL,
        REPEATS,
        RECENT,
        random_texts(90),
    )
    return [text for group in groups for text in group]


def random_texts(count: int) -> list[str]:
    """Strings over characters assigned since Unicode 3.2, dense in what the split looks at."""
    generator = np.random.default_rng(RANDOM_SEED)
    dense = [*" \n\t'’sStTrReEvVlLdDmM019.,-_éß中ñ", "\u00a0", "\u3000", "\u0301", "\u200d", "😀"]
    assigned = [
        chr(code)
        for code in range(0x30000)
        if unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Cs", "Co")
    ]
    strings = []
    for _ in range(count):
        length = int(generator.integers(1, 24))
        share = generator.choice([0.0, 0.3, 0.8])
        strings.append(
            "".join(
                assigned[generator.integers(len(assigned))]
                if generator.random() < share
                else dense[generator.integers(len(dense))]
                for _ in range(length)
            )
        )
    return strings
