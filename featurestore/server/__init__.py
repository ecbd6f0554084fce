"""`fs serve`: features over HTTP. Nothing here is imported before a server starts; it needs `featurestore[server]`."""
