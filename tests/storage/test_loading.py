"""The keywords that every from_pretrained takes alike."""

from __future__ import annotations

import shutil

import pytest

from gpt2x import GPT2Config, GPT2Tokenizer, GPT2TokenizerFast
from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerationConfig
from gpt2x.models.loading import resolve
from support.golden_data import GOLDEN


class Model:
    """Stands for the models of all backends, whose keywords go to `resolve`."""

    @staticmethod
    def from_pretrained(name, **kwargs):
        resolve("Model", name, **kwargs).checkpoint.close()


CLASSES = (GPT2Config, GenerationConfig, GPT2Tokenizer, GPT2TokenizerFast, Model)
IGNORED = {
    "trust_remote_code": True,
    "resume_download": None,
    "_from_auto": False,
    "_from_pipeline": "text-generation",
    "use_auth_token": None,
    "proxies": None,
    "low_cpu_mem_usage": True,
    "_fast_init": True,
    "weights_only": True,
    "_commit_hash": None,
    "load_in_8bit": False,
    "quantization_config": None,
    "max_memory": None,
    "adapter_kwargs": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    shutil.copytree(GOLDEN / "plain", path, dirs_exist_ok=True)
    shutil.copytree(GOLDEN / "tokenizer" / "tiny_fast_4", path, dirs_exist_ok=True)
    return path


@pytest.mark.parametrize("cls", CLASSES)
def test_options_that_ask_for_nothing_are_taken_by_every_class(cls, folder):
    cls.from_pretrained(folder, **IGNORED, revision="main", cache_dir=None)


@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_not_here_raises_where_it_is_asked_for(cls, folder):
    with pytest.raises(InvalidInputError, match=r"proxies= is not available: set .*HTTPS_PROXY"):
        cls.from_pretrained(folder, proxies={"https": "example.org:3128"})
    with pytest.raises(InvalidInputError, match="load_in_8bit= is not available"):
        cls.from_pretrained(folder, load_in_8bit=True)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_older_name_of_token(cls, folder):
    with pytest.warns(FutureWarning, match="now called token="):
        cls.from_pretrained(folder, use_auth_token=False)


@pytest.mark.parametrize("cls", [GPT2Config, GenerationConfig])
def test_configs_return_what_is_for_models_as_unused(cls, folder):
    for_a_model = {"low_cpu_mem_usage": True, "load_in_8bit": True, "no_field": 1}
    _, unused = cls.from_pretrained(
        folder, return_unused_kwargs=True, **for_a_model, trust_remote_code=True, proxies=None
    )
    assert unused == for_a_model


def test_the_config_of_a_gguf_file():
    folder = GOLDEN / "llama_cpp"
    config = GPT2Config.from_pretrained(folder / "q8_0.gguf", use_cache=False)
    by_name = GPT2Config.from_pretrained(folder, gguf_file="q8_0.gguf", use_cache=False)
    assert config == by_name
    with resolve("Model", folder / "q8_0.gguf", use_cache=False) as source:
        assert config == source.config
