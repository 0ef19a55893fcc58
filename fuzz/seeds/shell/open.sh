# loopy: webhook="/x" emits="Pong
