#!/usr/bin/python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""ranks.py - start a script as N processes that meet over a file.

    ranks.py N SCRIPT ARGS...

Sets RANK, WORLD_SIZE, MEETING (a file:// address for init_process_group) and BEGAN (seconds since
1970, when this launcher started).  Imports nothing heavy, so that it costs the peers nothing.
"""
import os
import subprocess
import sys
import tempfile
import time


def main():
    world = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "WORLD_SIZE": str(world), "BEGAN": repr(time.time()),
               "MEETING": "file://" + os.path.join(folder, "meeting"), "GLOO_SOCKET_IFNAME": "lo"}
        ranks = [subprocess.Popen([sys.executable, *sys.argv[2:]], env={**env, "RANK": str(rank)})
                 for rank in range(world)]
        return max(abs(rank.wait()) for rank in ranks)


if __name__ == "__main__":
    sys.exit(main())
