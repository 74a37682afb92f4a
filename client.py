"""The quick start's client: `python client.py --data_dir ./data/client1 --partition_id 0`.

The same as `fedlens client`.
"""

from fedlens.cli.main import main

if __name__ == "__main__":
    main("client")
