#!/bin/sh
# loopy: poll="5s" emits="FileArrived" on_change="true"
# Looks into the folder `inbox`. Each turn says all that is there; a file that the turn
# before said as well is no event.
for file in inbox/*; do
  [ -f "$file" ] || continue
  printf '{"name": "%s", "lines": %d}\n' "$(basename "$file")" "$(wc -l < "$file")"
done
