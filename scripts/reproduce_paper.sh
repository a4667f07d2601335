#!/usr/bin/env bash
# The paper's protocol on Atari (Shi et al., CVPR 2021): six games in sequence, 10M steps each; BLIP, online EWC and
# fine-tuning with the PPO and the network of the authors' code; three seeds. Then the report and the leaderboard.
#
#     scripts/reproduce_paper.sh --rehearse OUT [OPTION]...   the same at 1/1000 of the steps; then time, memory and
#                                                             disk of all of it, by the rates of the rehearsal
#     scripts/reproduce_paper.sh --estimate OUT [OPTION]...   runs, memory and disk; writes nothing
#     scripts/reproduce_paper.sh OUT [OPTION]...              all of it
#
# The same command continues after an interruption. Options are those of `blip-rl sweep`, such as --jobs, --device,
# --seeds, --agents, --threads or --engine slurm.
#
# It is 9 × 60M = 540M steps. At 5,563 steps/s (one H200 and 16 cores, float32, docs/gpu.md) that is 27 hours of learning, at 183
# (one CPU core, docs/results/three-games.md) 34 days, and then the evaluations. The nine runs keep 3.9 GB, 4.7 GB on the
# way (by --estimate).
set -euo pipefail

mode=all
case ${1:-} in --estimate | --rehearse) mode=${1#--} && shift ;; esac
if [[ $# -eq 0 || $1 == -* ]]; then
  sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
out=$1
shift
plan=(--games atari6 --agents blip-reference,ewc-online,finetune --seeds 0-2)
# The authors' losses and network for every agent; the recipe of blip-reference has them already.
plan+=(--set trunk.task_modulation=false --set ppo.value_loss=max --set ppo.value_loss_scale=0.5)
plan+=(--set ppo.normalize_advantage=rollout)
whole=("${plan[@]}")
if [ "$mode" = rehearse ]; then
  plan+=(--steps 10k --set evaluation.episodes=1 --set evaluation.every_steps=10k --set evaluation.max_episode_steps=200)
fi
if [ "$mode" = estimate ]; then
  exec python -m blip_rl sweep "${plan[@]}" "$@" --out "$out" --dry-run
fi
python -m blip_rl sweep "${plan[@]}" "$@" --out "$out"
python -m blip_rl report "$out"
python "$(dirname "$0")/leaderboard.py" "$out" --out "$out/leaderboard.md"
[ "$mode" = all ] || python -m blip_rl sweep "${whole[@]}" "$@" --out "$out/all" --dry-run
