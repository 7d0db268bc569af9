"""python -m sageacc: the command line."""

from ._binary import main

if __name__ == "__main__":
    main()
