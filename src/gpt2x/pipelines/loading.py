"""`pipeline`: a task, a model and its tokenizer made ready to be called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gpt2x import backends
from gpt2x.config import GPT2Config
from gpt2x.data import EMBEDDED_MODEL
from gpt2x.errors import InvalidInputError, check_choice
from gpt2x.pipelines.base import Pipeline
from gpt2x.pipelines.feature_extraction import FeatureExtractionPipeline
from gpt2x.pipelines.question_answering import QuestionAnsweringPipeline
from gpt2x.pipelines.text_classification import TextClassificationPipeline
from gpt2x.pipelines.text_generation import TextGenerationPipeline
from gpt2x.pipelines.token_classification import TokenClassificationPipeline
from gpt2x.tokenization import GPT2Tokenizer, GPT2TokenizerFast

#: The pipelines by the names of their tasks.
TASKS: dict[str, type[Pipeline]] = {
    "text-generation": TextGenerationPipeline,
    "text-classification": TextClassificationPipeline,
    "sentiment-analysis": TextClassificationPipeline,
    "token-classification": TokenClassificationPipeline,
    "ner": TokenClassificationPipeline,
    "question-answering": QuestionAnsweringPipeline,
    "feature-extraction": FeatureExtractionPipeline,
}


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    framework: str | None = None,
    backend: str | None = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    trust_remote_code: bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    pipeline_class: type[Pipeline] | None = None,
    **options: Any,
) -> Any:
    """Return a pipeline: a function from texts to what a model of the task says about them.

    Args:
        task: "text-generation", "text-classification" (or "sentiment-analysis"),
            "token-classification" (or "ner"), "question-answering" or "feature-extraction"; by
            default the one that the model has a head for.
        model: a folder, a name on the hub, or a model. Without one, "text-generation" takes the
            embedded model.
        config: a config, or the folder to read it from, in place of the model's own.
        tokenizer: a tokenizer, or the folder or name of one; by default the model's.
        framework: "pt", "tf" or "flax" to load the model in; by default the model's own, or the
            first that is installed. `backend` is another name for it.
        revision, token: where to look on the hub.
        use_fast: whether to load GPT2TokenizerFast, rather than GPT2Tokenizer.
        device: see `Pipeline`. A model that is loaded here goes to the first accelerator if there
            is one; a model that is given stays where it is.
        device_map, dtype: of `from_pretrained`; dtype is that of the checkpoint by default, and
            float32 for the embedded model.
        torch_dtype: an older name of dtype.
        trust_remote_code: has no effect; files of models hold no code.
        model_kwargs: other arguments of `from_pretrained`.
        pipeline_class: a class of your own, derived from that of the task.
        **options: `batch_size`, and the options of the task for every call.

    Raises:
        InvalidInputError: for an unknown task or option, or a model without the head of the task.
        CheckpointError: if the model or its tokenizer cannot be found.
        MissingBackendError: if the framework is not installed.

    >>> from gpt2x import pipeline
    >>> write = pipeline("text-generation")
    >>> texts = write("Shall I compare thee", max_new_tokens=20)
    """
    if task is None and model is None:
        raise InvalidInputError(f"Give a task, a model or both; tasks are {', '.join(TASKS)}.")
    if task is not None:
        check_choice("task", task, TASKS)
    framework = _framework(framework, backend)
    where = {"revision": revision, "token": token}
    where = {name: value for name, value in where.items() if value is not None}
    dtype = torch_dtype if dtype is None else dtype
    if model is None:
        model, dtype = _default_model(task, tokenizer), dtype or "float32"
    is_name = isinstance(model, str | os.PathLike)
    if task is None:
        task = _task_of(model, config if config is not None else model, where)
    kind = pipeline_class or TASKS[task]
    if tokenizer is None:
        tokenizer = _own_name(model, config, is_name)
    if isinstance(tokenizer, str | os.PathLike):
        cls = GPT2TokenizerFast if use_fast else GPT2Tokenizer
        tokenizer = cls.from_pretrained(tokenizer, **where)
    if is_name:
        arguments: dict[str, Any] = where | dict(model_kwargs or {})
        if dtype is not None or "torch_dtype" not in arguments:
            arguments.setdefault("dtype", dtype or "auto")
        given = {"config": config, "device_map": device_map}
        arguments |= {name: value for name, value in given.items() if value is not None}
        framework = framework or backends.default()
        package = backends.load(framework, wanted_by="pipeline")
        name = backends.get(framework).prefix + kind.heads[0].value
        model = getattr(package, name).from_pretrained(model, **arguments)
        if device is None and device_map is None:
            device = 0
    return kind(model, tokenizer, framework=framework, task=task, device=device, **options)


def _framework(framework: str | None, backend: str | None) -> str | None:
    """Return the name of the framework that is asked for, if any."""
    if framework is not None and backend is not None and framework != backend:
        raise InvalidInputError(
            f"framework={framework!r} and backend={backend!r} are the same argument; give one."
        )
    asked = backend if framework is None else framework
    if asked is not None:
        check_choice("framework", asked, backends.BACKENDS)
    return asked


def _default_model(task: str | None, tokenizer: Any) -> Any:
    """Return the model of a task that is asked for without one."""
    if tokenizer is not None:
        raise InvalidInputError("A tokenizer is given without a model; give the model too.")
    if task != TextGenerationPipeline.name:
        raise InvalidInputError(
            f"{task} has no default model: pass model=, a folder, a name on the hub or a model."
        )
    return EMBEDDED_MODEL


def _task_of(model: Any, config: Any, where: Mapping[str, Any]) -> str:
    """Return the task that a model, or the one of this name, has a head for."""
    head = getattr(model, "head", None)
    if head is None:
        if not isinstance(config, GPT2Config):
            config = GPT2Config.from_pretrained(config, **where)
        names = config.architectures or []
    else:
        names = [head.architecture]
    for task, kind in TASKS.items():
        if any(head.architecture in names for head in kind.heads):
            return task
    raise InvalidInputError(
        f"The model does not say what it is for (architectures: {names}); give one of the tasks "
        f"{', '.join(TASKS)}."
    )


def _own_name(model: Any, config: Any, is_name: bool) -> Any:
    """Return where a model's tokenizer is to be found."""
    if is_name:
        return model
    if isinstance(config, str | os.PathLike):
        return config
    raise InvalidInputError(
        f"A {type(model).__name__} is given without its tokenizer; pass tokenizer=, a tokenizer or "
        "the folder or name of one."
    )
