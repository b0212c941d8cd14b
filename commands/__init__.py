"""What may be asked of the book: frozen commands, and handlers that say which streams and which decision each needs."""
