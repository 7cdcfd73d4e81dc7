"""The HTTP server: sockets, guard, model pool, generation, and the app that mounts the frontends."""
