#!/bin/bash
# A run that outlives its time limit: Slurm signals it, it saves itself and is queued again until it is finished.
#
#   sbatch scripts/slurm.sh runs/atari6-blip --games atari6 --agent blip
#
# The first word is the run's folder, which must be new the first time; the rest is what `blip-rl train` takes, without
# --out. A job that Slurm requeues by itself, after a node failure or a preemption, continues from the last snapshot too.
#
#SBATCH --job-name=blip-rl
#SBATCH --time=04:00:00
#SBATCH --cpus-per-task=16
#SBATCH --gpus=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@300
# Five minutes before the limit, to the job's steps (srun): enough for the update that is under way, and for saving.

set -u
run=${1:?usage: sbatch slurm.sh RUN [what blip-rl train takes]}
shift
# Fixed, because a run on another number of threads is another run.
threads=${SLURM_CPUS_PER_TASK:-1}
launch=()
command -v srun >/dev/null && launch=(srun --ntasks=1)

if [ -f "$run/config.toml" ]; then
  "${launch[@]}" blip-rl train --resume "$run" --finished-ok &
else
  # Also where a run was killed before it had written its recipe.
  "${launch[@]}" blip-rl train "$@" --out "$run" --threads "$threads" &
fi
training=$!
# In the background, because bash would hear a signal only after the command in front of it. Without srun, or with
# --signal=B:USR1@300, the signal comes to this script and is passed on.
trap 'signalled=yes; kill -USR1 "$training"' USR1
trap 'signalled=yes; kill -TERM "$training"' TERM
signalled=yes
while [ "$signalled" ]; do # a signal ends the wait, not the training
  signalled=
  wait "$training"
  code=$?
done

case $code in
  138 | 143) # saved, and stopped by SIGUSR1 or SIGTERM
    if [ "${SLURM_JOB_ID:-}" ]; then
      scontrol requeue "$SLURM_JOB_ID"
    else
      printf 'stopped; to continue: %q %q\n' "$0" "$run" >&2
      exit "$code"
    fi
    ;;
  *) exit "$code" ;;
esac
