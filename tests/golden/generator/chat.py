"""Chats that transformers 4's tokenizers render and encode with templates of several kinds."""

from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import GPT2Tokenizer, GPT2TokenizerFast
from transformers.utils import get_json_schema

from .files import write_json
from .tools import TOOLS

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    # Line breaks after blocks and spaces before them are not part of the text.
    "lines": """{{- bos_token }}
{% for message in messages %}
    {% if message.role == "user" %}
    User: {{ message.content }}
    {%- elif message.role == 'assistant' %}

Assistant:{{ ' ' ~ message.content | trim }}{{ eos_token }}

    {%- else %}
  ({{ message.role | upper }}) {{ message.content }}
\t{% endif %}
{% endfor %}
{%- if add_generation_prompt %}
Assistant:
{%- endif %}
""",
    "llama": (
        "{% if messages[0]['role'] == 'system' %}"
        "{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}"
        "{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}"
        "{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}"
        "{% if loop.index0 == 0 and system %}"
        "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "generation": (
        "{% for message in messages %}"
        "{% if message['role'] == 'assistant' %}"
        "Bot: {% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}\n"
        "{%- else %}{{ message['role'] }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    ),
    "tools": (
        "{%- if tools %}# Tools\n{% for tool in tools %}{{ tool | tojson }}\n"
        "{{ tool | tojson(indent=2, sort_keys=true) }}\n{% endfor %}{% endif %}"
        "{%- for document in documents or [] %}[{{ loop.index }}] {{ document.title }}: "
        "{{ document['text'] }}\n{% endfor %}"
        "{%- for message in messages %}{{ message.role }}: "
        "{%- if message.tool_calls is defined %}"
        "{%- for call in message.tool_calls %}{{ call.function.name }}"
        "({{ call.function.arguments | tojson(separators=(',', ':')) }})"
        "{% if not loop.last %}, {% endif %}{% endfor %}"
        "{%- else %}{{ message.content }}{% endif %}\n{% endfor %}"
    ),
    "loops": (
        "{%- set ns = namespace(n=0) -%}"
        "{%- macro say(m, mark='*') -%} {{ mark }}{{ m.role }}{{ mark }}: {{ m.content }} "
        "{%- endmacro -%}"
        "{%- for m in messages -%}{%- if m.role == 'system' -%}{%- continue -%}{%- endif -%}"
        "{%- if ns.n >= 2 -%}{%- break -%}{%- endif -%}{%- set ns.n = ns.n + 1 -%}"
        "{{ say(m) }}{{ say(m, mark=tag or '-') }}|{%- endfor -%}"
        "{{ ns.n }} {{ missing }}{{ messages | length }} "
        "{{ messages | map(attribute='role') | join(',') }}"
    ),
    "parts": (
        "{% for m in messages %}{{ m.role }}={% if m.content is string %}{{ m.content }}"
        "{% else %}{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
        "{% else %}<{{ part.type }}>{% endif %}{% endfor %}{% endif %};{% endfor %}"
    ),
    "specials": (
        "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ sep_token }}"
        "{{ additional_special_tokens }}{{ add_generation_prompt }}{{ tools }}{{ documents }}"
    ),
    "shortening": "{% for m in messages %}{{ m.content[:3] }}{% endfor %}",
    "forbidden": "{{ messages.append(1) }}",
    "escape": "{{ messages.__class__.__mro__ }}{{ ''.__class__ }}",
    "format": "{{ '{0.__class__}'.format(messages) }}",
    "broken": "{% for m in messages %}{{ m.content }}",
}

USER = {"role": "user", "content": "The cat sat <here> & there. "}
ANSWER = {"role": "assistant", "content": "  Ünï 中文 😀 did it.\n"}
SYSTEM = {"role": "system", "content": "Be brief."}
CHAT = [SYSTEM, USER, ANSWER]
LONGER = [*CHAT, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No more"}]
CALL = {
    "role": "assistant",
    "tool_calls": [
        {"function": {"name": "weather", "arguments": {"city": "Genève", "days": 2}}},
        {"function": {"name": "now", "arguments": {}}},
    ],
}
PARTS = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "one "},
            {"type": "image"},
            {"type": "text", "text": "two "},
        ],
    }
]
TITLES = [{"title": "A", "text": "<a> & é"}, {"title": "B", "text": "b"}]
SCHEMA = {"type": "function", "function": {"name": "f", "parameters": {}}}

# Name: template, then arguments. Tools that are strings name functions of `tools`.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chatml": ("chatml", {"conversation": LONGER}),
    "chatml_prompt": ("chatml", {"conversation": CHAT[:2], "add_generation_prompt": True}),
    "chatml_batch": ("chatml", {"conversation": [CHAT, LONGER], "padding": True}),
    "chatml_batch_of_one": ("chatml", {"conversation": [CHAT]}),
    "chatml_truncated": ("chatml", {"conversation": LONGER, "truncation": True, "max_length": 7}),
    "chatml_continue": ("chatml", {"conversation": CHAT, "continue_final_message": True}),
    "chatml_continue_batch": (
        "chatml",
        {"conversation": [CHAT, LONGER], "continue_final_message": True},
    ),
    "lines": ("lines", {"conversation": LONGER}),
    "lines_prompt": ("lines", {"conversation": LONGER, "add_generation_prompt": True}),
    "lines_continue": ("lines", {"conversation": CHAT, "continue_final_message": True}),
    "llama": ("llama", {"conversation": LONGER}),
    "llama_without_system": ("llama", {"conversation": LONGER[1:]}),
    "llama_refuses": ("llama", {"conversation": [USER, USER]}),
    "llama_continue": ("llama", {"conversation": CHAT, "continue_final_message": True}),
    "generation": ("generation", {"conversation": LONGER}),
    "generation_batch": ("generation", {"conversation": [CHAT, LONGER], "padding": True}),
    "generation_truncated": (
        "generation",
        {"conversation": LONGER, "truncation": True, "max_length": 45},
    ),
    "tools": ("tools", {"conversation": [USER, CALL], "tools": ["weather", "now", SCHEMA]}),
    "documents": ("tools", {"conversation": [USER], "documents": TITLES}),
    "no_tools": ("tools", {"conversation": [USER], "tools": []}),
    "loops": ("loops", {"conversation": LONGER}),
    "loops_variable": ("loops", {"conversation": LONGER, "tag": "#"}),
    "parts": ("parts", {"conversation": PARTS}),
    "parts_continue": ("parts", {"conversation": PARTS, "continue_final_message": True}),
    "specials": ("specials", {"conversation": CHAT}),
    "specials_replaced": ("specials", {"conversation": CHAT, "bos_token": "<mine>"}),
    "shortening": ("shortening", {"conversation": CHAT}),
    "shortening_continue": ("shortening", {"conversation": CHAT, "continue_final_message": True}),
    "forbidden": ("forbidden", {"conversation": CHAT}),
    "escape": ("escape", {"conversation": CHAT}),
    "format": ("format", {"conversation": CHAT}),
    "broken": ("broken", {"conversation": CHAT}),
}


def write_chat(out: Path) -> None:
    """Texts, ids and masks of every case, and the schemas of the tools."""
    folder = out / "tokenizer"
    tokenizers = [cls.from_pretrained(folder / "tiny_fast_4") for cls in CLASSES]
    cases = {
        name: {"template": template, "arguments": arguments, **chat(tokenizers, name)}
        for name, (template, arguments) in CASES.items()
    }
    write_json(folder / "chat.json", {"templates": TEMPLATES, "cases": cases})
    schemas = {name: get_json_schema(function) for name, function in TOOLS.items()}
    write_json(folder / "schemas.json", schemas)


CLASSES = (GPT2Tokenizer, GPT2TokenizerFast)


def chat(tokenizers: list[Any], name: str) -> dict[str, Any]:
    """What both tokenizers give for a case; the fast one's mask, where there is one."""
    template, arguments = CASES[name]
    tools = arguments.get("tools")
    if tools is not None:
        tools = [TOOLS.get(tool, tool) if isinstance(tool, str) else tool for tool in tools]
    options = {**arguments, "tools": tools, "chat_template": TEMPLATES[template]}
    try:
        text = tokenizers[0].apply_chat_template(tokenize=False, **options)
    except (TemplateError, ValueError) as error:
        return {"error": type(error).__name__, "message": str(error)}
    slow, fast = (tokenizer.apply_chat_template(**options) for tokenizer in tokenizers)
    if slow != fast:
        raise RuntimeError(f"slow and fast tokenizer differ on {name}")
    recorded = {"text": text, "ids": fast}
    if template == "generation":
        encoded = tokenizers[1].apply_chat_template(
            return_dict=True, return_assistant_tokens_mask=True, **options
        )
        recorded["mask"] = encoded["assistant_masks"]
    return recorded
