#!/usr/bin/env bash
# Train a model of code from scratch, as CodeParrot was trained.
#
#   bash examples/code.sh CODE FOLDER [flags of gpt2x train lm]
#
# CODE is JSON lines with the text of a source file in the field "content".
set -euo pipefail
code=$1 folder=$2
shift 2

# Code has long runs of spaces and its own words, so it gets a tokenizer of its own.
gpt2x tokenizer train "$code" --text-column content \
	--vocab-size "${VOCAB_SIZE:-32768}" --output-dir "$folder/tokenizer"

# CodeParrot small: 12 layers; files joined by the end-of-text token and cut into rows; a cosine with
# 2,000 steps of warm-up, weight decay of 0.1, rows of 192 sequences a step.
gpt2x train lm --train-file "$code" --text-column content --output-dir "$folder" \
	--tokenizer-name "$folder/tokenizer" \
	--config-overrides "${SHAPE:-n_layer=12,scale_attn_by_inverse_layer_idx=true,reorder_and_upcast_attn=true}" \
	--per-device-train-batch-size 12 --gradient-accumulation-steps 16 \
	--learning-rate 5e-4 --lr-scheduler-type cosine --warmup-steps 2000 --weight-decay 0.1 \
	--max-steps 50000 --save-steps 1000 --resume "$@"

gpt2x generate "def " --model "$folder" --seed 1 --max-new-tokens 40
