#!/usr/bin/env bash
# Fine-tune a model on a style: lyrics, tweets, letters.
#
#   bash examples/style.sh TEXTS FOLDER [flags of gpt2x train lm]
#
# TEXTS is a text file, or JSON lines with a field "text", one record for each song or tweet.
set -euo pipefail
texts=$1 folder=$2
shift 2

# A small learning rate and few epochs: the model knows its language, and learns the style. A tenth
# of the texts is held back; training ends when their loss gets worse, and the best model is kept.
gpt2x train lm --train-file "$texts" --output-dir "$folder" \
	--validation-split-percentage 10 --eval-steps 50 --early-stopping-patience 3 \
	--learning-rate 5e-5 --warmup-ratio 0.1 --num-train-epochs 3 "$@"

gpt2x generate "I was" --model "$folder" --seed 1 --max-new-tokens 40
