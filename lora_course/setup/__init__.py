"""Installing, checking and running the course."""
