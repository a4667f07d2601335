"""Play a game of a run with the agent of one of its stages, and print the return of each episode.

python examples/play.py runs/NAME --game kungfu --stage 2
"""

import argparse
import sys

import blip_rl as br


def main() -> None:
    parser = argparse.ArgumentParser(description="Play a game of a run with the agent of one of its stages.")
    parser.add_argument("run", help="run folder")
    parser.add_argument("--game", help="game of the run; by default the one learned last")
    parser.add_argument("--stage", type=int, help="number of the stage; by default the last")
    parser.add_argument("--episodes", type=int, default=3)
    chosen = parser.parse_args()

    try:
        agent = br.load(chosen.run).agent(stage=chosen.stage, game=chosen.game)
    except br.UserError as error:
        sys.exit(f"Error: {error}")
    for seed in range(chosen.episodes):
        env = agent.make_env(seed=seed)
        observations, score, over = env.reset(), 0.0, False
        while not over:
            actions, _ = agent.predict(observations)
            observations, rewards, dones, _ = env.step(actions)
            score, over = score + float(rewards[0]), bool(dones[0])
        env.close()
        print(f"{agent.game} after stage {agent.stage}, seed {seed}: {score:g}")


if __name__ == "__main__":
    main()
