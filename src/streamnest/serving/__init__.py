"""Recognition for many concurrent streams, over a WebSocket and HTTP."""
