#!/usr/bin/env bash
# tools/step.sh NAME COMMAND...: run one step of `make test` under a heading. pytest says its own time, and last.
name=$1; shift
echo "== $name"
start=$SECONDS
"$@"; code=$?
if [ "$name" != tests ] || [ $code != 0 ]; then echo "== $name: $((SECONDS - start)) s, $([ $code = 0 ] && echo passed || echo "FAILED")"; fi
exit $code
