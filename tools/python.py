"Says in one sentence when this Python can't run protolab"
import sys

if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"{sys.executable} is Python {sys.version.split()[0]}; protolab needs 3.10 to 3.13: name another, for example `make PY=python3.12 setup`")
