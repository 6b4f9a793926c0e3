#!/usr/bin/env bash
# Train a model in half precision without a run that breaks off, as Mistral (Stanford) did.
#
#   bash examples/stable.sh TEXTS FOLDER [flags of gpt2x train lm]
#
# In half precision the scores of attention in late layers may grow beyond what it can hold. Two flags
# of the config, which every model of gpt2x has, keep them small: scores are divided by the number of
# the layer, and computed in float32.
set -euo pipefail
texts=$1 folder=$2
shift 2

gpt2x train lm --train-file "$texts" --output-dir "$folder" --bf16 \
	--config-overrides "${SHAPE:-n_layer=12},scale_attn_by_inverse_layer_idx=true,reorder_and_upcast_attn=true" \
	--learning-rate 6e-4 --warmup-steps "${WARMUP_STEPS:-4000}" --lr-scheduler-type cosine \
	--weight-decay 0.1 --adam-beta2 0.95 --max-grad-norm 1.0 --save-steps 1000 --resume "$@"

# The flags stand in the config, so the model is used as it was trained.
gpt2x info "$folder"
