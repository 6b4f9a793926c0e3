#!/usr/bin/env bash
# Train a model of another language, with a tokenizer of its own.
#
#   bash examples/language.sh TEXTS FOLDER [flags of gpt2x train lm]
#
# GPT-2's tokenizer was made of English: a word of another language is many tokens to it. One that is
# made of the language's own texts needs fewer, so a row of 1,024 tokens holds more text.
set -euo pipefail
texts=$1 folder=$2
shift 2

gpt2x tokenizer train "$texts" --vocab-size "${VOCAB_SIZE:-32000}" --output-dir "$folder/tokenizer"

# A new model of GPT-2's smallest size. --config-overrides n_layer=6,n_embd=384,n_head=6 is quicker.
gpt2x train lm --train-file "$texts" --output-dir "$folder" \
	--tokenizer-name "$folder/tokenizer" --config-overrides "${SHAPE:-n_layer=12}" \
	--validation-split-percentage 5 --eval-steps 500 \
	--learning-rate 6e-4 --lr-scheduler-type cosine --warmup-ratio 0.05 --min-lr-ratio 0.1 \
	--weight-decay 0.1 --adam-beta2 0.95 "$@"

# Perplexities of two tokenizers cannot be compared; bits per byte can.
gpt2x eval "$texts" --model "$folder"
