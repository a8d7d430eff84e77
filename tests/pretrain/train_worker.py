"""One process of a run, for tests: `python train_worker.py EXPERIMENT FOLDER '{"steps": 3}'`."""

import json
import os
import sys

if __name__ == "__main__":
    from gesso.configs import experiment
    from gesso.pretrain.session import run

    name, folder, overrides = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    result = run(experiment(name, overrides), folder=folder)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(result.status)
