"""Programs that write one page each: the cheat sheet, a voice, what the doctor for adapters saw."""
