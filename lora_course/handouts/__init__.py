"""Programs that write one page each: a voice."""
