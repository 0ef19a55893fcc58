#!/bin/sh
# Disk.
# loopy: poll="5m" emits="Ping" verify="none"
echo "{}"
