"""`gpt2x convert` and `gpt2x info`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from gpt2x import backends, cli
from gpt2x.checkpoint import open_checkpoint
from support.golden_data import FILES, GOLDEN


def run(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_convert_and_verify(tmp_path):
    output = succeed("convert", FILES / "openai", tmp_path / "new", "--verify")
    assert "Wrote 28 tensors" in output
    assert "Largest difference: 0\n" in output
    with open_checkpoint(tmp_path / "new") as checkpoint:
        assert checkpoint.format == "safetensors"
    assert (tmp_path / "new" / "vocab.json").is_file()


def test_convert_takes_its_options(tmp_path):
    options = ["--to", "pytorch", "--dtype", "bfloat16", "--max-shard-size", "20KB"]
    succeed("convert", FILES / "source", tmp_path / "new", *options)
    with open_checkpoint(tmp_path / "new") as checkpoint:
        assert checkpoint.format == "pytorch"
        assert len(checkpoint.files) > 1
        assert checkpoint["wte.weight"].dtype.name == "bfloat16"
    output = run("convert", FILES / "source", tmp_path / "new").output
    assert "exists" in output
    assert "--overwrite" in output
    succeed("convert", FILES / "source", tmp_path / "new", "--overwrite", "--to", "pytorch")
    output = succeed(
        "convert", FILES / "source", tmp_path / "x.gguf", "--to=gguf", "--dtype=q8_0", "--verify"
    )
    difference = output.rpartition("Largest difference: ")[2].split()[0]
    assert 0 < float(difference) < 0.02


def test_an_adapter_is_merged(tmp_path):
    adapter = GOLDEN / "lora" / "language_model"
    succeed("convert", GOLDEN / "plain", tmp_path / "new", "--verify", "--merge-adapter", adapter)
    with (
        open_checkpoint(GOLDEN / "plain") as old,
        open_checkpoint(tmp_path / "new") as new,
        safe_open(adapter / "adapter_model.safetensors", "np") as factors,
    ):
        layer = "h.1.mlp.c_proj"
        a, b = (
            factors.get_tensor(f"base_model.model.transformer.{layer}.lora_{part}.weight")
            for part in "AB"
        )
        expected = old[f"{layer}.weight"].read() + 3 / 4**0.5 * (b @ a).T
        np.testing.assert_allclose(new[f"{layer}.weight"].read(), expected, rtol=1e-5, atol=1e-6)
        saved = factors.get_tensor("base_model.model.transformer.ln_f.weight")
        np.testing.assert_array_equal(new["ln_f.weight"].read(), saved)
        np.testing.assert_array_equal(new["wte.weight"].read(), old["wte.weight"].read())
    done = run("convert", GOLDEN / "untied", tmp_path / "x", "--merge-adapter", adapter)
    assert done.exit_code == 1
    assert "does not fit the model" in done.output
    assert not (tmp_path / "x").exists()


def test_dry_run_prints_the_plan(tmp_path):
    output = succeed("convert", FILES / "openai", tmp_path / "new", "--dry-run")
    assert "tf-checkpoint -> safetensors" in output
    assert "h.1.attn.c_attn.weight" in output
    assert "32 x 96" in output
    assert "29,088 parameters" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all", "x"], "There is no folder"),
        ([FILES / "source", "x", "--to", "onnx"], "to is 'onnx'; allowed are"),
        ([FILES / "source", "x", "--from", "gguff"], "Did you mean 'gguf'"),
        ([FILES / "source", "x", "--dtype", "int4"], "dtype is 'int4'"),
    ],
)
def test_bad_arguments_give_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run("convert", *arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_number_of_heads(tmp_path):
    folder = shutil.copytree(FILES / "source", tmp_path / "source")
    (folder / "config.json").unlink()
    assert "pass n_head" in run("convert", folder, tmp_path / "new").stderr
    assert json.loads(succeed("info", folder, "--json", "--n-head", "2"))["config"]["n_head"] == 2
    succeed("convert", folder, tmp_path / "new", "--n-head", "2")
    assert json.loads((tmp_path / "new" / "config.json").read_text())["n_head"] == 2


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize(
    ("backend", "to", "name"),
    [("flax", "orbax", "model"), ("tf", "keras-tf", "model.keras")],
)
def test_the_files_of_frameworks(tmp_path, backend, to, name):
    arguments = ["convert", FILES / "source", tmp_path / name, "--to", to, "--verify"]
    if not backends.is_installed(backend):
        assert f'pip install "gpt2x[{backend}]"' in run(*arguments).stderr
        assert list(tmp_path.iterdir()) == []
        return
    assert "Largest difference: 0\n" in succeed(*arguments)
    found = json.loads(succeed("info", "--json", tmp_path / name))
    assert (found["format"], found["config"]["n_head"]) == (to, 2)
    assert found["missing"] == found["extra"] == found["mismatched"] == []
    succeed("convert", tmp_path / name, tmp_path / "back")
    with (
        open_checkpoint(tmp_path / "back") as back,
        open_checkpoint(FILES / "source") as source,
    ):
        for key, tensor in source.items():
            assert back[key].read().tobytes() == tensor.read().tobytes()


def test_the_destination_tells_the_format(tmp_path):
    output = succeed("convert", FILES / "source", tmp_path / "x.gguf", "--dry-run")
    assert "safetensors -> gguf" in output
    assert "files: x.gguf\n" in output
    assert "tokenizer: merges.txt, vocab.json\n" in output
    done = run("convert", FILES / "source", tmp_path / "model.safetensors")
    assert "is written as a folder; name a folder" in done.stderr


def test_info_as_a_table():
    output = succeed("info", FILES / "gpt_2_simple")
    for text in (
        "tf-checkpoint",
        "n_layer 2, n_head 2, n_embd 32, n_positions 16, vocab_size 97",
        "GPT2LMHeadModel, 29,088 parameters",
        "tokenizer: merges.txt, vocab.json",
        "missing: none",
        "extra: none",
        "no weight of the model (optimizer slot or counter)",
    ):
        assert text in output


def test_info_as_json():
    folder = GOLDEN / "formats" / "bin_buffers"
    config = json.loads((folder / "config.json").read_text())
    found = json.loads(succeed("info", "--json", folder))
    assert found["format"] == "pytorch"
    assert found["architecture"] == "GPT2LMHeadModel"
    assert found["config"].items() >= {k: config[k] for k in ("n_embd", "n_layer")}.items()
    wte = next(tensor for tensor in found["tensors"] if tensor["name"] == "wte.weight")
    assert wte == {
        "name": "wte.weight",
        "shape": [config["vocab_size"], config["n_embd"]],
        "dtype": "float32",
        "source_name": "transformer.wte.weight",
    }
    assert found["missing"] == found["extra"] == found["mismatched"] == []
    assert set(found["ignored"].values()) == {"causal-mask buffer"}


def test_info_tells_what_is_missing_or_extra(tmp_path):
    import numpy as np
    import safetensors.numpy

    arrays = safetensors.numpy.load_file(FILES / "source" / "model.safetensors")
    del arrays["ln_f.bias"]
    arrays["more"] = np.zeros(2, np.float32)
    arrays["wpe.weight"] = arrays["wpe.weight"][:5]
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    shutil.copy(FILES / "source" / "config.json", tmp_path)
    found = json.loads(succeed("info", "--json", tmp_path))
    assert found["missing"] == ["ln_f.bias"]
    assert found["extra"] == ["more"]
    assert found["mismatched"] == ["wpe.weight"]


def test_info_prints_names_as_they_are(tmp_path):
    import numpy as np
    import safetensors.numpy

    folder = shutil.copytree(FILES / "source", tmp_path / "a [model]")
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    arrays |= {name: np.zeros(2, np.float32) for name in ("[/b]", "[red]c", "d\x1b[31m")}
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    output = succeed("info", folder)
    assert "extra: [/b], [red]c, d\\x1b[31m\n" in output
    assert "\x1b" not in output
