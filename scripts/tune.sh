#!/usr/bin/env bash
# Tuning runs of the default agent's study: settings of agents × three seeds, on a sequence that no reported run uses.
#     scripts/tune.sh SEQUENCE.toml OUT AGENT[:KEY=VALUE,KEY=VALUE] ...
# Finished runs are kept and unfinished ones resumed, so the same command continues after an interruption.
# SEEDS="100" limits the seeds. scripts/tuning_table.py OUT... prints the results.
set -euo pipefail
sequence=$1
out=$2
shift 2
stages=$(grep -c '^\[\[tasks\]\]' "$sequence")
for seed in ${SEEDS:-100 101 102}; do
  for job in "$@"; do
    agent=${job%%:*}
    settings=${job#"$agent"}
    settings=${settings#:}
    run=$out/$agent${settings:+-${settings//[=,]/-}}-seed$seed
    if [ -d "$run/checkpoints/stage-$(printf %02d "$stages")" ]; then
      continue
    elif [ -e "$run/config.toml" ]; then
      python -m blip_rl train --resume "$run" --quiet || exit
    else
      options=()
      IFS=, read -ra pairs <<<"$settings"
      for pair in "${pairs[@]}"; do options+=(--set "$pair"); done
      python -m blip_rl train --games "$sequence" --agent "$agent" --seed "$seed" --threads 1 --device cpu --quiet \
        --out "$run" --set evaluation.before_training=false "${options[@]}"
    fi
  done
done
