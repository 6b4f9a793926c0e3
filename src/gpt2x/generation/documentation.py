"""The docstring of `generate`, the same in the three backends."""

#: Formatted with `processors`, the call of users' processors; `generator`, the source of seeds; and
#: `more`, further arguments of a backend.
GENERATING = """
Args:
    inputs: token ids of the prompts, int [B, T]; also as `input_ids=`. Padding on the right is
        moved to the left, in the result too; inside a traced function it must already be on the
        left. None or [B, 0] starts from bos.
    generation_config: how to decode; by default the model's own. Its fields may also be keywords,
        which win.
    logits_processor: functions ``{processors}``,
        which come after the built-in ones; one of a built-in class replaces the built-in one.
    stopping_criteria: functions ``(input_ids, scores) -> bool [R]`` that end rows.
    prefix_allowed_tokens_fn: ``(prompt index, tokens [length]) -> allowed token ids``.
    negative_prompt_ids, negative_prompt_attention_mask: int [B or 1, T'] each, the second context
        of `guidance_scale`; by default the last token of each prompt.
    assistant_model: a smaller model of this framework and tokenizer, which drafts the tokens that
        this one checks (see docs/generation.md, "Speculation").
    synced_gpus: whether each process runs the model until all are done, for models whose parameters
        are spread over processes. PyTorch only.
    custom_generate: a function that decodes in place of the strategies (see docs/generation.md, "A
        loop of your own").
    streamer: an object with `put` and `end` (see `gpt2x.generation.streamers`), or a function of
        each step's tokens. Not for beam search.
    use_model_defaults: see `gpt2x.generation.plan.resolve_config`.
    seed: makes sampling repeatable, in every backend and every batch: row r draws from stream
        (seed, r); a list gives each row its own (seed, row). None draws a seed from
        {generator}.
    tokenizer: needed by `stop_strings`, `token_healing` and a grammar.
    regex, json_schema, choices, grammar: one of these, for the new text to match as a whole
        (`pip install "gpt2x[guided]"`): a regular expression; a JSON schema, as a dict or as text;
        a list of strings; or a grammar in llguidance's dialect of Lark. A text that `max_length`
        cuts is only the beginning of one that matches.
    batch_size: the most prompts to run at once; by default as many as fit into memory by an
        estimate. The result is that of one call, but has no `past_key_values`. Not with a
        streamer.{more}
    **kwargs: fields of the config, and arguments of the model: `attention_mask` [B, T] (1 for text,
        0 for padding; by default 0 where the prompt holds `pad_token_id`, if that is not an eos),
        `inputs_embeds` [B, T, E] (the result then holds new tokens only, unless ids are given too),
        `past_key_values` (the prompt must have the whole text), `position_ids`, `token_type_ids`,
        `encoder_hidden_states` ...

Returns:
    Token ids, int [B x num_return_sequences, length], prompts included; rows that end early are
    filled with `pad_token_id` (or the first eos). With `return_dict_in_generate`, a
    `GenerateDecoderOnlyOutput` or `GenerateBeamDecoderOnlyOutput`; in TensorFlow and Flax their
    names begin with `TF` or `Flax`.

Raises:
    InvalidInputError: before anything is computed, if an argument is unknown, or cannot be used
        with the others or with this prompt.
"""

#: The docstring of `heal_tokens`.
HEALING = """
Args:
    input_ids: token ids of the prompts, int [B, T]. Pad on the left: a row that ends in padding
        stays as it is.
    tokenizer: the model's.

Returns:
    Token ids of the prompts encoded again, int [B, new T]; see `gpt2x.generation.healing.heal`.

Raises:
    InvalidInputError: if there is no tokenizer, or it has no pad token and the prompts need one.
"""
