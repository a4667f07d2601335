#!/usr/bin/env bash
# Tuning runs of the default agent's study: settings of agents × three seeds, on a sequence that no reported run uses.
#     scripts/tune.sh OUT AGENT[:KEY=VALUE] ...
# Finished runs are kept and unfinished ones resumed, so the same command continues after an interruption.
set -euo pipefail
out=$1
shift
sequence=$(dirname "$0")/../docs/results/default-agent/cartpole4-tuning.toml
for seed in 100 101 102; do
  for job in "$@"; do
    agent=${job%%:*}
    setting=${job#"$agent"}
    setting=${setting#:}
    name=${setting##*.}
    run=$out/$agent${name:+-${name//=/-}}-seed$seed
    if [ -d "$run/checkpoints/stage-04" ]; then
      continue
    elif [ -e "$run/config.toml" ]; then
      python -m blip_rl train --resume "$run" --quiet
    else
      python -m blip_rl train --games "$sequence" --agent "$agent" --seed "$seed" --threads 1 --device cpu --quiet \
        --out "$run" --set evaluation.every_steps=60k ${setting:+--set "$setting"}
    fi
  done
done
