"""The quick start's server: `python server.py --model resnet50 --num_rounds 10`. The same as `fedlens server`."""

from fedlens.cli.main import main

if __name__ == "__main__":
    main("server")
