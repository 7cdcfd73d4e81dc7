"""APIs of the HTTP server, one package each."""
