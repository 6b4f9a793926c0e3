"""Chat templates, against what transformers 4.57.6 renders (`tests/golden/README.md`)."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from golden.generator.tools import TOOLS
from gpt2x.errors import InvalidInputError
from gpt2x.tokenization import GPT2TokenizerFast
from gpt2x.tokenization.chat import ChatFormatter, choose_template
from support.golden_data import load_json
from support.hub_server import files_of, serve_hub

jinja2 = pytest.importorskip("jinja2")

GOLDEN = load_json("tokenizer/chat.json")
TEMPLATES, CASES = GOLDEN["templates"], GOLDEN["cases"]

CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi  there"}]
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
MARKED = (
    "{% for m in messages %}"
    "{{ m.role }}:{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}"
)


def arguments_of(case):
    arguments = {"chat_template": TEMPLATES[case["template"]], **case["arguments"]}
    if "tools" in arguments:
        tools = arguments["tools"]
        arguments["tools"] = [TOOLS[t] if isinstance(t, str) else t for t in tools]
    return arguments


@pytest.mark.parametrize("name", CASES)
def test_golden(name, tiny):
    case = CASES[name]
    arguments = arguments_of(case)
    if "error" in case:
        error = InvalidInputError if case["error"] == "ValueError" else jinja2.TemplateError
        with pytest.raises(error) as caught:
            tiny.apply_chat_template(tokenize=False, **arguments)
        if error is not InvalidInputError:
            assert type(caught.value).__name__ == case["error"]
            assert str(caught.value) == case["message"]
        return
    assert tiny.apply_chat_template(tokenize=False, **arguments) == case["text"]
    assert tiny.apply_chat_template(**arguments) == case["ids"]
    if "mask" in case and tiny.is_fast:
        encoded = tiny.apply_chat_template(
            return_dict=True, return_assistant_tokens_mask=True, **arguments
        )
        assert encoded["input_ids"] == case["ids"]
        assert encoded["assistant_masks"] == case["mask"]


def test_messages_in_an_array(tiny):
    """As datasets and data frames hold them."""
    chat = np.empty(2, dtype=object)
    chat[:] = CHAT
    options = {"chat_template": PLAIN, "tokenize": False}
    for continued in (False, True):
        text = tiny.apply_chat_template(chat, continue_final_message=continued, **options)
        assert text == tiny.apply_chat_template(CHAT, continue_final_message=continued, **options)


def test_messages_stay_as_they_are(tiny):
    chat = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    before = json.dumps(chat)
    template = TEMPLATES["parts"]
    tiny.apply_chat_template(chat, chat_template=template, continue_final_message=True)
    assert json.dumps(chat) == before


def test_objects_with_messages(tiny):
    conversation = SimpleNamespace(messages=CHAT)
    text = tiny.apply_chat_template(CHAT, chat_template=PLAIN, tokenize=False)
    one = tiny.apply_chat_template(conversation, chat_template=PLAIN, tokenize=False)
    assert one == text
    two = tiny.apply_chat_template([conversation, CHAT], chat_template=PLAIN, tokenize=False)
    assert two == [text, text]


def test_return_dict_and_tensors(tiny):
    encoded = tiny.apply_chat_template(
        [CHAT, CHAT[:1]],
        chat_template=PLAIN,
        padding=True,
        return_dict=True,
        return_tensors="np",
        tokenizer_kwargs={"return_length": True, "padding_side": "left"},
    )
    assert set(encoded) == {"input_ids", "attention_mask", "length"}
    assert encoded["attention_mask"].shape == encoded["input_ids"].shape
    assert encoded["attention_mask"][1, 0] == 0
    ids = tiny.apply_chat_template(CHAT, chat_template=PLAIN, return_tensors="np")
    assert ids.shape == (1, encoded["length"][0])


def test_no_special_tokens_are_added(tiny_folder, tokenizer_class):
    tokenizer = tokenizer_class.from_pretrained(tiny_folder, add_bos_token=True)
    assert tokenizer.bos_token_id not in tokenizer.apply_chat_template(CHAT, chat_template=PLAIN)


def test_strftime_now(tiny):
    text = tiny.apply_chat_template(CHAT, chat_template="{{ strftime_now('%Y') }}", tokenize=False)
    assert abs(int(text) - datetime.datetime.now().year) <= 1


# Templates ----------------------------------------------------------------------------------------


def test_named_templates(tiny):
    tiny.chat_template = {"default": "d", "tool_use": "t", "rag": "r"}
    assert tiny.get_chat_template() == "d"
    assert tiny.get_chat_template(tools=[]) == "t"
    assert tiny.get_chat_template("rag", tools=[]) == "r"
    assert tiny.get_chat_template("{{ x }}") == "{{ x }}"
    assert tiny.apply_chat_template(CHAT, tokenize=False) == "d"
    assert tiny.apply_chat_template(CHAT, chat_template="rag", tokenize=False) == "r"
    del tiny.chat_template["default"]
    with pytest.raises(InvalidInputError, match="several chat templates, 'rag', 'tool_use'"):
        tiny.get_chat_template()


def test_the_formatter_alone():
    chats = ChatFormatter(MARKED).render([CHAT, CHAT[:1]], variables={})
    assert chats.texts == ["user:Helloassistant:Hi  there", "user:Hello"]
    assert chats.spans == [[(5, 10), (20, 29)], [(5, 10)]]
    assert chats.is_batch
    left_open = ChatFormatter(PLAIN + "{{ end }}").render(
        CHAT, continue_final_message=True, variables={"end": "!"}
    )
    assert left_open.texts == ["user: Hello\nassistant: Hi  there"]
    assert not left_open.is_batch
    assert choose_template({"default": "d", "tool_use": "t"}, tools=[]) == "t"


def test_without_a_template(tiny):
    for call in (tiny.get_chat_template, lambda: tiny.apply_chat_template(CHAT)):
        with pytest.raises(ValueError, match=r"no chat template: .* tokenizer\.chat_template = "):
            call()


def test_constructor_takes_templates(tiny_folder, tokenizer_class):
    listed = [{"name": "default", "template": "a"}, {"name": "other", "template": "b"}]
    for given, expected in (
        ("x", "x"),
        ({"default": "a"}, {"default": "a"}),
        (listed, {"default": "a", "other": "b"}),
    ):
        tokenizer = tokenizer_class.from_pretrained(tiny_folder, chat_template=given)
        assert tokenizer.chat_template == expected
    with pytest.raises(InvalidInputError, match=r'keys "name" and "template"'):
        tokenizer_class.from_pretrained(tiny_folder, chat_template=[{"name": "x"}])


def test_encode_message(tiny):
    tiny.chat_template = PLAIN
    whole = tiny.apply_chat_template(CHAT)
    first = tiny.encode_message_with_chat_template(CHAT[0])
    second = tiny.encode_message_with_chat_template(CHAT[1], CHAT[:1])
    assert first + second == whole
    tiny.chat_template = "{{ messages | length }}" + PLAIN
    assert tiny.encode_message_with_chat_template(CHAT[1], CHAT[:1]) == tiny.apply_chat_template(
        CHAT
    )
    with pytest.raises(InvalidInputError, match="does not take add_generation_prompt"):
        tiny.encode_message_with_chat_template(CHAT[0], add_generation_prompt=True)


# The assistant's tokens ---------------------------------------------------------------------------


@pytest.fixture
def fast(tiny_folder):
    return GPT2TokenizerFast.from_pretrained(tiny_folder, chat_template=MARKED)


def masked(tokenizer, conversation=CHAT, **arguments):
    return tokenizer.apply_chat_template(
        conversation, return_dict=True, return_assistant_tokens_mask=True, **arguments
    )


def words_of(tokenizer, encoded, row):
    ids, mask = np.asarray(encoded["input_ids"])[row], np.asarray(encoded["assistant_masks"])[row]
    return tokenizer.decode(ids[mask == 1])


def test_mask_of_padded_rows_and_tensors(fast):
    for side in ("left", "right"):
        encoded = masked(
            fast,
            [CHAT, CHAT[:1]],
            padding=True,
            return_tensors="np",
            tokenizer_kwargs={"padding_side": side},
        )
        assert encoded["assistant_masks"].shape == encoded["input_ids"].shape
        assert words_of(fast, encoded, 0) == "HelloHi  there"
        assert words_of(fast, encoded, 1) == "Hello"


def test_mask_counts_every_token_of_a_character(fast):
    encoded = masked(fast, [[{"role": "a", "content": "x😀"}, {"role": "b", "content": ""}]])
    assert words_of(fast, encoded, 0) == "x😀"


def test_mask_of_text_that_begins_with_a_block(fast):
    fast.chat_template = "{% generation %}{{ messages[0].content }}{% endgeneration %}!"
    assert words_of(fast, masked(fast, [CHAT]), 0) == "Hello"


def test_mask_of_truncated_and_overflowing_rows(fast):
    fast.truncation_side = "left"
    assert words_of(fast, masked(fast, [CHAT], truncation=True, max_length=3), 0) == "  there"
    fast.truncation_side = "right"
    encoded = masked(
        fast,
        truncation=True,
        max_length=4,
        tokenizer_kwargs={"return_overflowing_tokens": True},
    )
    rows = encoded["input_ids"]
    marked = [
        token_id
        for row, mask in zip(rows, encoded["assistant_masks"], strict=True)
        for token_id, one in zip(row, mask, strict=True)
        if one
    ]
    assert fast.decode(marked) == "HelloHi  there"


def test_mask_without_blocks_is_empty_and_warned_of_once(fast, caplog):
    fast.chat_template = PLAIN
    for _ in range(2):
        assert not any(masked(fast)["assistant_masks"])
    assert [r.message for r in caplog.records if "{% generation %}" in r.message][1:] == []
    assert "marks nothing" in caplog.text


def test_threads_do_not_mix_their_blocks(fast):
    expected = masked(fast)["assistant_masks"]
    wrong = []

    def work():
        for _ in range(20):
            if masked(fast)["assistant_masks"] != expected:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"return_dict": True, "tokenize": False}, "return_dict=True needs tokenize=True"),
        ({"return_assistant_tokens_mask": True}, "needs return_dict=True"),
        (
            {"add_generation_prompt": True, "continue_final_message": True},
            "add_generation_prompt=True opens a new message",
        ),
        ({"tools": [print]}, "neither a function nor a dictionary"),
        ({"documents": ["text"]}, "must be a dictionary with the keys"),
        ({"conversation": []}, "The conversation is empty"),
        ({"conversation": "Hello"}, "is a str; it must be a list of messages"),
        ({"conversation": {"role": "user"}}, "is a dict; it must be a list of messages"),
        ({"conversation": None}, "is a NoneType; it must be a list of messages"),
        ({"chat_template": ["x"]}, "chat_template is a list; it must be a string"),
        (
            {"chat_template": "{{ 'x' + messages[0].content }}", "conversation": [{"content": 1}]},
            "The chat template failed with TypeError: can only concatenate str",
        ),
        ({"chat_template": "{{ 1 / 0 }}"}, "failed with ZeroDivisionError"),
        (
            {"chat_template": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"},
            "failed with RecursionError",
        ),
        ({"chat_template": "{% for a in 'b' %}" * 30 + "{% endfor %}" * 30}, "SyntaxError"),
        (
            {"conversation": [{"role": "a", "content": None}], "continue_final_message": True},
            "needs a final message whose content is a text",
        ),
        (
            {
                "conversation": [{"role": "a", "content": [{"type": "image"}]}],
                "continue_final_message": True,
            },
            "or a list that holds one",
        ),
    ],
)
def test_bad_arguments(tiny, arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        tiny.apply_chat_template(**{"conversation": CHAT, "chat_template": PLAIN, **arguments})


def test_masks_need_the_fast_tokenizer_and_a_finished_chat(tiny):
    tiny.chat_template = MARKED
    with pytest.raises(InvalidInputError, match="contradict"):
        masked(tiny, continue_final_message=True)
    if not tiny.is_fast:
        with pytest.raises(InvalidInputError, match="needs GPT2TokenizerFast"):
            masked(tiny)


def test_without_jinja2_the_error_names_the_extra(tiny_folder):
    code = """
import sys
sys.modules["jinja2"] = None
from gpt2x import GPT2Tokenizer
tokenizer = GPT2Tokenizer.from_pretrained(sys.argv[1], chat_template="x")
try:
    tokenizer.apply_chat_template([{"role": "user", "content": "a"}])
except ImportError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(tiny_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'pip install "gpt2x[chat]"' in done.stdout


# Files --------------------------------------------------------------------------------------------

NAMED = {"default": "d\r\né", "tool_use": "t", "x.y": ""}


def config_of(folder):
    return json.loads((folder / "tokenizer_config.json").read_text())


def test_files_of_one_template(tiny, tokenizer_class, tmp_path):
    tiny.chat_template = NAMED["default"]
    paths = tiny.save_pretrained(tmp_path)
    assert str(tmp_path / "chat_template.jinja") in paths
    assert (tmp_path / "chat_template.jinja").read_bytes() == NAMED["default"].encode()
    assert "chat_template" not in config_of(tmp_path)
    assert tokenizer_class.from_pretrained(tmp_path).chat_template == NAMED["default"]


def test_files_of_named_templates(tiny, tokenizer_class, tmp_path):
    tiny.chat_template = NAMED
    paths = tiny.save_pretrained(tmp_path, filename_prefix=None)
    folder = tmp_path / "additional_chat_templates"
    assert {path.name for path in folder.iterdir()} == {"tool_use.jinja", "x.y.jinja"}
    assert str(folder / "x.y.jinja") in paths
    assert tokenizer_class.from_pretrained(tmp_path).chat_template == NAMED
    tiny.chat_template = {"default": "new", "other": "o"}
    tiny.save_pretrained(tmp_path)
    assert tokenizer_class.from_pretrained(tmp_path).chat_template == tiny.chat_template
    tiny.chat_template = None
    tiny.save_pretrained(tmp_path)
    assert not folder.exists()
    assert tokenizer_class.from_pretrained(tmp_path).chat_template is None


def test_templates_in_tokenizer_config(tiny, tokenizer_class, tmp_path):
    for number, template in enumerate((NAMED, "one")):
        tiny.chat_template = template
        folder = tmp_path / str(number)
        paths = tiny.save_pretrained(folder, save_jinja_files=False)
        assert not any(path.endswith(".jinja") for path in paths)
        assert tokenizer_class.from_pretrained(folder).chat_template == template
    assert config_of(tmp_path / "1")["chat_template"] == "one"
    assert config_of(tmp_path / "0")["chat_template"][1] == {"name": "tool_use", "template": "t"}


def test_files_win_over_tokenizer_config(tiny, tokenizer_class, tmp_path):
    tiny.chat_template = "old"
    tiny.save_pretrained(tmp_path, save_jinja_files=False)
    (tmp_path / "chat_template.jinja").write_text("new")
    assert tokenizer_class.from_pretrained(tmp_path).chat_template == "new"
    assert tokenizer_class.from_pretrained(tmp_path, chat_template="mine").chat_template == "mine"


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a\\b"])
def test_names_that_would_leave_the_folder(tiny, tokenizer_class, tmp_path, name):
    tiny.chat_template = {"default": "d", name: "evil"}
    folder = tmp_path / "model"
    with pytest.raises(InvalidInputError, match="cannot be a file's name"):
        tiny.save_pretrained(folder)
    assert list(tmp_path.iterdir()) == []
    tiny.save_pretrained(folder, save_jinja_files=False)
    assert tokenizer_class.from_pretrained(folder).chat_template == tiny.chat_template


def test_templates_of_the_hub(tiny, tokenizer_class, tmp_path, monkeypatch):
    tiny.chat_template = NAMED
    tiny.save_pretrained(tmp_path / "model")
    with serve_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        server.add("someone/chat", files_of(tmp_path / "model"))
        assert tokenizer_class.from_pretrained("someone/chat").chat_template == NAMED
        again = tokenizer_class.from_pretrained("someone/chat", local_files_only=True)
        assert again.chat_template == NAMED


def test_templates_of_the_hub_without_a_connection(tiny, tokenizer_class, tmp_path, monkeypatch):
    tiny.chat_template = NAMED
    tiny.save_pretrained(tmp_path / "model")
    with serve_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        server.add("someone/chat", files_of(tmp_path / "model"))
        assert tokenizer_class.from_pretrained("someone/chat").chat_template == NAMED
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert tokenizer_class.from_pretrained("someone/chat").chat_template == NAMED
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert tokenizer_class.from_pretrained("someone/chat").chat_template == NAMED
