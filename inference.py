"""The door evaluators look for: an agent plays the seed tasks aloud. All of it is `eval.transcript`."""

import sys

from eval.transcript import main

if __name__ == "__main__":
    sys.exit(main())
